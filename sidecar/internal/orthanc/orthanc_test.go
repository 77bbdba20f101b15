package orthanc_test

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/tests/orthanctest"
)

// unknown looks like an identifier and belongs to nothing.
const unknown = "00000000-00000000-00000000-00000000-00000001"

func newClient(t *testing.T, s *orthanctest.Server, change ...func(*orthanc.Options)) *orthanc.Client {
	t.Helper()
	o := orthanc.Options{URL: s.URL, Username: s.Username, Password: s.Password, Timeout: 10 * time.Second}
	for _, f := range change {
		f(&o)
	}
	c, err := orthanc.New(o)
	require.NoError(t, err)
	return c
}

func upload(t *testing.T, s *orthanctest.Server, f orthanctest.File) string {
	t.Helper()
	id, err := s.Upload(t.Context(), f.Bytes())
	require.NoError(t, err)
	return id
}

func remove(t *testing.T, s *orthanctest.Server, path string) {
	t.Helper()
	status, answer, err := s.Do(t.Context(), "DELETE", path, nil)
	require.NoError(t, err)
	require.Equal(t, 200, status, "%s", answer)
}

func TestSystem(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s := orthanctest.New(t, orthanctest.Config{Version: version, Name: "archive", AET: "ARCHIVE", Extra: map[string]any{
			"CheckRevisions": true, "OverwriteInstances": true,
		}})
		got, err := newClient(t, s).System(t.Context())
		require.NoError(t, err)
		require.Equal(t, s.Version, got.Version)
		require.Equal(t, "archive", got.Name)
		require.Equal(t, "ARCHIVE", got.DicomAet)
		require.True(t, got.HasLabels)
		require.True(t, got.CheckRevisions)
		require.True(t, got.ExtendedChanges)
		require.Equal(t, "Always", got.OverwriteInstances)
		require.Equal(t, 5110, got.UserMetadata["BodyPart"])
		require.Equal(t, version == "1.13", got.KeepsUserData())
		require.GreaterOrEqual(t, got.APIVersion, 27)

		s = orthanctest.New(t, orthanctest.Config{Version: version, Extra: map[string]any{"OverwriteInstances": false}})
		got, err = newClient(t, s).System(t.Context())
		require.NoError(t, err)
		require.False(t, got.CheckRevisions)
		require.Equal(t, "Never", got.OverwriteInstances)
	})
}

func TestVersions(t *testing.T) {
	for version, newer := range map[string]bool{
		"1.12.8": false, "1.12.9": true, "1.12.10": true, "1.13.0": true, "2.0": true, "1.12": false, "mainline": true, "0.9.9": false,
	} {
		require.Equal(t, newer, orthanc.System{Version: version}.KeepsUserData(), version)
	}
}

func TestChanges(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		ctx := t.Context()
		s := orthanctest.New(t, orthanctest.Config{Version: version})
		c := newClient(t, s)
		last, err := c.LastChange(ctx)
		require.NoError(t, err)
		require.Zero(t, last)
		page, err := c.Changes(ctx, 0, 10)
		require.NoError(t, err)
		require.True(t, page.Done)
		require.Empty(t, page.Changes)

		ids := make([]string, 5)
		for i := range ids {
			ids[i] = upload(t, s, orthanctest.File{})
		}
		var seen []string
		for since := int64(0); ; {
			page, err = c.Changes(ctx, since, 2, orthanc.NewInstance)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page.Changes), 2)
			for _, change := range page.Changes {
				require.Equal(t, orthanc.NewInstance, change.ChangeType)
				require.Equal(t, "Instance", change.ResourceType)
				require.Greater(t, change.Seq, since)
				at, err := orthanc.ParseTime(change.Date)
				require.NoError(t, err)
				require.WithinDuration(t, time.Now(), at, time.Minute)
				seen = append(seen, change.ID)
			}
			since = page.Last
			if page.Done {
				break
			}
		}
		require.Equal(t, ids, seen)

		// Two types at once: 1.12 takes no percent-encoded semicolon.
		page, err = c.Changes(ctx, 0, 100, orthanc.NewInstance, orthanc.NewStudy)
		require.NoError(t, err)
		require.Len(t, page.Changes, 10)

		// Under a filter without a hit, the cursor still comes to the end.
		last, err = c.LastChange(ctx)
		require.NoError(t, err)
		page, err = c.Changes(ctx, page.Last, 100, orthanc.StableStudy)
		require.NoError(t, err)
		require.Equal(t, last, page.Last)
		require.Zero(t, page.First)

		// The rows of what is deleted vanish.
		remove(t, s, "/instances/"+ids[0])
		page, err = c.Changes(ctx, 0, 100, orthanc.NewInstance)
		require.NoError(t, err)
		require.Len(t, page.Changes, 4)
	})
}

