package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// mood is what the front does to the router's requests.
type mood int

const (
	well      mood = iota
	error500       // answered with 500, and not passed on
	error503       // answered with 503; every second one was passed on before
	garbage        // passed on, and answered with 200 and nonsense
	slow           // passed on, and answered late, in pieces
	cutFile        // of a DICOM file only a half arrives, then the connection is reset
	cutAnswer      // the same of everything else
)

// exchange is one request of the router's that reached the front, and what became of it.
type exchange struct {
	At, Done time.Time
	Method   string
	URI      string
	Status   int    // that the router was given; 0: the connection was reset
	Effect   string // what the front did to it; "" = passed on as it was
	Sent     []byte // the body of a request that submits a job
	Answer   []byte // Orthanc's own, to what is about jobs
}

// trap catches the first request that it is set for, until it is let go: then the connection is reset.
type trap struct {
	matches func(method, path string) bool
	after   func(answer []byte) bool // nil: the request is kept from Orthanc; else the answer for which it holds is kept from the router
	caught  chan struct{}
	let     chan struct{}
}

// front stands between the router and the archive.
type front struct {
	URL     string
	archive string

	mu     sync.Mutex
	random *rand.Rand
	mood   mood
	share  float64 // of the requests that the mood is for
	trap   *trap
	log    []*exchange

	only     func(method, path string) bool // the first such request alone
	onlyMood mood
}

// newFront starts a front before the archive, until the test ends.
func newFront(t testing.TB, archive string, random *rand.Rand) *front {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{URL: "http://" + listener.Addr().String(), archive: archive, random: random}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: f}
	go func() { _ = server.Serve(listener) }() // ends with Close
	t.Cleanup(func() {
		f.letGo()
		_ = server.Close() // the test is over
	})
	return f
}

// set changes the mood for a share of the requests.
func (f *front) set(m mood, share float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mood, f.share = m, share
}

// lay sets a trap; there is one at a time.
func (f *front) lay(matches func(method, path string) bool, after func(answer []byte) bool) *trap {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trap = &trap{matches: matches, after: after, caught: make(chan struct{}), let: make(chan struct{})}
	return f.trap
}

// letGo takes the trap away and resets what is in it.
func (f *front) letGo() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trap != nil {
		close(f.trap.let)
	}
	f.trap = nil
}

// exchanges returns what has been so far.
func (f *front) exchanges() []exchange {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]exchange, len(f.log))
	for i, e := range f.log {
		out[i] = *e
	}
	return out
}

var toArchive = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true}, // what Orthanc does with idle connections must not decide over a test
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		reset(w)
		return
	}
	e, effect, chosen := f.begin(r, body)
	status := f.serve(w, r, body, e, effect, chosen)
	f.mu.Lock()
	defer f.mu.Unlock()
	e.Done, e.Status = time.Now(), status
}

// begin notes a request and decides what is done to it.
func (f *front) begin(r *http.Request, body []byte) (e *exchange, effect mood, t *trap) {
	e = &exchange{At: time.Now(), Method: r.Method, URI: r.URL.RequestURI()}
	if submits(r.Method, r.URL.Path) {
		e.Sent = body
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, e)
	if f.trap != nil && f.trap.matches(r.Method, r.URL.Path) {
		return e, well, f.trap
	}
	if f.only != nil && f.only(r.Method, r.URL.Path) {
		f.only = nil
		return e, f.onlyMood, nil
	}
	file := strings.HasSuffix(r.URL.Path, "/file")
	if f.mood == well || f.mood == cutFile && !file || f.mood == cutAnswer && file || f.random.Float64() >= f.share {
		return e, well, nil
	}
	return e, f.mood, nil
}

// serve answers, and returns the status that the router was given.
func (f *front) serve(w http.ResponseWriter, r *http.Request, body []byte, e *exchange, effect mood, t *trap) int {
	if t != nil && t.after == nil && f.keep(t, e, "kept from Orthanc") {
		<-t.let
		reset(w)
		return 0
	}
	if effect == error500 || effect == error503 && f.draw(2) == 0 {
		f.note(e, fmt.Sprintf("answered with %d instead of passed on", statusOf[effect]))
		http.Error(w, "out of order", statusOf[effect])
		return statusOf[effect]
	}
	header, status, answer, err := f.pass(r, body)
	if err != nil { // the archive is down
		f.note(e, "no answer: "+err.Error())
		reset(w)
		return 0
	}
	if strings.HasPrefix(r.URL.Path, "/jobs") || submits(r.Method, r.URL.Path) {
		f.mu.Lock()
		e.Answer = answer
		f.mu.Unlock()
	}
	if t != nil && t.after != nil && t.after(answer) && f.keep(t, e, "answered; the answer is kept from the router") {
		<-t.let
		reset(w)
		return 0
	}
	return f.answer(w, header, status, answer, e, effect)
}

var statusOf = map[mood]int{error500: http.StatusInternalServerError, error503: http.StatusServiceUnavailable}

