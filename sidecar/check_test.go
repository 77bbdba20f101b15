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
	"imagingrouter/sidecar/internal/orthanc"
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

// The router takes all of Orthanc's jobs but one: check says where that leaves little, or where the two do not know of one another.
func TestCheckOfJobs(t *testing.T) {
	for name, tt := range map[string]struct {
		says, configured, destinations int
		want                           string
	}{
		"no destination":        {2, 0, 0, ""},
		"plenty":                {8, 0, 1, "ok "},
		"Orthanc's own default": {2, 0, 1, "warn "},
		"silent":                {0, 0, 1, "warn "},
		"silent, configured":    {0, 8, 1, "ok "},
		"more than there are":   {4, 8, 1, "WRONG "},
	} {
		c := &config.Config{Destinations: make([]config.Destination, tt.destinations)}
		c.Orthanc.ConcurrentJobs = tt.configured
		var out strings.Builder
		(&checks{out: &out}).jobs(c, orthanc.System{ConcurrentJobs: tt.says})
		if got := out.String(); !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestCheckNamesWhatNothingDecodes(t *testing.T) {
	c := &config.Config{}
	c.Picture.GDCMConv, c.Picture.DCMDJPLS, c.Picture.DCMDJPEG, c.Picture.OPJDecompress = "-", "-", "/nowhere/dcmdjpeg", "/nowhere/opj_decompress"
	var out strings.Builder
	r := &checks{out: &out}
	r.decoders(t.Context(), c)
	for _, want := range []string{
		"warn   decoder         gdcmconv is switched off", `remove picture.gdcmconv: "-"`,
		"warn   decoder         find dcmdjpeg: ", "install dcmdjpeg (Debian: apt install dcmtk), or name it in picture.dcmdjpeg",
		"WRONG  decoder         nothing decodes JPEG: ", "WRONG  decoder         nothing decodes JPEG-LS: ", "WRONG  decoder         nothing decodes JPEG 2000: ",
		"warn   decoder         nothing decodes High-Throughput JPEG 2000: ", "install opj_decompress (Debian: apt install libopenjp2-tools)",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
	if !r.failed {
		t.Error("check is content with no decoder at all")
	}
}
