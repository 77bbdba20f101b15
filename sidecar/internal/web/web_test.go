package web

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/metrics"
	"imagingrouter/sidecar/internal/store"
)

const token = "0123456789abcdef0123456789abcdef"

func TestWhoMayAskWhat(t *testing.T) {
	accepted := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	closed := Options{Token: token, Hook: accepted, Metrics: metrics.New().Handler(), Log: zerolog.Nop(), Reload: func() (any, error) { return map[string]int{"rules": 1}, nil }}
	closed.Explain = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != "4711" {
			t.Errorf("explain is asked about %q", r.PathValue("id"))
		}
		w.WriteHeader(http.StatusTeapot)
	})
	broken := closed
	broken.Reload = func() (any, error) { return nil, errors.New("config.yaml:1:1: broken") }
	openMetrics := closed
	openMetrics.MetricsOpen = true
	without := closed
	without.Token = ""
	tests := []struct {
		name                 string
		o                    Options
		method, path, header string
		want                 int
	}{
		{"hook with token", closed, "POST", "/hooks/stored-instance", "Bearer " + token, 202},
		{"hook without token", closed, "POST", "/hooks/stored-instance", "", 401},
		{"hook with a wrong token", closed, "POST", "/hooks/stored-instance", "Bearer " + token + "0", 401},
		{"hook with the bare token", closed, "POST", "/hooks/stored-instance", token, 401},
		{"hook with another scheme", closed, "POST", "/hooks/stored-instance", "Basic " + token, 401},
		{"hook by GET", closed, "GET", "/hooks/stored-instance", "Bearer " + token, 405},
		{"hook where no token is configured", without, "POST", "/hooks/stored-instance", "", 202},
		{"metrics with token", closed, "GET", "/metrics", "Bearer " + token, 200},
		{"metrics without token", closed, "GET", "/metrics", "", 401},
		{"open metrics", openMetrics, "GET", "/metrics", "", 200},
		{"the hook beside open metrics", openMetrics, "POST", "/hooks/stored-instance", "", 401},
		{"reload with token", closed, "POST", "/-/reload", "Bearer " + token, 200},
		{"reload without token", closed, "POST", "/-/reload", "", 401},
		{"reload by GET", closed, "GET", "/-/reload", "Bearer " + token, 405},
		{"reload of a bad file", broken, "POST", "/-/reload", "Bearer " + token, 422},
		{"explain with token", closed, "GET", "/v1/instances/4711/explain", "Bearer " + token, 418},
		{"explain without token", closed, "GET", "/v1/instances/4711/explain", "", 401},
		{"explain beside open metrics", openMetrics, "GET", "/v1/instances/4711/explain", "", 401},
		{"explain by POST", closed, "POST", "/v1/instances/4711/explain", "Bearer " + token, 405},
		{"healthy", closed, "GET", "/-/healthy", "", 200},
		{"ready", closed, "GET", "/-/ready", "", 200},
		{"elsewhere", closed, "GET", "/v2", "Bearer " + token, 404},
		{"profiling is not served", closed, "GET", "/debug/pprof/", "Bearer " + token, 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, tt.path, nil)
			if tt.header != "" {
				r.Header.Set("Authorization", tt.header)
			}
			w := httptest.NewRecorder()
			tt.o.handler().ServeHTTP(w, r)
			if w.Code != tt.want {
				t.Errorf("%d %s, want %d", w.Code, w.Body, tt.want)
			}
			if w.Code == 401 && w.Header().Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
		})
	}
}

