// Package lua_test runs lua/on-stored-instance.lua inside real Orthancs, in front of routers that answer, refuse, or swallow what they get.
// It knows the script by its behaviour only: requests, delays, and lines in Orthanc's log.
package lua_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagingrouter/tests/orthanctest"
)

const token = "a-token-of-the-tests"

// told is one request that a router got.
type told struct {
	path          string
	authorization string
	contentType   string
	body          string
}

func (r told) instance(t *testing.T) string {
	t.Helper()
	var body struct{ Instance string }
	require.NoError(t, json.Unmarshal([]byte(r.body), &body))
	return body.Instance
}

// router records what it is told, and answers 202, or what status says.
type router struct {
	*httptest.Server

	status atomic.Int32
	mu     sync.Mutex
	all    []told
}

func newRouter(t *testing.T) *router {
	t.Helper()
	r := &router{}
	r.status.Store(http.StatusAccepted)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.all = append(r.all, told{
			path: request.Method + " " + request.URL.Path, authorization: request.Header.Get("Authorization"),
			contentType: request.Header.Get("Content-Type"), body: string(body),
		})
		r.mu.Unlock()
		status := int(r.status.Load())
		w.WriteHeader(status)
		if status == http.StatusAccepted {
			_, _ = io.WriteString(w, `{"accepted":1}`)
		} else {
			_, _ = io.WriteString(w, `{"error":"not today"}`)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *router) told() []told {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]told(nil), r.all...)
}

// waitFor waits until the router was told n times, and returns what.
func (r *router) waitFor(t *testing.T, n int) []told {
	t.Helper()
	require.Eventually(t, func() bool { return len(r.told()) >= n }, 5*time.Second, 10*time.Millisecond, "told %d times, want %d", len(r.told()), n)
	return r.told()
}

// script returns the path of the hook.
func script(t *testing.T) string {
	t.Helper()
	repository, err := orthanctest.Repository()
	require.NoError(t, err)
	return filepath.Join(repository, "lua", "on-stored-instance.lua")
}

// siteScript is a script such as a site may have already. It writes the identifier of every instance into a file (so that a test knows that
// the event was worked off), does what more says, and calls what was defined before it.
type siteScript struct{ path, file string }

func newSiteScript(t *testing.T, more string) siteScript {
	t.Helper()
	folder := t.TempDir()
	s := siteScript{path: filepath.Join(folder, "site.lua"), file: filepath.Join(folder, "seen.txt")}
	text := `
local earlier = OnStoredInstance
` + more + `
function OnStoredInstance(instance, tags, metadata, origin)
  local file = io.open('` + s.file + `', 'a')
  file:write(instance .. ' ' .. tags['Modality'] .. ' ' .. metadata['SopClassUid'] .. ' ' .. origin['RequestOrigin'] .. '\n')
  file:close()
  if earlier ~= nil then earlier(instance, tags, metadata, origin) end
  if whenStored ~= nil then whenStored(instance) end
end`
	require.NoError(t, os.WriteFile(s.path, []byte(text), 0o600))
	return s
}

// seen returns the lines of the file.
func (s siteScript) seen() []string {
	text, err := os.ReadFile(s.file)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func (s siteScript) waitFor(t *testing.T, n int) []string {
	t.Helper()
	require.Eventually(t, func() bool { return len(s.seen()) >= n }, 10*time.Second, 10*time.Millisecond, "the site's script saw %d instances, want %d", len(s.seen()), n)
	return s.seen()
}

// orthancWith starts an Orthanc with the scripts and the settings, as NAME=value without the prefix.
func orthancWith(t *testing.T, version string, scripts []string, settings ...string) *orthanctest.Server {
	t.Helper()
	env := make([]string, 0, len(settings))
	for _, setting := range settings {
		env = append(env, "IMAGING_ROUTER_"+setting)
	}
	return orthanctest.New(t, orthanctest.Config{Version: version, Lua: scripts, Env: env})
}

// upload stores a new instance and says how long Orthanc took.
func upload(t *testing.T, s *orthanctest.Server, f orthanctest.File) (id string, took time.Duration) {
	t.Helper()
	begin := time.Now()
	id, err := s.Upload(t.Context(), f.Bytes())
	require.NoError(t, err)
	return id, time.Since(begin)
}

// closedPort returns the URL of a port on which nobody listens.
func closedPort(t *testing.T) (url, address string) {
	t.Helper()
	port, err := orthanctest.FreePort()
	require.NoError(t, err)
	address = (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String()
	return "http://" + address, address
}

// errors counts the lines of level E in Orthanc's log.
func errors(s *orthanctest.Server) int {
	n := 0
	for line := range strings.Lines(s.Log()) {
		if strings.HasPrefix(line, "E") {
			n++
		}
	}
	return n
}
