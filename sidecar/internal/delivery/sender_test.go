package delivery

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/store"
)

func parcel(content string) Parcel {
	return Parcel{
		Delivery: store.Delivery{ID: "d-1", Level: store.LevelInstance, ResourceID: "inst", StudyID: "study", Rule: "chests", ReceivedAt: time.Date(2026, 8, 20, 23, 30, 0, 0, time.UTC)},
		Parts:    []Part{classified("inst", bodypart.AdultChest)},
		File:     func(_ context.Context, _ string, use func([]byte) error) error { return use([]byte(content)) },
	}
}

func classified(id string, class bodypart.Class) Part {
	return Part{
		Item: store.Item{InstanceID: id, ContentMD5: "md5"}, SeriesID: "series", State: store.StatePublished, Known: true,
		Result: bodypart.Result{Prediction: bodypart.Prediction{Class: class, Confidence: .98}, Model: "m@1", Reasons: []bodypart.Reason{}},
	}
}

// study is a study of a picture, one that cannot be read, and a report, which the router does not know.
func study() Parcel {
	p := parcel("")
	p.Level, p.ResourceID, p.Delivery.Instances = store.LevelStudy, "study", 3
	p.Parts = append(p.Parts, Part{Item: store.Item{InstanceID: "broken", ContentMD5: "other"}, SeriesID: "series", State: store.StateUnreadable}, Part{Item: store.Item{InstanceID: "report"}})
	p.File = func(_ context.Context, id string, use func([]byte) error) error { return use([]byte(id)) }
	return p
}

func TestWebhookIsSignedAndNamesTheDelivery(t *testing.T) {
	var got *http.Request
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	defer server.Close()
	w, err := NewWebhook(server.URL+"/in?key=hidden", "shared secret", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(context.Background(), parcel("")); err != nil {
		t.Fatal(err)
	}
	if got.Header.Get(HeaderDelivery) != "d-1" || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", got.Header)
	}
	want := Sign("shared secret", got.Header.Get(HeaderTimestamp), body)
	if !hmac.Equal([]byte(want), []byte(got.Header.Get(HeaderSignature))) || !strings.HasPrefix(want, "sha256=") || len(want) != 7+64 {
		t.Errorf("signature %q, want %q", got.Header.Get(HeaderSignature), want)
	}
	if Sign("another secret", got.Header.Get(HeaderTimestamp), body) == want || Sign("shared secret", "0", body) == want {
		t.Error("the signature does not depend on secret and time")
	}
	var v map[string]any
	if err := json.Unmarshal(body, &v); err != nil || v["delivery"] != "d-1" || v["instance"] != "inst" {
		t.Errorf("body %s, %v", body, err)
	}
	if strings.Contains(w.String(), "hidden") {
		t.Errorf("%s shows the query", w)
	}
	if found, err := w.Check(context.Background(), nil); err != nil || !strings.Contains(found, "signed") {
		t.Errorf("check: %q %v", found, err)
	}
}