// The alert on a wrong token counts calls of the hook, not of the other endpoints.
func TestRefusedHooksAreCounted(t *testing.T) {
	var refused []int
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	handler := Options{Token: token, Hook: ok, Metrics: ok, Log: zerolog.Nop(), HookRefused: func(status int) { refused = append(refused, status) }}.handler()
	for _, header := range []string{"", "Bearer wrong", "Bearer " + token} {
		for method, path := range map[string]string{http.MethodPost: "/hooks/stored-instance", http.MethodGet: "/metrics"} {
			r := httptest.NewRequest(method, path, nil)
			r.Header.Set("Authorization", header)
			handler.ServeHTTP(httptest.NewRecorder(), r)
		}
	}
	if len(refused) != 2 || refused[0] != 401 || refused[1] != 401 {
		t.Errorf("counted: %v, want 401 twice", refused)
	}
}

func TestReadyNamesWhatFailsAndKeepsDetailsToTheLog(t *testing.T) {
	var log strings.Builder
	o := Options{Log: zerolog.New(&log), Checks: []Check{
		{"orthanc", func(context.Context) error { return errors.New("dial secret-host:8042: refused") }},
		{"database", func(context.Context) error { return nil }},
	}}
	w := httptest.NewRecorder()
	o.ready(w, httptest.NewRequest(http.MethodGet, "/-/ready", nil))
	if w.Code != 503 || !strings.Contains(w.Body.String(), `"database":"ok"`) || !strings.Contains(w.Body.String(), `"orthanc":"failed`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if strings.Contains(w.Body.String(), "secret-host") || !strings.Contains(log.String(), "secret-host") {
		t.Errorf("details belong in the log alone: %s / %s", w.Body, log.String())
	}
}

func TestReadyDoesNotWaitForAHangingOrthanc(t *testing.T) {
	o := Options{Log: zerolog.Nop(), Checks: []Check{{"orthanc", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}}}
	answered := make(chan int, 1)
	go func() {
		w := httptest.NewRecorder()
		o.ready(w, httptest.NewRequest(http.MethodGet, "/-/ready", nil))
		answered <- w.Code
	}()
	select {
	case code := <-answered:
		if code != 503 {
			t.Errorf("%d, want 503", code)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("readiness hangs with Orthanc")
	}
}

func TestSlowClientIsCutOff(t *testing.T) {
	s, err := Listen(Options{Listen: "127.0.0.1:0", Log: zerolog.Nop(), Hook: http.NotFoundHandler(), Metrics: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve() }()
	defer func() { _ = s.Shutdown(context.Background()) }()
	c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("POST /hooks/stored-instance HTTP/1.1\r\nHost: x\r\n")); err != nil { // and never a word more
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 1024)
	if _, err := c.Read(buffer); err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatal("the connection of a client that never ends its request stays open")
		}
	}
}

func TestMetricsShowTheDatabase(t *testing.T) {
	ctx := context.Background()
	s, err := store.Open(ctx, filepath.Join(t.TempDir(), "router.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if _, err := jobs.Open(ctx, s.DB(), nil, jobs.Options{Logger: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	m := metrics.New(&Gauges{Store: s, Forwarding: func(context.Context) (bool, error) { return true, nil }})
	m.Skipped("1.2.840.10008.5.1.4.1.1.2")
	m.Destinations("chest-ai")
	m.Skipped("PATIENT^NAME") // text from a stranger never becomes a label
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{
		`imaging_router_instances{state="published"} 0`, `imaging_router_queue_oldest_seconds 0`, `imaging_router_forwarding 1`,
		`imaging_router_instances_skipped_total{sop_class="1.2.840.10008.5.1.4.1.1.2"} 1`, `imaging_router_instances_skipped_total{sop_class="other"} 1`,
		`imaging_router_instances_ended_total{state="failed"} 0`, `imaging_router_hook_refused_total{status="401"} 0`,
		`imaging_router_results_total{class="spine",review="true"} 0`, `imaging_router_instances_marked_total{source="hook"} 0`,
		`imaging_router_deliveries_total{destination="chest-ai",outcome="failed"} 0`,
	} {
		if !strings.Contains(w.Body.String(), line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if strings.Contains(w.Body.String(), "PATIENT") {
		t.Error("a tag's value is in the metrics")
	}
}
