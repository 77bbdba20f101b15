package main

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/intake"
	"imagingrouter/sidecar/internal/metrics"
)

func TestCheckKnowsTheRouterByItsAnswer(t *testing.T) {
	router := &intake.Hook{MaxBody: 1 << 20, Metrics: metrics.New()}
	answers := func(status int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body)) // the client judges what arrives
		})
	}
	tests := []struct {
		name    string
		handler http.Handler
		secure  bool
		word    string
		text    string
	}{
		{"the router", router, false, "ok", "takes this configuration's token"},
		{"the router by https", router, true, "ok", "takes this configuration's token"},
		{"another token", answers(401, `{"error":"missing or wrong bearer token"}`), false, "WRONG", "refuses this configuration's token"},
		{"a 400 of something else", answers(400, `{"error":"bad request"}`), false, "WRONG", "something else answers"},
		{"a 400 without JSON", answers(400, `"instance"?`), false, "WRONG", "something else answers"},
		{"any other server", answers(200, `{}`), false, "WRONG", "something else answers"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &config.Config{}
			c.Database.Path = filepath.Join(t.TempDir(), "none.db")
			server := httptest.NewUnstartedServer(tt.handler)
			if tt.secure {
				server.StartTLS()
				c.Server.TLSCertFile = filepath.Join(t.TempDir(), "certificate.pem")
				text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
				if err := os.WriteFile(c.Server.TLSCertFile, text, 0o600); err != nil {
					t.Fatal(err)
				}
			} else {
				server.Start()
			}
			defer server.Close()
			c.Server.Listen = server.Listener.Addr().String()
			var out strings.Builder
			r := &checks{out: &out}
			r.hook(t.Context(), c)
			line, _, _ := strings.Cut(out.String(), "\n")
			if !strings.HasPrefix(line, tt.word+" ") || !strings.Contains(line, tt.text) {
				t.Errorf("%s; want %s … %s", line, tt.word, tt.text)
			}
		})
	}
}