// answer gives the router what Orthanc has answered, or what the mood makes of it.
func (f *front) answer(w http.ResponseWriter, header http.Header, status int, answer []byte, e *exchange, effect mood) int {
	switch effect {
	case error503:
		f.note(e, "passed on, and answered with 503")
		http.Error(w, "out of order", http.StatusServiceUnavailable)
		return http.StatusServiceUnavailable
	case garbage:
		f.note(e, "passed on, and answered with nonsense")
		status, answer = http.StatusOK, f.nonsense(answer)
		header = http.Header{"Content-Type": {"text/html"}}
	case slow:
		f.note(e, "passed on, and answered slowly")
		time.Sleep(time.Duration(f.draw(1500)) * time.Millisecond)
	case cutFile, cutAnswer:
		f.note(e, "passed on, and cut off in the middle of the answer")
		w.Header().Set("Content-Length", fmt.Sprint(len(answer)+1)) // also where there is nothing to be cut
		w.WriteHeader(status)
		_, _ = w.Write(answer[:len(answer)/2])
		_ = http.NewResponseController(w).Flush()
		reset(w)
		return 0
	case well, error500: // as it is; and what was not passed on has no answer
	}
	for name, values := range header {
		if name != "Connection" && name != "Keep-Alive" && name != "Transfer-Encoding" {
			w.Header()[name] = values
		}
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
	w.WriteHeader(status)
	pieces := 1
	if effect == slow {
		pieces = 8
	}
	for i := range pieces {
		if i > 0 {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(50 * time.Millisecond)
		}
		if _, err := w.Write(answer[len(answer)*i/pieces : len(answer)*(i+1)/pieces]); err != nil {
			return 0
		}
	}
	return status
}

// nonsense is what a broken proxy may say with status 200.
func (f *front) nonsense(answer []byte) []byte {
	switch f.draw(4) {
	case 0:
		return []byte("<html><body>The service is being restarted.</body></html>")
	case 1:
		return []byte("{}")
	case 2:
		return answer[:len(answer)/3]
	default:
		junk := make([]byte, 1+f.draw(2000))
		for i := range junk {
			junk[i] = byte(f.draw(256))
		}
		return junk
	}
}

// pass makes the request to the archive and returns the whole answer. The router's hanging up does not end it.
func (f *front) pass(r *http.Request, body []byte) (header http.Header, status int, answer []byte, err error) {
	request, err := http.NewRequest(r.Method, f.archive+r.URL.RequestURI(), bytes.NewReader(body)) // not with its context: see above
	if err != nil {
		return nil, 0, nil, err
	}
	request.Header = r.Header.Clone()
	response, err := toArchive.Do(request)
	if err != nil {
		return nil, 0, nil, err
	}
	defer func() { _ = response.Body.Close() }() // read only
	answer, err = io.ReadAll(response.Body)
	return response.Header, response.StatusCode, answer, err
}

// keep says whether the trap has caught this request: it catches one.
func (f *front) keep(t *trap, e *exchange, effect string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-t.caught:
		return false
	case <-t.let:
		return false
	default:
		close(t.caught)
		e.Effect = effect
		return true
	}
}

func (f *front) note(e *exchange, effect string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.Effect = effect
}

func (f *front) draw(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.random.IntN(n)
}

// submits says whether a request hands a delivery to Orthanc.
func submits(method, path string) bool {
	return method == http.MethodPost && strings.HasPrefix(path, "/peers/") && strings.HasSuffix(path, "/store")
}

// reset ends the connection without an answer, or in the middle of one.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // it is gone already
	}
	if tcp, is := conn.(*net.TCPConn); is {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// shipment is one job that Orthanc has taken from the router, as the front saw it.
type shipment struct {
	peer      string
	instances []string // Orthanc's
	job       string
	from      time.Time
	until     time.Time // the router was told of its end; zero: it never was
	success   bool
}

// shipments returns the jobs in the order in which they were taken.
func (f *front) shipments() []shipment {
	var out []shipment
	at := map[string]int{}
	for _, e := range f.exchanges() {
		if path, _, _ := strings.Cut(e.URI, "?"); submits(e.Method, path) {
			var request struct{ Resources []string }
			var answer struct{ ID string }
			if json.Unmarshal(e.Sent, &request) != nil || json.Unmarshal(e.Answer, &answer) != nil || answer.ID == "" {
				continue // refused, or never answered
			}
			at[answer.ID] = len(out)
			out = append(out, shipment{peer: strings.Split(path, "/")[2], instances: request.Resources, job: answer.ID, from: e.At})
			continue
		}
		if e.Status != http.StatusOK || e.Effect != "" {
			continue
		}
		for _, job := range jobsIn(e.Answer) {
			i, known := at[job.ID]
			if known && out[i].until.IsZero() && (job.State == "Success" || job.State == "Failure") {
				out[i].until, out[i].success = e.Done, job.State == "Success"
			}
		}
	}
	return out
}

type jobState struct{ ID, State string }

// jobsIn reads an answer of /jobs?expand or /jobs/{id}.
func jobsIn(answer []byte) []jobState {
	var list []jobState
	if json.Unmarshal(answer, &list) == nil {
		return list
	}
	var one jobState
	if json.Unmarshal(answer, &one) == nil && one.ID != "" {
		return []jobState{one}
	}
	return nil
}

// spoilt counts the requests since a time to which the front did something.
func (f *front) spoilt(since time.Time) int {
	n := 0
	for _, e := range f.exchanges() {
		if e.Effect != "" && e.At.After(since) {
			n++
		}
	}
	return n
}
