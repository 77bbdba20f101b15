package intake

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/metrics"
	"imagingrouter/sidecar/internal/store"
)

const (
	one = "11111111-11111111-11111111-11111111-11111111"
	two = "22222222-22222222-22222222-22222222-22222222"
)

func newMarker(t testing.TB) *Marker {
	t.Helper()
	s, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "router.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	q, err := jobs.Open(context.Background(), s.DB(), nil, jobs.Options{Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return &Marker{Store: s, Queue: q}
}

func newHook(t testing.TB) *Hook {
	return &Hook{Marker: newMarker(t), MaxBody: 4096, Metrics: metrics.New(), Log: zerolog.Nop()}
}

func post(h http.Handler, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/hooks/stored-instance", strings.NewReader(body)))
	return w
}

func TestHook(t *testing.T) {
	h := newHook(t)
	object := func(id string) string {
		return fmt.Sprintf(`{"instance": %q, "origin": {"RequestOrigin": "DicomProtocol"}}`, id)
	}
	tests := []struct {
		name, body string
		status     int
		answer     string
	}{
		{"one", object(one), 202, `{"accepted":1}`},
		{"a list", "[" + object(one) + "," + object(two) + "]", 202, `{"accepted":2}`},
		{"one twice in a list", "[" + object(one) + "," + object(one) + "]", 202, `{"accepted":1}`},
		{"empty", " ", 400, "empty body"},
		{"an empty list", "[]", 400, "a list names 1 to"},
		{"no instance", "{}", 400, "item 1: \\\"instance\\\" is not an Orthanc identifier"},
		{"not an id", object("../../etc/passwd"), 400, "item 1"},
		{"upper case", object(strings.ToUpper("abcdefab-11111111-11111111-11111111-11111111")), 400, "item 1"},
		{"the second is wrong", "[" + object(one) + `,{"instance":"x"}]`, 400, "item 2"},
		{"not JSON", `{"instance": `, 400, "syntax error at byte"},
		{"two values", object(one) + object(two), 400, "syntax error at byte"},
		{"a number", `{"instance": 5}`, 400, "wrong type at byte"},
		{"a list of strings", `["` + one + `"]`, 400, "wrong type at byte"},
		{"too long", "[" + strings.Repeat(object(one)+",", 200) + object(one) + "]", 413, "longer than 4096 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := post(h, tt.body)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.answer) {
				t.Errorf("%d %s, want %d with %q", w.Code, w.Body, tt.status, tt.answer)
			}
			if strings.Contains(w.Body.String(), "passwd") {
				t.Error("the answer repeats what a stranger sent")
			}
		})
	}
}

func TestHookMarksOnceForEachJob(t *testing.T) {
	h := newHook(t)
	for range 3 {
		if w := post(h, `{"instance":"`+one+`"}`); w.Code != 202 {
			t.Fatal(w.Code, w.Body)
		}
	}
	row, err := h.Marker.Store.Instance(context.Background(), one)
	if err != nil || row.Due != 3 || row.ClassifyJob == 0 || !row.Forward {
		t.Errorf("%+v, %v", row, err)
	}
	depths, err := jobs.Depths(context.Background(), h.Marker.Store.Reader())
	if err != nil || len(depths) != 1 || depths[0].N != 1 {
		t.Errorf("jobs %+v, %v; want one", depths, err)
	}
	if _, _, heard, err := h.Marker.Store.Setting(context.Background(), store.SettingHookHeard); !heard || err != nil {
		t.Errorf("the hook was not noted as heard: %v", err)
	}
}

func TestHookAnswers503WhenTheMarkCannotBeWritten(t *testing.T) {
	h := newHook(t)
	if err := h.Marker.Store.Close(); err != nil {
		t.Fatal(err)
	}
	w := post(h, `{"instance":"`+one+`"}`)
	if w.Code != 503 || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "sql") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}
