// Package web is the router's own HTTP server: the hook, health, readiness and metrics. It knows who may ask what; what the answers
// are, the other packages know.
package web

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// Check is one condition of readiness.
type Check struct {
	Name  string
	Probe func(ctx context.Context) error
}

// Options wires the server.
type Options struct {
	Listen      string
	Token       string // bearer token of the hook and the metrics; "" lets everybody in
	MetricsOpen bool   // metrics without the token
	TLSCertFile string // PEM, with TLSKeyFile: https instead of http
	TLSKeyFile  string
	Hook        http.Handler
	HookRefused func(status int) // counts a call of the hook without the token, which the hook itself never sees; may be nil
	Metrics     http.Handler
	Explain     http.Handler                 // the story of one instance, {id} in its path
	Reload      func() (done any, err error) // puts a changed configuration in force, as far as it can
	Checks      []Check
	Log         zerolog.Logger
}

// probeTimeout bounds one readiness probe; container platforms wait a second or a few.
const probeTimeout = 2 * time.Second

// Server is the HTTP server. Slow clients are cut off by its time-outs.
type Server struct {
	server   *http.Server
	listener net.Listener
}

// Listen opens the port. Serve answers on it.
func Listen(o Options) (*Server, error) {
	var secure *tls.Config
	if o.TLSCertFile != "" {
		var err error
		if secure, err = newTLS(o.TLSCertFile, o.TLSKeyFile, o.Log); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("tcp", o.Listen) //nolint:noctx // opening a port does not block
	if err != nil {
		return nil, err
	}
	if secure != nil {
		listener = tls.NewListener(listener, secure)
	}
	return &Server{listener: listener, server: &http.Server{
		Handler:           o.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}}, nil
}

// Addr is the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve answers until Shutdown.
func (s *Server) Serve() error { return s.server.Serve(s.listener) }

// Shutdown closes the port and lets running requests finish.
func (s *Server) Shutdown(ctx context.Context) error { return s.server.Shutdown(ctx) }

func (o Options) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /hooks/stored-instance", o.authenticated(o.Hook, o.HookRefused))
	metrics := o.Metrics
	if !o.MetricsOpen {
		metrics = o.authenticated(metrics, nil)
	}
	mux.Handle("GET /metrics", metrics)
	if o.Explain != nil {
		mux.Handle("GET /v1/instances/{id}/explain", o.authenticated(o.Explain, nil))
	}
	mux.Handle("POST /-/reload", o.authenticated(http.HandlerFunc(o.reload), nil))
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, map[string]any{"healthy": true}) })
	mux.HandleFunc("GET /-/ready", o.ready)
	return mux
}

// ready answers 200 when every check passes, else 503; the body names each check, and whether it failed.
func (o Options) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	type verdict struct{ name, text string }
	verdicts := make(chan verdict, len(o.Checks))
	for _, c := range o.Checks {
		go func() {
			text := "ok"
			if err := c.Probe(ctx); err != nil {
				o.Log.Warn().Err(err).Str("check", c.Name).Msg("not ready")
				text = "failed; see the router's log" // errors may name hosts: this endpoint asks for no token
			}
			verdicts <- verdict{c.Name, text}
		}()
	}
	status, checks := http.StatusOK, map[string]string{}
	for range o.Checks {
		v := <-verdicts
		checks[v.name] = v.text
		if v.text != "ok" {
			status = http.StatusServiceUnavailable
		}
	}
	write(w, status, map[string]any{"ready": status == http.StatusOK, "checks": checks})
}

// reload answers 200 and what was done, or 422 and what is wrong with the file. It asks for the token, so it may name files.
func (o Options) reload(w http.ResponseWriter, _ *http.Request) {
	done, err := o.Reload()
	if err != nil {
		write(w, http.StatusUnprocessableEntity, map[string]any{"error": err.Error()})
		return
	}
	write(w, http.StatusOK, done)
}

// authenticated lets requests through that carry the token. The comparison takes the same time wherever the tokens differ.
// refused, unless nil, hears of the others.
func (o Options) authenticated(next http.Handler, refused func(status int)) http.Handler {
	if o.Token == "" {
		return next
	}
	want := sha256.Sum256([]byte(o.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(token))
		if !bearer || subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
			if refused != nil {
				refused(http.StatusUnauthorized)
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="imaging-router"`)
			write(w, http.StatusUnauthorized, map[string]any{"error": "missing or wrong bearer token (server.hook_token_file)"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) //nolint:errchkjson // our own maps of strings and numbers; else the client is gone
}
