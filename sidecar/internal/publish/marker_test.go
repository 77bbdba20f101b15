package publish

import (
	"database/sql"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// A broken proxy answers the question for the marker with a page of its own: the marker is set all the same. No Orthanc can be made to say that.
func TestNonsenseIsNoMarker(t *testing.T) {
	const instance, study = "11111111-11111111-11111111-11111111-11111111", "22222222-22222222-22222222-22222222-22222222"
	var puts []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			puts = append(puts, r.URL.Path)
		case strings.HasSuffix(r.URL.Path, "/labels"):
			_, _ = w.Write([]byte("[]"))
		default:
			_, _ = w.Write([]byte("<html>maintenance</html>"))
		}
	}))
	defer server.Close()
	client, err := orthanc.New(orthanc.Options{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "router.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	err = s.Tx(t.Context(), func(tx *sql.Tx) error {
		if _, err := s.Mark(t.Context(), tx, instance, store.SourceHook); err != nil {
			return err
		}
		if err := s.PutResult(t.Context(), tx, bodypart.Result{Prediction: bodypart.Prediction{Class: bodypart.Spine, Confidence: 1}, InstanceID: instance, ContentMD5: "m", Model: "net@1"}); err != nil {
			return err
		}
		_, err := s.Classified(t.Context(), tx, instance, 1, store.Content{StudyID: study, SeriesID: study, FileUUID: "f", MD5: "m", Model: "net@1"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &Publisher{Orthanc: client, Store: s, Prefix: "bodypart-", Levels: []orthanc.Level{orthanc.LevelStudy}, Numbers: Numbers{BodyPart: 5110, Result: 5111, Marker: 5113}}
	if err := p.Resource(t.Context(), orthanc.LevelStudy, study); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(puts, "/studies/"+study+"/metadata/5113") || !slices.Contains(puts, "/studies/"+study+"/labels/bodypart-spine") {
		t.Errorf("written: %v", puts)
	}
}