func TestResources(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		ctx := t.Context()
		// In a time zone nine hours away: what Orthanc writes is UTC all the same.
		s := orthanctest.New(t, orthanctest.Config{Version: version, Env: []string{"TZ=Asia/Tokyo"}})
		c := newClient(t, s)
		study := orthanctest.NewUID()
		series := orthanctest.NewUID()
		first := upload(t, s, orthanctest.File{StudyUID: study, SeriesUID: series})
		second := upload(t, s, orthanctest.File{StudyUID: study, SeriesUID: series})
		ct := upload(t, s, orthanctest.File{SOPClass: orthanctest.CT, Modality: "CT", StudyUID: study})

		i, err := c.Instance(ctx, first)
		require.NoError(t, err)
		require.Equal(t, first, i.ID)
		require.True(t, orthanc.ValidID(i.ParentSeries))
		require.True(t, orthanc.ValidID(i.ParentStudy))
		require.Equal(t, orthanctest.DigitalXRay, i.Metadata["SopClassUid"])
		require.Equal(t, "1.2.840.10008.1.2.1", i.Metadata["TransferSyntax"])
		require.Equal(t, "RestApi", i.Metadata["Origin"])
		require.Equal(t, "test", i.Metadata["HttpUsername"])
		require.Positive(t, i.FileSize)
		at, err := orthanc.ReceivedAt(i)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), at, time.Minute)
		_, err = orthanc.ReceivedAt(orthanc.Instance{ID: first})
		require.ErrorContains(t, err, first)

		many, err := c.Instances(ctx, []string{first, unknown, ct, second})
		require.NoError(t, err)
		require.ElementsMatch(t, []string{first, second, ct}, []string{many[0].ID, many[1].ID, many[2].ID}) // one is gone: absent
		for _, m := range many {
			require.Equal(t, i.ParentStudy, m.ParentStudy)
		}
		none, err := c.Instances(ctx, []string{unknown})
		require.NoError(t, err)
		require.Empty(t, none)
		none, err = c.Instances(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, none)

		require.NoError(t, c.PutLabel(ctx, orthanc.LevelSeries, i.ParentSeries, "bodypart-spine"))
		require.NoError(t, c.PutMetadata(ctx, orthanc.LevelStudy, i.ParentStudy, 5113, "marker", ""))
		se, err := c.Series(ctx, i.ParentSeries)
		require.NoError(t, err)
		require.Equal(t, "DX", se.Modality)
		require.Equal(t, i.ParentStudy, se.ParentStudy)
		require.ElementsMatch(t, []string{first, second}, se.Instances)
		require.Equal(t, []string{"bodypart-spine"}, se.Labels)
		st, err := c.Study(ctx, i.ParentStudy)
		require.NoError(t, err)
		require.Len(t, st.Series, 2)
		require.Empty(t, st.Labels)
		require.Equal(t, "marker", st.Metadata["BodyPartMarker"])
		allSeries, err := c.SeriesMany(ctx, append(st.Series, unknown))
		require.NoError(t, err)
		require.Len(t, allSeries, 2)
		studies, err := c.Studies(ctx, []string{i.ParentStudy, unknown})
		require.NoError(t, err)
		require.Len(t, studies, 1)

		_, err = c.Instance(ctx, unknown)
		require.True(t, orthanc.IsNotFound(err))
		require.ErrorContains(t, err, "/instances/"+unknown)
		_, err = c.Series(ctx, unknown)
		require.True(t, orthanc.IsNotFound(err))
		_, err = c.Study(ctx, unknown)
		require.True(t, orthanc.IsNotFound(err))
	})
}