// An instance's result stands in the list and beside it; of a set it stands in the list alone.
func TestWebhookBody(t *testing.T) {
	const result = `"class":"adult_chest","confidence":0.98,"review":false,"reasons":[],"probabilities":null,"model":"m@1","classified_at":"0001-01-01T00:00:00Z"`
	series := study()
	series.Level, series.ResourceID, series.Parts = store.LevelSeries, "series", series.Parts[:2]
	for name, tt := range map[string]struct {
		parcel Parcel
		want   string
	}{
		"an instance": {parcel(""), `{"delivery":"d-1","level":"instance","study":"study","series":"series","rule":"chests","received_at":"2026-08-20T23:30:00Z",
			"instances":[{"instance":"inst","content_md5":"md5",` + result + `}],"instance":"inst","content_md5":"md5",` + result + `}`},
		"a study": {study(), `{"delivery":"d-1","level":"study","study":"study","rule":"chests","received_at":"2026-08-20T23:30:00Z",
			"instances":[{"instance":"inst","content_md5":"md5",` + result + `},{"instance":"broken","content_md5":"other","state":"unreadable"},{"instance":"report"}]}`},
		"a series": {series, `{"delivery":"d-1","level":"series","study":"study","series":"series","rule":"chests","received_at":"2026-08-20T23:30:00Z",
			"instances":[{"instance":"inst","content_md5":"md5",` + result + `},{"instance":"broken","content_md5":"other","state":"unreadable"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := json.Marshal(newWebhookBody(tt.parcel))
			if err != nil {
				t.Fatal(err)
			}
			var got, want map[string]any
			if err := errors.Join(json.Unmarshal(text, &got), json.Unmarshal([]byte(tt.want), &want)); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got\n%s\nwant\n%s", text, tt.want)
			}
		})
	}
}

// TestSignIsWhatTheDocumentsSay holds the signature against a value computed elsewhere:
// printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key
func TestSignIsWhatTheDocumentsSay(t *testing.T) {
	const want = "sha256=a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03"
	if got := Sign("key", "1700000000", []byte(`{"a":1}`)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestWebhookFailures(t *testing.T) {
	var elsewhere int
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"HTTP 500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"HTTP 404": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"HTTP 307": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		},
	} {
		server := httptest.NewServer(answer)
		w, err := NewWebhook(server.URL+"/?key=hidden", "", "")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Send(context.Background(), parcel("")); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", name, err)
		}
		server.Close()
		if err := w.Send(context.Background(), parcel("")); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("closed: %v", err)
		}
		if _, err := w.Check(context.Background(), nil); err == nil {
			t.Error("check of a closed server passes")
		}
	}
	if elsewhere > 0 {
		t.Error("a redirect was followed to a host that is not configured")
	}
	for _, address := range []string{"", "ftp://x", "http://", "x"} {
		if _, err := NewWebhook(address, "", ""); err == nil {
			t.Errorf("%q was accepted", address)
		}
	}
}

func TestWebhookEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	w, err := NewWebhook(server.URL, "", "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := w.Send(ctx, parcel("")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a hanging receiver: %v", err)
	}
}

func TestFolderWritesWholeFiles(t *testing.T) {
	root := t.TempDir()
	f := Folder{Path: root, Template: "{date}/{class}/{study}/{series}/{instance}.dcm"}
	for _, content := range []string{"first", "first again, after a crash"} {
		if err := f.Send(context.Background(), summed(parcel(content), content)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(root, "2026-08-20", "adult_chest", "study", "series", "inst.dcm"))
		if err != nil || string(got) != content {
			t.Errorf("%q, %v; want %q", got, err, content)
		}
	}
	if err := f.Send(context.Background(), summed(parcel("<html>"), "the file")); err == nil || !strings.Contains(err.Error(), "what came (6 bytes) is not the file") {
		t.Errorf("a page in place of the file: %v", err)
	}
	var names []string
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	}); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if found, err := f.Check(context.Background(), nil); err != nil || found == "" {
		t.Errorf("check: %q %v", found, err)
	}
}

// summed has a parcel's instances hold these contents.
func summed(p Parcel, contents ...string) Parcel {
	for i, content := range contents {
		p.Parts[i].ContentMD5 = fmt.Sprintf("%x", md5.Sum([]byte(content)))
	}
	return p
}

// A set is a file for each instance, under the class of each; what has none is unclassified.
func TestFolderTakesSets(t *testing.T) {
	root := t.TempDir()
	p := study()
	p.Parts = append(p.Parts, classified("second", bodypart.Spine))
	p = summed(p, "inst", "broken", "report", "second")
	if err := (Folder{Path: root, Template: "{study}/{class}/{instance}.dcm"}).Send(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"adult_chest/inst": "inst", "unclassified/broken": "broken", "unclassified/report": "report", "spine/second": "second"} {
		got, err := os.ReadFile(filepath.Join(root, "study", filepath.FromSlash(name)+".dcm"))
		if err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
	var asked []string
	p.File = func(_ context.Context, id string, use func([]byte) error) error {
		if asked = append(asked, id); id == "broken" {
			return errors.New("gone")
		}
		return use([]byte(id))
	}
	if err := (Folder{Path: t.TempDir()}).Send(context.Background(), p); err == nil || !strings.Contains(err.Error(), "fetch instance broken") || len(asked) != 2 {
		t.Errorf("a set of which one file cannot be fetched: %v, asked for %v", err, asked)
	}
}

// What a receiver answers beside its status is not waited for, and not kept.
func TestWebhookAnswersWithoutEnd(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chunk := bytes.Repeat([]byte("endless "), 1<<13)
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	w, err := NewWebhook(server.URL, "", "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := w.Send(ctx, parcel("")); err != nil {
		t.Error(err)
	}
}

func TestFolderFailures(t *testing.T) {
	root := t.TempDir()
	absent := Folder{Path: filepath.Join(root, "not-mounted")}
	if err := absent.Send(context.Background(), parcel("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an absent folder: %v", err)
	}
	if _, err := os.Stat(absent.Path); err == nil {
		t.Error("an absent folder was made: files would land on the disk under the mount point")
	}
	if _, err := absent.Check(context.Background(), nil); err == nil {
		t.Error("check of an absent folder passes")
	}
	failing := parcel("")
	failing.File = func(context.Context, string, func([]byte) error) error { return errors.New("no file") }
	if err := (Folder{Path: root}).Send(context.Background(), failing); err == nil || !strings.Contains(err.Error(), "fetch instance inst") {
		t.Errorf("a file that cannot be fetched: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "adult_chest"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (Folder{Path: root}).Send(context.Background(), parcel("x")); err == nil || !strings.Contains(err.Error(), "write delivery d-1") {
		t.Errorf("a file where a folder should be: %v", err)
	}
}
