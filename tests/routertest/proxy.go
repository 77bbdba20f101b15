package routertest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Behaviour is what a proxy does to the POSTs of instances. Everything else it always passes on.
type Behaviour int

// The behaviours.
const (
	Pass      Behaviour = iota
	Refuse              // the connection is reset before the body is read
	Fail                // the body is read and answered with 500
	Hang                // the body is read and never answered
	LostReply           // the instance is passed on, but the connection is reset instead of an answer
)

// Post is one POST of an instance that reached the proxy with its whole body.
type Post struct {
	SOPInstanceUID string
	SHA256         string // of the body
	Passed         bool   // handed on to the server behind
	At             time.Time
}

// Request is one request of any kind that reached the proxy.
type Request struct{ Method, Path string }

// Proxy stands before an Orthanc and counts.
type Proxy struct {
	URL string

	mu        sync.Mutex
	behaviour Behaviour
	delay     time.Duration
	changed   chan struct{} // closed when the behaviour changes: hanging requests end
	posts     []Post
	requests  []Request
}

// NewProxy starts a proxy before the server at target, until the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // opening a port does not block
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{URL: "http://" + listener.Addr().String(), changed: make(chan struct{})}
	behind := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: &http.Transport{DisableKeepAlives: true}, // what Orthanc does with idle connections must not decide over a test
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { // the server is down, which is what some tests want
			reset(w)
		},
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, behind) })}
	go func() { _ = server.Serve(listener) }() // ends with Close
	t.Cleanup(func() {
		p.Set(Refuse)
		_ = server.Close() // the test is over
	})
	return p
}

// Set changes what happens to the POSTs of instances from now on. Requests that hang are reset.
func (p *Proxy) Set(b Behaviour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.behaviour = b
	close(p.changed)
	p.changed = make(chan struct{})
}

// Delay answers the POSTs that pass by so much later.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, behind http.Handler) {
	p.mu.Lock()
	p.requests = append(p.requests, Request{r.Method, r.URL.Path})
	behaviour, delay, changed := p.behaviour, p.delay, p.changed
	p.mu.Unlock()
	if r.Method != http.MethodPost || strings.TrimSuffix(r.URL.Path, "/") != "/instances" {
		behind.ServeHTTP(w, r)
		return
	}
	if behaviour == Refuse {
		reset(w)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		reset(w)
		return
	}
	sum := sha256.Sum256(body)
	p.mu.Lock()
	p.posts = append(p.posts, Post{SOPInstanceUID: sopInstanceUID(body), SHA256: hex.EncodeToString(sum[:]), Passed: behaviour == Pass || behaviour == LostReply, At: time.Now()})
	p.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	switch behaviour {
	case Fail:
		http.Error(w, "out of order", http.StatusInternalServerError)
	case Hang:
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		reset(w)
	case LostReply:
		behind.ServeHTTP(discard{http.Header{}}, r)
		reset(w)
	default:
		select {
		case <-time.After(delay):
		case <-changed:
		}
		behind.ServeHTTP(w, r)
	}
}

// discard takes an answer and forgets it.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// reset ends the connection without an answer, as a crashed server does.
func reset(w http.ResponseWriter) {
	hijacker, can := w.(http.Hijacker)
	if !can {
		return
	}
	conn, _, err := hijacker.Hijack()
	if err != nil {
		return // it is gone already
	}
	if tcp, is := conn.(*net.TCPConn); is {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// Posts returns the POSTs of instances that arrived, in their order.
func (p *Proxy) Posts() []Post {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Post(nil), p.posts...)
}

// Passed counts the POSTs that were handed on, by SOP Instance UID.
func (p *Proxy) Passed() map[string]int {
	n := map[string]int{}
	for _, post := range p.Posts() {
		if post.Passed {
			n[post.SOPInstanceUID]++
		}
	}
	return n
}

// Requests returns all requests that arrived, in their order.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Request(nil), p.requests...)
}

// Forget starts counting anew.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.posts, p.requests = nil, nil
}

// sopInstanceUID reads Media Storage SOP Instance UID (0002,0003) out of a file's meta header, which is always explicit VR little endian.
func sopInstanceUID(file []byte) string {
	_, rest, found := bytes.Cut(file[:min(len(file), 1024)], []byte{0x02, 0x00, 0x03, 0x00, 'U', 'I'})
	if !found || len(rest) < 2 {
		return ""
	}
	n := int(binary.LittleEndian.Uint16(rest))
	return strings.TrimRight(string(rest[2:min(len(rest), 2+n)]), "\x00 ")
}