// What a worklist leaves in nearly every X-ray: a sequence that Orthanc counts among the main DICOM tags of the series.
func TestASequenceAmongTheMainTags(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		ctx := t.Context()
		s := orthanctest.New(t, orthanctest.Config{Version: version})
		c := newClient(t, s)
		status, answer, err := s.Do(ctx, "POST", "/tools/create-dicom", map[string]any{"Tags": map[string]any{
			"SOPClassUID": orthanctest.DigitalXRay, "Modality": "DX",
			"RequestAttributesSequence": []any{map[string]any{"ScheduledProcedureStepID": "1"}},
		}})
		require.NoError(t, err)
		require.Equal(t, 200, status, "%s", answer)
		var created struct{ ID string }
		require.NoError(t, json.Unmarshal(answer, &created))

		i, err := c.Instance(ctx, created.ID)
		require.NoError(t, err)
		var raw struct{ MainDicomTags map[string]any }
		require.NoError(t, s.GetJSON(ctx, "/series/"+i.ParentSeries, &raw))
		require.IsType(t, []any{}, raw.MainDicomTags["RequestAttributesSequence"], "Orthanc gives no sequence any more: this test tests nothing")
		series, err := c.Series(ctx, i.ParentSeries)
		require.NoError(t, err)
		require.Equal(t, "DX", series.Modality)
		_, err = c.Study(ctx, i.ParentStudy)
		require.NoError(t, err)
	})
}

// One bulk request holds 500; a folder of a thousand and more takes several, and loses none.
func TestManyInstancesAtOnce(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s := orthanctest.New(t, orthanctest.Config{Version: version})
		c := newClient(t, s)
		id := upload(t, s, orthanctest.File{})
		ids := make([]string, 1100)
		for i := range ids {
			ids[i] = "00000000-00000000-00000000-00000000-" + strings.Repeat("0", 8-len(strconv.Itoa(i))) + strconv.Itoa(i)
		}
		ids[1050] = id
		found, err := c.Instances(t.Context(), ids)
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, id, found[0].ID)
	})
}

func TestIdentifiersAreCheckedBeforeAURLIsBuilt(t *testing.T) {
	c, err := orthanc.New(orthanc.Options{URL: "http://127.0.0.1:1"}) // nobody listens: a request would be another error
	require.NoError(t, err)
	ctx := context.Background()
	for _, id := range []string{"", "x", "../system", unknown + "/x", strings.ToUpper("abcdef00-00000000-00000000-00000000-00000001"), unknown[1:], "0" + unknown[1:8] + "_" + unknown[9:]} {
		calls := map[string]func() error{
			"Instance":       func() error { _, err := c.Instance(ctx, id); return err },
			"Instances":      func() error { _, err := c.Instances(ctx, []string{unknown, id}); return err },
			"Series":         func() error { _, err := c.Series(ctx, id); return err },
			"Study":          func() error { _, err := c.Study(ctx, id); return err },
			"AttachmentMD5":  func() error { _, err := c.AttachmentMD5(ctx, id); return err },
			"File":           func() error { _, err := c.File(ctx, id); return err },
			"FileTranscoded": func() error { _, err := c.FileTranscoded(ctx, id, "1.2.840.10008.1.2.1"); return err },
			"Metadata":       func() error { _, _, _, err := c.Metadata(ctx, orthanc.LevelStudy, id, 5110); return err },
			"PutMetadata":    func() error { return c.PutMetadata(ctx, orthanc.LevelStudy, id, 5110, "", "") },
			"DeleteMetadata": func() error { return c.DeleteMetadata(ctx, orthanc.LevelStudy, id, 5110, "") },
			"Labels":         func() error { _, err := c.Labels(ctx, orthanc.LevelStudy, id); return err },
			"PutLabel":       func() error { return c.PutLabel(ctx, orthanc.LevelStudy, id, "a") },
			"DeleteLabel":    func() error { return c.DeleteLabel(ctx, orthanc.LevelStudy, id, "a") },
			"StoreToPeer":    func() error { _, err := c.StoreToPeer(ctx, "p", orthanc.Shipment{Resources: []string{id}}); return err },
			"Job":            func() error { _, err := c.Job(ctx, id); return err },
		}
		for name, call := range calls {
			require.ErrorIs(t, call(), orthanc.ErrInvalidID, "%s(%q)", name, id)
		}
	}
	require.ErrorContains(t, c.PutLabel(ctx, orthanc.LevelStudy, unknown, "a.b"), "cannot be a label")
	_, err = c.FileTranscoded(ctx, unknown, "1.2&x=1")
	require.ErrorContains(t, err, "not a UID")
	require.True(t, orthanc.ValidID(unknown))
}
