package orthanc_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/tests/orthanctest"
)

func TestMetadata(t *testing.T) {
	for _, revisions := range []bool{false, true} {
		name := "without revisions"
		if revisions {
			name = "with CheckRevisions"
		}
		t.Run(name, func(t *testing.T) {
			orthanctest.Each(t, func(t *testing.T, version string) { testMetadata(t, version, revisions) })
		})
	}
}

func testMetadata(t *testing.T, version string, revisions bool) {
	t.Helper()
	const number = 5111
	ctx := t.Context()
	s := orthanctest.New(t, orthanctest.Config{Version: version, Extra: map[string]any{"CheckRevisions": revisions}})
	c := newClient(t, s)
	id := upload(t, s, orthanctest.File{})
	instance, err := c.Instance(ctx, id)
	require.NoError(t, err)

	for level, resource := range map[orthanc.Level]string{
		orthanc.LevelInstance: id, orthanc.LevelSeries: instance.ParentSeries, orthanc.LevelStudy: instance.ParentStudy,
	} {
		_, found, _, err := c.Metadata(ctx, level, resource, number)
		require.NoError(t, err)
		require.False(t, found)

		text := `{"class":"spine","note":"Grüße"}`
		require.NoError(t, c.PutMetadata(ctx, level, resource, number, text, ""))
		value, found, etag, err := c.Metadata(ctx, level, resource, number)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, text, value)
		require.NotEmpty(t, etag)

		// With the ETag that was read it is changed, with the one before never; with none, only where revisions are not checked.
		require.NoError(t, c.PutMetadata(ctx, level, resource, number, "second", etag))
		stale := c.PutMetadata(ctx, level, resource, number, "third", etag)
		bare := c.PutMetadata(ctx, level, resource, number, "fourth", "")
		value, _, etag, err = c.Metadata(ctx, level, resource, number)
		require.NoError(t, err)
		require.True(t, orthanc.IsConflict(stale), "%v", stale)
		if revisions {
			require.True(t, orthanc.IsConflict(bare), "%v", bare)
			require.Equal(t, "second", value)
			require.True(t, orthanc.IsConflict(c.DeleteMetadata(ctx, level, resource, number, "")))
		} else {
			require.NoError(t, bare)
			require.Equal(t, "fourth", value)
		}
		require.NoError(t, c.DeleteMetadata(ctx, level, resource, number, etag))
		_, found, _, err = c.Metadata(ctx, level, resource, number)
		require.NoError(t, err)
		require.False(t, found)
		require.NoError(t, c.DeleteMetadata(ctx, level, resource, number, etag), "what is not there is as good as deleted")

		// A resource that is gone is another kind of 404 than a value that is missing.
		_, _, _, err = c.Metadata(ctx, level, unknown, number)
		require.True(t, orthanc.IsNotFound(err))
		require.True(t, orthanc.IsNotFound(c.PutMetadata(ctx, level, unknown, number, "x", "")))
		require.True(t, orthanc.IsNotFound(c.DeleteMetadata(ctx, level, unknown, number, etag)))
	}
	// Orthanc's own numbers are not ours to write.
	require.True(t, orthanc.IsDenied(c.PutMetadata(ctx, orthanc.LevelInstance, id, 2, "x", "")))
}

func TestLabels(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		ctx := t.Context()
		s := orthanctest.New(t, orthanctest.Config{Version: version})
		c := newClient(t, s)
		instance, err := c.Instance(ctx, upload(t, s, orthanctest.File{}))
		require.NoError(t, err)
		study := instance.ParentStudy

		labels, err := c.Labels(ctx, orthanc.LevelStudy, study)
		require.NoError(t, err)
		require.Empty(t, labels)
		long := strings.Repeat("x", 64)
		for _, label := range []string{"bodypart-spine", "bodypart-spine", "a_human", long} {
			require.NoError(t, c.PutLabel(ctx, orthanc.LevelStudy, study, label))
		}
		labels, err = c.Labels(ctx, orthanc.LevelStudy, study)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"bodypart-spine", "a_human", long}, labels)
		require.NoError(t, c.DeleteLabel(ctx, orthanc.LevelStudy, study, "bodypart-spine"))
		require.NoError(t, c.DeleteLabel(ctx, orthanc.LevelStudy, study, "bodypart-spine"), "deleting twice")
		labels, err = c.Labels(ctx, orthanc.LevelStudy, study)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"a_human", long}, labels)

		_, err = c.Labels(ctx, orthanc.LevelStudy, unknown)
		require.True(t, orthanc.IsNotFound(err))
		require.True(t, orthanc.IsNotFound(c.PutLabel(ctx, orthanc.LevelStudy, unknown, "a")))
		require.True(t, orthanc.IsNotFound(c.DeleteLabel(ctx, orthanc.LevelStudy, unknown, "a")))

		// Our own check and Orthanc's agree on what can be a label.
		for label, valid := range map[string]bool{"a": true, "A-Z_09": true, "": false, "a.b": false, "a b": false, "ä": false, long: true, long + "x": false} {
			require.Equal(t, valid, orthanc.ValidLabel(label), label)
			if label != "" && !strings.Contains(label, " ") {
				status, _, err := s.Do(ctx, "PUT", "/studies/"+study+"/labels/"+label, "")
				require.NoError(t, err)
				require.Equal(t, valid, status == 200, label)
			}
		}
	})
}
