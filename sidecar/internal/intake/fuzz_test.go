package intake

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/metrics"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// FuzzHook sends bodies to the hook over HTTP, with a real database behind it: the answer is 202 with the number of instances, each of
// which is then due, or 400 or 413 with a reason that repeats nothing of the body and with nothing marked.
func FuzzHook(f *testing.F) {
	for _, body := range []string{
		`{"instance":"` + one + `"}`, `[{"instance":"` + one + `"},{}]`, `{"instance":`, `[{"instance":"` + one + `"},{"instance":"` + two + `","origin":{"RemoteIp":"QZX"}}]`,
		`{"instance":"QZX^MARKED"}`, `{"Instance":"` + one + `","instance":"QZX"}`, `"QZX"`, `[[]]`, "null", "[null]", "\xff\xfe", strings.Repeat("[", 4000), `{"instance":1e999}`,
		strings.Repeat(" ", 4100), `{"instance":"` + strings.ToUpper(strings.ReplaceAll(one, "1", "a")) + `"}`, "{\"QZX\":\"QZX\\ud800\"}",
	} {
		f.Add([]byte(body))
	}
	h := newHook(f)
	server := httptest.NewServer(h)
	f.Cleanup(server.Close)
	f.Fuzz(func(t *testing.T, body []byte) {
		before := marks(t, h.Marker.Store)
		response, err := http.Post(server.URL, "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		var answer struct {
			Accepted int
			Error    string
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatalf("HTTP %d, and no JSON: %q", response.StatusCode, text)
		}
		if strings.Contains(strings.ToUpper(string(text)), "QZX") {
			t.Errorf("the answer repeats what was sent: %s", text)
		}
		after := marks(t, h.Marker.Store)
		switch response.StatusCode {
		case http.StatusAccepted:
			if answer.Accepted < 1 || after-before != answer.Accepted {
				t.Errorf("%d marks for %s", after-before, text)
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			if answer.Error == "" || after != before || (response.StatusCode == http.StatusRequestEntityTooLarge) != (int64(len(body)) > h.MaxBody) {
				t.Errorf("HTTP %d, %d marks for a body of %d bytes: %s", response.StatusCode, after-before, len(body), text)
			}
		default:
			t.Errorf("HTTP %d: %s", response.StatusCode, text)
		}
	})
}

// marks is how often any instance was marked; it fails where one is no identifier of Orthanc's.
func marks(t *testing.T, s *store.Store) (sum int) {
	t.Helper()
	rows, err := s.Instances(t.Context(), store.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		sum += int(row.Due)
		if !orthanc.ValidID(row.ID) || row.StudyID != "" && !orthanc.ValidID(row.StudyID) {
			t.Fatalf("marked: %q of study %q", row.ID, row.StudyID)
		}
	}
	return sum
}

// answers is an Orthanc that answers what it is told to, by path.
type answers struct {
	sync.Mutex
	bodies map[string][]byte
}

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.Lock()
	defer a.Unlock()
	body, known := a.bodies[r.URL.Path]
	if !known {
		w.WriteHeader(http.StatusNotFound)
	}
	_, _ = w.Write(body)
}

// FuzzFollower gives the follower pages of changes and descriptions of instances that no Orthanc would: it fails and stays where it is,
// repeating nothing of an answer but numbers, or takes in instances whose identifiers are some, and never goes back.
func FuzzFollower(f *testing.F) {
	page := `{"Changes":[{"ChangeType":"NewInstance","Date":"20260101T000000","ID":"` + one + `","Path":"/instances/` + one + `","ResourceType":"Instance","Seq":7}],"Done":true,"Last":7,"First":7}`
	bulk := `[{"ID":"` + one + `","ParentSeries":"` + two + `","ParentStudy":"` + two + `","MainDicomTags":{"NumberOfFrames":"1","PatientName":"QZX^MARKED"},"Metadata":{"SopClassUid":"1.2.840.10008.5.1.4.1.1.1.1"},"FileUuid":"u"}]`
	f.Add([]byte(page), []byte(bulk))
	for _, change := range [][2]string{
		{`"Seq":7`, `"Seq":-9223372036854775808`}, {`"Last":7`, `"Last":9223372036854775807`}, {`"Seq":7`, `"Seq":1e400`}, {`"Seq":7`, `"Seq":"QZX"`},
		{one, "../../" + one}, {`"Done":true`, `"Done":"QZX"`}, {`"ID":"` + one, `"ID":"QZX^MARKED`}, {`"ParentStudy":"` + two, `"ParentStudy":"../../QZX`},
		{`"NumberOfFrames":"1"`, `"NumberOfFrames":["QZX"]`}, {`"Metadata":{`, `"Metadata":{"x":5,`}, {`[`, `[null,`},
	} {
		f.Add([]byte(strings.ReplaceAll(page, change[0], change[1])), []byte(strings.ReplaceAll(bulk, change[0], change[1])))
	}
	fake := &answers{bodies: map[string][]byte{"/system": []byte(`{"Version":"1.12.7","Capabilities":{"HasExtendedChanges":true}}`)}}
	server := httptest.NewServer(fake)
	f.Cleanup(server.Close)
	client, err := orthanc.New(orthanc.Options{URL: server.URL})
	if err != nil {
		f.Fatal(err)
	}
	marker := newMarker(f)
	f.Fuzz(func(t *testing.T, changes, bulk []byte) {
		fake.Lock()
		fake.bodies["/changes"], fake.bodies["/tools/bulk-content"] = changes, bulk
		fake.Unlock()
		follower := Follower{
			Orthanc: client, Marker: marker, Batch: 100, Overlap: 50, Metrics: metrics.New(), Log: zerolog.Nop(),
			Objects: Objects{SOPClasses: []string{"1.2.840.10008.5.1.4.1.1.1.1"}}, verified: time.Now(), extended: true,
		}
		begin := store.Cursor{Seq: 5, Live: 3}
		if err := follower.move(t.Context(), begin); err != nil {
			t.Fatal(err)
		}
		before := marks(t, marker.Store)
		_, err := follower.poll(t.Context())
		after := marks(t, marker.Store)
		at, _, storeErr := marker.Store.Cursor(t.Context())
		if storeErr != nil {
			t.Fatal(storeErr)
		}
		if err != nil {
			if strings.Contains(strings.ToUpper(err.Error()), "QZX") {
				t.Errorf("the error repeats an answer: %v", err)
			}
			if at != begin || after != before {
				t.Errorf("it failed (%v) and moved to %+v with %d marks", err, at, after-before)
			}
			return
		}
		if at.Seq < begin.Seq || after-before > bytes.Count(bulk, []byte("ID"))+bytes.Count(bulk, []byte("id")) {
			t.Errorf("at %+v with %d marks", at, after-before)
		}
	})
}
