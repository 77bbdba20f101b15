package main

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestHealthcheck(t *testing.T) {
	var sick atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/-/healthy" {
			http.NotFound(w, r)
			return
		}
		if sick.Load() {
			http.Error(w, "the database cannot be written", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	dir := t.TempDir()
	if r := execute(t, dir, nil, "healthcheck", server.URL); r.status != 0 || r.stdout+r.stderr != "" {
		t.Errorf("healthy: %+v", r)
	}
	t.Setenv("IMAGING_ROUTER_SERVER_LISTEN", strings.TrimPrefix(server.URL, "http://"))
	if r := execute(t, dir, nil, "healthcheck"); r.status != 0 {
		t.Errorf("healthy, by server.listen: %+v", r)
	}
	sick.Store(true)
	want := "imaging-router: not healthy: " + server.URL + "/-/healthy answered 503 Service Unavailable: the database cannot be written\n"
	if r := execute(t, dir, nil, "healthcheck", server.URL); r.status != 1 || r.stderr != want {
		t.Errorf("not healthy: %+v, want %q", r, want)
	}
	if r := execute(t, dir, nil, "healthcheck", "nowhere"); r.status != 1 || !strings.Contains(r.stderr, `"nowhere" is not an address such as http://127.0.0.1:8081`) {
		t.Errorf("no address: %+v", r)
	}
}

func TestHealthcheckOfSilence(t *testing.T) {
	// It takes the connection and never answers, like a process that hangs.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	start := time.Now()
	r := execute(t, t.TempDir(), nil, "healthcheck", "--timeout", "200ms", "http://"+address)
	if r.status != 1 || !strings.Contains(r.stderr, "not healthy: ") || time.Since(start) > 30*time.Second {
		t.Errorf("after %s: %+v", time.Since(start), r)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if r := execute(t, t.TempDir(), nil, "healthcheck", "http://"+address); r.status != 1 || !strings.Contains(r.stderr, "refused") {
		t.Errorf("nobody listens: %+v", r)
	}
}

func TestLocalAddress(t *testing.T) {
	for listen, want := range map[string]string{
		":8081": "http://127.0.0.1:8081", "0.0.0.0:80": "http://127.0.0.1:80", "[::]:80": "http://127.0.0.1:80",
		"127.0.0.1:9000": "http://127.0.0.1:9000", "[::1]:9000": "http://[::1]:9000", "router.example:1": "http://router.example:1",
	} {
		if got := localAddress(listen); got != want {
			t.Errorf("%s: %s, want %s", listen, got, want)
		}
	}
}

func TestHealthcheckOfHTTPS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	dir := t.TempDir()
	write := func(name string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("IMAGING_ROUTER_SERVER_LISTEN", strings.TrimPrefix(server.URL, "https://"))
	t.Setenv("IMAGING_ROUTER_SERVER_TLS_KEY_FILE", "not read")
	t.Setenv("IMAGING_ROUTER_SERVER_TLS_CERT_FILE", write("its.pem", server.Certificate().Raw))
	if r := execute(t, dir, nil, "healthcheck"); r.status != 0 {
		t.Errorf("its own certificate: %+v", r)
	}
	t.Setenv("IMAGING_ROUTER_SERVER_TLS_CERT_FILE", write("other.pem", []byte("another")))
	if r := execute(t, dir, nil, "healthcheck"); r.status != 1 || !strings.Contains(r.stderr, "the server has another certificate than ") {
		t.Errorf("another certificate: %+v", r)
	}
	if r := execute(t, dir, nil, "healthcheck", server.URL); r.status != 1 || !strings.Contains(r.stderr, "certificate") {
		t.Errorf("a certificate of nobody we know: %+v", r)
	}
}
