package orthanc_test

import (
	"bufio"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/tests/orthanctest"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestOptions(t *testing.T) {
	for _, url := range []string{"", "orthanc:8042", "ftp://orthanc", "http://", "http://user:secret@orthanc:8042", "http://orthanc:8042?x=1"} {
		_, err := orthanc.New(orthanc.Options{URL: url})
		require.Error(t, err, url)
		require.NotContains(t, err.Error(), "secret")
	}
	_, err := orthanc.New(orthanc.Options{URL: "http://orthanc:8042", CAFile: filepath.Join(t.TempDir(), "none.pem")})
	require.ErrorIs(t, err, os.ErrNotExist)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(empty, []byte("no certificate"), 0o600))
	_, err = orthanc.New(orthanc.Options{URL: "https://orthanc:8042", CAFile: empty})
	require.ErrorContains(t, err, "no PEM certificate")
}

func TestCredentials(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s := orthanctest.New(t, orthanctest.Config{Version: version})
		_, err := newClient(t, s, func(o *orthanc.Options) { o.Password = "wrong" }).System(t.Context())
		require.True(t, orthanc.IsDenied(err), "%v", err)
		require.False(t, orthanc.IsUnreachable(err))
		require.False(t, orthanc.IsNotFound(err))
	})
}

// A reverse proxy in front of Orthanc: a path, TLS with a private CA, a token and a header of its own.
func TestBehindAProxy(t *testing.T) {
	var got *http.Request
	proxy := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		_, _ = io.WriteString(w, `{"Version":"1.13.0"}`)
	}))
	defer proxy.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw}), 0o600))
	o := orthanc.Options{
		URL: proxy.URL + "/orthanc/", Token: "t0ken", Username: "not used", Headers: map[string]string{"api-key": "k"}, CAFile: ca, UserAgent: "router/1",
	}
	c, err := orthanc.New(o)
	require.NoError(t, err)
	_, err = c.System(t.Context())
	require.NoError(t, err)
	require.Equal(t, "/orthanc/system", got.URL.Path)
	require.Equal(t, "Bearer t0ken", got.Header.Get("Authorization"))
	require.Equal(t, "k", got.Header.Get("api-key"))
	require.Equal(t, "router/1", got.Header.Get("User-Agent"))

	o.CAFile = ""
	c, err = orthanc.New(o)
	require.NoError(t, err)
	_, err = c.System(t.Context())
	require.ErrorContains(t, err, "certificate")
}

func TestWhatIsNoOrthanc(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"another service": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"hello":1}`) },
		"a page":          func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `<html>`) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
	} {
		server := httptest.NewServer(handler)
		c, err := orthanc.New(orthanc.Options{URL: server.URL, Username: "u", Password: "secret"})
		require.NoError(t, err)
		_, err = c.System(t.Context())
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "secret")
		require.False(t, orthanc.IsUnreachable(err), "%s: %v", name, err)
		server.Close()
	}
}

func TestUnreachable(t *testing.T) {
	port, err := orthanctest.FreePort()
	require.NoError(t, err)
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = hole.Close() }() // a listener that never answers
	badGateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	defer badGateway.Close()
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "{")
	}))
	defer cut.Close()
	for name, url := range map[string]string{
		"refused": "http://127.0.0.1:" + itoa(port), "silent": "http://" + hole.Addr().String(), "gateway": badGateway.URL,
		"cut off": cut.URL, "no such name": "http://orthanc.invalid:8042",
	} {
		c, err := orthanc.New(orthanc.Options{URL: url, Timeout: 300 * time.Millisecond})
		require.NoError(t, err)
		_, err = c.System(t.Context())
		require.True(t, orthanc.IsUnreachable(err), "%s: %v", name, err)
		require.False(t, orthanc.IsNotFound(err))
	}
	c, err := orthanc.New(orthanc.Options{URL: "http://" + hole.Addr().String()})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err = c.System(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, orthanc.IsUnreachable(err), "its owner cancelled it")
	require.False(t, orthanc.IsUnreachable(nil))
	require.False(t, orthanc.IsUnreachable(errors.New("another")))
}

// A server that closes the connection under the first requests: reading calls are sent again, a job is not submitted twice.
func TestBrokenConnections(t *testing.T) {
	var requests, toBreak atomic.Int32
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			request, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil {
				_, _ = io.Copy(io.Discard, request.Body)
				requests.Add(1)
				if toBreak.Add(-1) < 0 {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 20\r\n\r\n{\"Version\":\"1.13.0\"}")
				}
			}
			_ = conn.Close()
		}
	}()
	c, err := orthanc.New(orthanc.Options{URL: "http://" + l.Addr().String()})
	require.NoError(t, err)
	for broken, wantRequests := range map[int32]int32{0: 1, 1: 2, 2: 3} {
		toBreak.Store(broken)
		requests.Store(0)
		_, err = c.System(t.Context())
		require.NoError(t, err)
		require.Equal(t, wantRequests, requests.Load())
	}
	toBreak.Store(100)
	requests.Store(0)
	_, err = c.System(t.Context())
	require.True(t, orthanc.IsUnreachable(err))
	require.EqualValues(t, 3, requests.Load())
	requests.Store(0)
	_, err = c.StoreToPeer(t.Context(), "p", orthanc.Shipment{Resources: []string{unknown}})
	require.True(t, orthanc.IsUnreachable(err))
	require.EqualValues(t, 1, requests.Load(), "submitting a job was repeated")
}

// Orthanc closes idle connections after a second. Requests at about that rhythm must not meet a closing one.
func TestIdleConnectionsAreClosedBeforeOrthancDoes(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s := orthanctest.New(t, orthanctest.Config{Version: version, Extra: map[string]any{
			"OrthancPeers": map[string]any{"p": map[string]any{"Url": "http://127.0.0.1:1/"}},
		}})
		id := upload(t, s, orthanctest.File{})
		var group errgroup.Group
		for i := range 40 {
			group.Go(func() error {
				c := newClient(t, s)
				for range 3 {
					if _, err := c.StoreToPeer(t.Context(), "p", orthanc.Shipment{Resources: []string{id}}); err != nil { // a POST, which nobody repeats
						return err
					}
					time.Sleep(990*time.Millisecond + time.Duration(i)*time.Millisecond)
				}
				return nil
			})
		}
		require.NoError(t, group.Wait())
	})
}
