// Package orthanc is the typed REST client for one Orthanc (1.12 or newer): what was stored, its pixels, metadata, labels and
// sending jobs. It knows nothing of classes, rules or queues, never returns patient tags that were not asked for, and puts none into its errors.
package orthanc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-resty/resty/v2"
)

const (
	defaultTimeout = 30 * time.Second
	defaultMaxFile = 512 << 20 // bytes; a 12-megapixel 16-bit plate is 24 MB
	maxAnswer      = 64 << 20  // bytes of one JSON answer; a bulk of 500 instances is below 1 MB

	// Orthanc closes an idle connection after KeepAliveTimeout = 1 s. A pool that keeps them longer meets the closing one now
	// and then, and what is not idempotent may not be sent again.
	idleConnTimeout = 700 * time.Millisecond
	idleConns       = 16

	tries     = 3 // of an idempotent call whose connection broke; other failures are the caller's to repeat
	retryWait = 100 * time.Millisecond
)

// Options say which Orthanc, and how to speak to it.
type Options struct {
	URL                string // http(s)://host:port, with a path where a reverse proxy puts one; no user and password in it
	Username, Password string // HTTP Basic; both empty for none
	Token              string // sent as "Authorization: Bearer …" in place of Basic
	Headers            map[string]string
	CAFile             string        // PEM certificates that are trusted besides the system's
	Timeout            time.Duration // of one request, its answer included; 30 s when zero
	MaxFile            int64         // bytes; larger files are refused with ErrTooLarge; 512 MiB when zero
	UserAgent          string
}

// Client speaks to one Orthanc. It is safe for concurrent use.
type Client struct {
	http    *resty.Client
	base    string
	maxFile int64
	system  atomic.Pointer[System] // the last answer of System: what this Orthanc can do
}

// New checks the options and returns a client. It sends nothing.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.URL)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, errors.New("orthanc: the URL must look like http://host:8042")
	}
	if base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("orthanc: the URL must hold no user, password, query or fragment (username and password have settings of their own)")
	}
	transport, err := newTransport(o.CAFile)
	if err != nil {
		return nil, err
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.MaxFile <= 0 {
		o.MaxFile = defaultMaxFile
	}
	if o.UserAgent == "" {
		o.UserAgent = "imaging-router"
	}
	c := resty.NewWithClient(&http.Client{
		Transport: transport,
		Timeout:   o.Timeout,
		// A redirect would carry the credentials elsewhere; it is reported as the wrong URL that it is.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	c.SetDisableWarn(true) // Basic authentication over plain HTTP is how most Orthancs stand beside their router
	c.SetLogger(silent{})
	c.SetHeader("User-Agent", o.UserAgent)
	c.SetHeaders(o.Headers)
	switch {
	case o.Token != "":
		c.SetAuthToken(o.Token)
	case o.Username != "" || o.Password != "":
		c.SetBasicAuth(o.Username, o.Password)
	}
	return &Client{http: c, base: strings.TrimRight(o.URL, "/"), maxFile: o.MaxFile}, nil
}

func newTransport(caFile string) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		MaxIdleConns:          idleConns,
		MaxIdleConnsPerHost:   idleConns,
		IdleConnTimeout:       idleConnTimeout,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // pixels are large and on the same machine
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("orthanc: read the CA file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("orthanc: the CA file %s holds no PEM certificate", caFile)
	}
	t.TLSClientConfig.RootCAs = roots
	return t, nil
}

// silent drops resty's own log lines: whoever calls logs the error, once.
type silent struct{}

func (silent) Errorf(string, ...any) {}
func (silent) Warnf(string, ...any)  {}
func (silent) Debugf(string, ...any) {}

// call is one request to be made.
type call struct {
	method string
	path   string // escaped; ids in it were checked
	query  string // raw, because Orthanc 1.12 does not decode %3B
	body   any    // nil, string, or something to be sent as JSON
	header map[string]string
	limit  int64 // bytes of the answer
	repeat bool  // may be sent again when the connection breaks
}

// answer is a whole response.
type answer struct {
	header http.Header
	body   []byte
}

// do makes the call, again when it may be repeated and its connection broke. Any status but 200 becomes an *Error.
func (c *Client) do(ctx context.Context, k call) (answer, error) {
	for try := 1; ; try++ {
		a, err := c.once(ctx, k)
		if err == nil || !k.repeat || try == tries || !brokenConnection(err) {
			return a, err
		}
		select {
		case <-ctx.Done():
			return a, err
		case <-time.After(retryWait * time.Duration(try)):
		}
	}
}

func (c *Client) once(ctx context.Context, k call) (answer, error) {
	r := c.http.R().SetContext(ctx).SetDoNotParseResponse(true).SetHeaders(k.header)
	if k.body != nil {
		r.SetBody(k.body)
		if _, text := k.body.(string); text {
			r.SetHeader("Content-Type", "text/plain; charset=utf-8")
		} else {
			r.SetHeader("Content-Type", "application/json")
		}
	}
	target := c.base + k.path
	if k.query != "" {
		target += "?" + k.query
	}
	response, err := r.Execute(k.method, target)
	if err != nil {
		return answer{}, fmt.Errorf("orthanc: %w", err)
	}
	raw := response.RawBody()
	defer func() { _ = raw.Close() }() // it was read only
	if response.StatusCode() != http.StatusOK {
		return answer{}, newError(k, response.StatusCode(), raw)
	}
	limit := k.limit
	if limit <= 0 {
		limit = maxAnswer
	}
	body, err := readAll(raw, response.RawResponse.ContentLength, limit)
	if err != nil {
		return answer{}, fmt.Errorf("orthanc: %s %s: read the answer: %w", k.method, k.path, err)
	}
	return answer{header: response.Header(), body: body}, nil
}

// readAll reads a body of at most limit bytes, in one piece of memory where its length was announced.
func readAll(r io.Reader, announced, limit int64) ([]byte, error) {
	if announced > limit {
		return nil, ErrTooLarge
	}
	if announced >= 0 {
		body := make([]byte, announced)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, err
		}
		return body, nil
	}
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, ErrTooLarge
	}
	return body, nil
}

// getJSON fetches a path into v.
func (c *Client) getJSON(ctx context.Context, path, query string, v any) error {
	a, err := c.do(ctx, call{method: http.MethodGet, path: path, query: query, repeat: true})
	if err != nil {
		return err
	}
	return a.decode(path, v)
}

func (a answer) decode(path string, v any) error {
	if err := json.Unmarshal(a.body, v); err != nil {
		return fmt.Errorf("orthanc: %s: the answer is not the JSON that was expected: %w", path, err)
	}
	return nil
}
