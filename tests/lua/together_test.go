package lua_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagingrouter/tests/orthanctest"
)

// A listener that takes every connection and never answers: what a firewall or a hanging router looks like. Only the first instance costs
// Orthanc its second; then there is silence, and after it again one second at most.
func TestTheRouterIsABlackHole(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = l.Close() }()
		var connections atomic.Int32
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				connections.Add(1)
				defer func() { _ = conn.Close() }()
			}
		}()
		site := newSiteScript(t, "")
		s := orthancWith(t, version, []string{site.path, script(t)}, "URL=http://"+l.Addr().String(), "TOKEN="+token, "SILENCE=4")

		begin := time.Now()
		var longest time.Duration
		for range 20 {
			_, took := upload(t, s, orthanctest.File{})
			longest = max(longest, took)
		}
		site.waitFor(t, 20)
		all := time.Since(begin)
		t.Logf("20 instances took %v, the longest %v", all, longest)
		require.EqualValues(t, 1, connections.Load(), "within the silence")
		require.Greater(t, all, 500*time.Millisecond, "the black hole was not felt at all: the test proves nothing")
		require.Less(t, longest, 1700*time.Millisecond)
		require.Less(t, all, 3*time.Second)

		time.Sleep(time.Until(begin.Add(all + 4200*time.Millisecond)))
		begin = time.Now()
		for range 5 {
			upload(t, s, orthanctest.File{})
		}
		site.waitFor(t, 25)
		require.EqualValues(t, 2, connections.Load(), "after the silence it tries again, once")
		require.Less(t, time.Since(begin), 2500*time.Millisecond)
	})
}

// A site's script and ours, in both orders: both see every instance.
func TestTwoScriptsChained(t *testing.T) {
	for _, oursLast := range []bool{true, false} {
		name := "ours first"
		if oursLast {
			name = "ours last"
		}
		t.Run(name, func(t *testing.T) {
			orthanctest.Each(t, func(t *testing.T, version string) {
				r := newRouter(t)
				site := newSiteScript(t, "")
				scripts := []string{script(t), site.path}
				if oursLast {
					scripts = []string{site.path, script(t)}
				}
				s := orthancWith(t, version, scripts, "URL="+r.URL, "TOKEN="+token)
				id, _ := upload(t, s, orthanctest.File{})
				ct, _ := upload(t, s, orthanctest.File{SOPClass: orthanctest.CT, Modality: "CT"})
				require.Equal(t, id, r.waitFor(t, 1)[0].instance(t))
				require.Equal(t, []string{
					id + " DX " + orthanctest.DigitalXRay + " RestApi", ct + " CT " + orthanctest.CT + " RestApi",
				}, site.waitFor(t, 2))
				require.Len(t, r.told(), 1)
				require.Zero(t, errors(s))
			})
		})
	}
}

// An error in a site's script does not stop ours, and a router that is down does not stop the site's.
func TestNeitherScriptStopsTheOther(t *testing.T) {
	for _, oursLast := range []bool{true, false} {
		name := "ours first"
		if oursLast {
			name = "ours last"
		}
		t.Run(name, func(t *testing.T) {
			orthanctest.Each(t, func(t *testing.T, version string) {
				r := newRouter(t)
				site := newSiteScript(t, "function whenStored(instance) error('the site made a mistake') end")
				scripts := []string{script(t), site.path}
				if oursLast {
					scripts = []string{site.path, script(t)}
				}
				s := orthancWith(t, version, scripts, "URL="+r.URL, "TOKEN="+token)
				upload(t, s, orthanctest.File{})
				upload(t, s, orthanctest.File{})
				require.Len(t, r.waitFor(t, 2), 2)
				site.waitFor(t, 2)
				require.Eventually(t, func() bool {
					return strings.Contains(s.Log(), "the site made a mistake")
				}, 5*time.Second, 20*time.Millisecond, "the site's error is hidden")

				down, _ := closedPort(t)
				calm := newSiteScript(t, "")
				s = orthancWith(t, version, []string{calm.path, script(t)}, "URL="+down, "TOKEN="+token)
				upload(t, s, orthanctest.File{})
				upload(t, s, orthanctest.File{})
				calm.waitFor(t, 2)
			})
		})
	}
}

// All Lua scripts share one HTTP client. What a site has set for its own requests does not reach the router, and our second of timeout and
// our token do not reach theirs.
func TestCredentialsAndTimeoutsStayApart(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		r := newRouter(t)
		var authorization atomic.Value
		theirs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
			time.Sleep(1500 * time.Millisecond) // more than our timeout
			user, password, ok := request.BasicAuth()
			if ok {
				authorization.Store(user + ":" + password)
			} else {
				authorization.Store("other: " + request.Header.Get("Authorization"))
			}
			w.WriteHeader(http.StatusOK)
		}))
		defer theirs.Close()
		site := newSiteScript(t, `
SetHttpCredentials('site', 'secret-of-the-site')
function whenStored(instance)
  if HttpPost('`+theirs.URL+`', '{}') == nil then print('the site could not send') else print('the site has sent') end
end`)
		s := orthancWith(t, version, []string{site.path, script(t)}, "URL="+r.URL, "TOKEN="+token)
		upload(t, s, orthanctest.File{})
		require.Eventually(t, func() bool { return authorization.Load() != nil }, 5*time.Second, 20*time.Millisecond)
		require.Equal(t, "site:secret-of-the-site", authorization.Load())
		require.Eventually(t, func() bool { return strings.Contains(s.Log(), "the site") }, 5*time.Second, 20*time.Millisecond)
		require.Contains(t, s.Log(), "the site has sent")
		for _, one := range r.waitFor(t, 1) {
			require.Equal(t, "Bearer "+token, one.authorization)
		}
	})
}
