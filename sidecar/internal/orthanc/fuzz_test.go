package orthanc

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// FuzzAnswer gives every call that reads an answer that no Orthanc would give. It fails without repeating a text of the answer, or returns
// resources whose identifiers are some, since these become parts of addresses and of files' names.
func FuzzAnswer(f *testing.F) {
	const id = "11111111-22222222-33333333-44444444-55555555"
	for _, body := range []string{
		`[{"ID":"` + id + `","ParentSeries":"` + id + `","ParentStudy":"` + id + `","MainDicomTags":{"PatientName":"QZX"},"Metadata":{"ReceptionDate":"QZX"},"Labels":["QZX"],"Instances":["` + id + `"],"Series":["` + id + `"]}]`,
		`[{"ID":"../QZX","ParentSeries":"` + id + `","ParentStudy":"` + id + `","Instances":["QZX"]}]`, `{"UncompressedMD5":"QZX"}`, `{"UncompressedMD5":5}`,
		`{"ID":"QZX","Content":{"InstancesCount":"QZX","FailedInstancesCount":-1e300},"UserData":{"a":"QZX"},"State":"QZX"}`,
		`{"Version":"QZX","UserMetadata":{"QZX":"QZX"},"OverwriteInstances":["QZX"]}`, `{"Version":"1.-5","ApiVersion":"QZX"}`, `["QZX",5]`, `{"0010,0010":"QZX","0040,0275":[{}]}`,
		`{"CountInstances":"QZX"}`, `{"QZX":{"Timeout":"QZX"}}`, `null`, `[null]`, ``, `"QZX"`, `{"Changes":[{"Seq":"QZX"}]}`,
	} {
		f.Add([]byte(body), false)
		f.Add([]byte(body), true)
	}
	var body atomic.Pointer[[]byte]
	var status atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write(*body.Load())
	}))
	f.Cleanup(server.Close)
	c, err := New(Options{URL: server.URL, MaxFile: 1 << 16})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, answer []byte, gone bool) {
		body.Store(&answer)
		status.Store(http.StatusOK)
		if gone {
			status.Store(http.StatusNotFound)
		}
		var ids []string
		for name, call := range map[string]func(ctx context.Context) error{
			"Instances": func(ctx context.Context) error {
				all, err := c.Instances(ctx, []string{id})
				for _, i := range all {
					ids = append(ids, i.ID, i.ParentSeries, i.ParentStudy)
					i.IsCopy()
					if _, err := ReceivedAt(i); err != nil && strings.Contains(err.Error(), "QZX") {
						t.Errorf("the error repeats metadata: %v", err)
					}
				}
				return err
			},
			"Series": func(ctx context.Context) error {
				s, err := c.Contents(ctx, LevelSeries, id)
				ids = append(append(ids, s.Instances...), s.StudyID)
				return err
			},
			"Study": func(ctx context.Context) error {
				s, err := c.Contents(ctx, LevelStudy, id)
				ids = append(ids, s.Instances...)
				return err
			},
			"Changes": func(ctx context.Context) error { _, err := c.Changes(ctx, 0, 10, NewInstance); return err },
			"System":  func(ctx context.Context) error { s, err := c.System(ctx); s.KeepsUserData(); return err },
			"Tags":    func(ctx context.Context) error { _, err := c.Tags(ctx, id); return err },
			"MD5":     func(ctx context.Context) error { _, err := c.AttachmentMD5(ctx, id); return err },
			"File":    func(ctx context.Context) error { _, err := c.File(ctx, id); return err },
			"Labels":  func(ctx context.Context) error { _, err := c.Labels(ctx, LevelStudy, id); return err },
			"Metadata": func(ctx context.Context) error {
				_, _, _, err := c.Metadata(ctx, LevelStudy, id, 1024)
				return err
			},
			"Peers":      func(ctx context.Context) error { _, err := c.Peers(ctx); return err },
			"Modalities": func(ctx context.Context) error { _, err := c.Modalities(ctx); return err },
			"Statistics": func(ctx context.Context) error { _, err := c.StudyInstances(ctx, id); return err },
			"Jobs": func(ctx context.Context) error {
				all, err := c.Jobs(ctx)
				for _, j := range all {
					j.Instances()
					j.FailedInstances()
				}
				return err
			},
		} {
			// What Orthanc says of an error of its own is repeated; what else an answer holds is not.
			if err := call(t.Context()); err != nil && !gone && strings.Contains(strings.ToUpper(err.Error()), "QZX") {
				t.Errorf("%s: the error repeats the answer: %v", name, err)
			}
		}
		for _, found := range ids {
			if found != "" && !ValidID(found) {
				t.Errorf("%q was taken for an identifier", found)
			}
		}
	})
}
