package routertest

import (
	"bytes"
	"context"
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
	Status         int    // that the server behind answered; 0 while it has not, and when it never did
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
	passes    int                            // POSTs that pass before the behaviour begins
	rejected  map[string]bool                // SOP Instance UIDs whose POSTs are answered with 500, whatever the behaviour
	withholds func(method, path string) bool // requests whose answers are withheld; nil: none
	withheld  int
	changed   chan struct{} // closed when the behaviour changes: hanging requests end
	posts     []*Post
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
	p.behaviour, p.passes = b, 0
	p.wake()
}

// wake ends what hangs. The caller holds the lock.
func (p *Proxy) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// After lets n POSTs of instances pass and does to the later ones what the behaviour says.
func (p *Proxy) After(n int, b Behaviour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.behaviour, p.passes = b, n
	p.wake()
}

// Reject answers the POSTs of these instances, by SOP Instance UID, with 500 from now on, and of no other; the rest goes as the behaviour says.
func (p *Proxy) Reject(uids ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rejected = map[string]bool{}
	for _, uid := range uids {
		p.rejected[uid] = true
	}
}

// Withhold passes requests of any kind on for which the function holds, and keeps their answers until the next Withhold, when their connections
// are reset. nil withholds nothing.
func (p *Proxy) Withhold(which func(method, path string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.withholds = which
	p.wake()
}

// Withheld counts the requests that were passed on and answered by the server behind, and whose answers were withheld.
func (p *Proxy) Withheld() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.withheld
}

// withhold passes a request on, keeps the answer until something changes, and resets the connection.
func (p *Proxy) withhold(w http.ResponseWriter, r *http.Request, behind http.Handler, changed <-chan struct{}) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		reset(w)
		return
	}
	passed := r.WithContext(context.WithoutCancel(r.Context())) // the server behind shall do it, whether the client is still there or not
	passed.Body = io.NopCloser(bytes.NewReader(body))
	behind.ServeHTTP(discard{http.Header{}}, passed)
	p.mu.Lock()
	p.withheld++
	p.mu.Unlock()
	select {
	case <-changed:
	case <-r.Context().Done():
	}
	reset(w)
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
	instance := r.Method == http.MethodPost && strings.TrimSuffix(r.URL.Path, "/") == "/instances"
	if instance && p.passes > 0 {
		behaviour, p.passes = Pass, p.passes-1
	}
	withheld := p.withholds != nil && p.withholds(r.Method, r.URL.Path)
	p.mu.Unlock()
	if withheld {
		p.withhold(w, r, behind, changed)
		return
	}
	if !instance {
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
	sum, uid := sha256.Sum256(body), sopInstanceUID(body)
	p.mu.Lock()
	if p.rejected[uid] {
		behaviour = Fail
	}
	post := &Post{SOPInstanceUID: uid, SHA256: hex.EncodeToString(sum[:]), Passed: behaviour == Pass || behaviour == LostReply, At: time.Now()}
	p.posts = append(p.posts, post)
	p.mu.Unlock()
	answered := func(status int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		post.Status = status
	}
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
		behind.ServeHTTP(noting{discard{http.Header{}}, answered}, r)
		reset(w)
	default:
		select {
		case <-time.After(delay):
		case <-changed:
		}
		behind.ServeHTTP(noting{w, answered}, r)
	}
}

// noting takes note of the status of an answer.
type noting struct {
	http.ResponseWriter

	status func(int)
}

func (n noting) WriteHeader(status int) {
	n.status(status)
	n.ResponseWriter.WriteHeader(status)
}

// Unwrap lets the connection be reset.
func (n noting) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// discard takes an answer and forgets it.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// reset ends the connection without an answer, as a crashed server does.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // it is gone already, or a discarded answer
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
	posts := make([]Post, len(p.posts))
	for i, post := range p.posts {
		posts[i] = *post
	}
	return posts
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
