package e2e

import (
	"fmt"
	"maps"
	"testing"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// site is an archive with its router, in a world of its own without destinations. What the other site sends it passes a counting proxy.
type site struct {
	*world
	entrance *routertest.Proxy
}

// twoSites makes two sites, a and b, whose rules send spines to one another. Nothing is started but the archives.
func twoSites(t *testing.T, version string, fromUsernames bool, archive map[string]any) (a, b *site) {
	t.Helper()
	names := []string{"a", "b"}
	ports, proxies := map[string]int{}, map[string]*routertest.Proxy{}
	for _, name := range names {
		port, err := orthanctest.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		ports[name], proxies[name] = port, routertest.NewProxy(t, fmt.Sprintf("http://127.0.0.1:%d", port))
	}
	made := map[string]*site{}
	for i, name := range names {
		other := names[1-i]
		w := &world{T: t, version: version, destinations: map[string]*destination{}}
		destination := map[string]any{"name": other, "peer": other, "timeout": "30s"}
		if fromUsernames {
			destination["from_usernames"] = []string{"site-" + other}
		}
		w.router = routertest.New(t, routertest.Config{Version: version, Token: "the-t0ken-of-site-" + name, Settings: join(usual(plan{alone: true}), routertest.Settings{
			"destinations": []any{destination},
			"rules":        []any{rule("to the other site", `class == "spine"`, other)},
		})})
		extra := map[string]any{"OrthancPeers": map[string]any{other: map[string]any{
			"Url": proxies[other].URL + "/", "Username": "site-" + name, "Password": "secret of " + name, "Timeout": 10,
		}}}
		maps.Copy(extra, archive)
		w.archive = orthanctest.New(t, orthanctest.Config{Version: version, Name: name, HTTPPort: ports[name], Extra: extra,
			Users: map[string]string{"router": "secret", "site-" + other: "secret of " + other}})
		w.archive.Username, w.archive.Password = "router", "secret"
		w.front = routertest.NewProxy(t, w.archive.URL)
		w.router.Beside(t, w.archive, w.front.URL)
		made[name] = &site{world: w, entrance: proxies[name]}
	}
	return made["a"], made["b"]
}

// polled waits until the router has asked for changes a few times more.
func (s *site) polled() {
	s.Helper()
	count := func() (n int) {
		for _, r := range s.front.Requests() {
			if r.Path == "/changes" {
				n++
			}
		}
		return n
	}
	before := count()
	s.eventually("the follower asks on", func() error {
		if n := count(); n < before+5 {
			return fmt.Errorf("%d times, %d before", n, before)
		}
		return nil
	})
}

// rest waits until so much has passed between the sites, both are idle, and they stay so over several looks at the changes.
func rest(t *testing.T, a, b *site, toB, toA int) {
	t.Helper()
	a.eventually("it is where it belongs", func() error {
		if n, m := len(b.entrance.Posts()), len(a.entrance.Posts()); n < toB || m < toA {
			return fmt.Errorf("%d POSTs to b and %d to a, want %d and %d", n, m, toB, toA)
		}
		return nil
	})
	for range 3 {
		a.idle()
		b.idle()
		a.polled()
		b.polled()
	}
	if n, m := len(b.entrance.Posts()), len(a.entrance.Posts()); n != toB || m != toA {
		t.Errorf("%d POSTs to b and %d to a, want %d and %d", n, m, toB, toA)
	}
}

// Two sites whose rules send to one another: what came from there does not go back, where from_usernames says so.
func TestTwoSitesThatKnowOneAnother(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		a, b := twoSites(t, version, true, map[string]any{"OverwriteInstances": true})
		a.begun()
		b.begun()
		x := of(t, "spine")
		a.upload(x)
		rest(t, a, b, 1, 0)
		b.labelled(x, label("spine"))
		if story := b.router.Show(t.Context(), x.id); !contains(story, "not to a: it came from there") {
			t.Errorf("the story does not say why it does not go back:\n%s", story)
		}
		back := of(t, "spine") // the other direction works all the same
		b.upload(back)
		rest(t, a, b, 1, 1)
		if n := a.entrance.Passed()[back.sop]; n != 1 {
			t.Errorf("what b has of its own was sent %d times to a", n)
		}
	})
}

// Without from_usernames it goes there and back once, and no further: also where the archives take it anew each time it comes.
func TestTwoSitesThatDoNotKnowOneAnother(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		for _, overwrite := range []bool{false, true} {
			t.Run(fmt.Sprintf("OverwriteInstances %t", overwrite), func(t *testing.T) {
				a, b := twoSites(t, version, false, map[string]any{"OverwriteInstances": overwrite})
				a.begun()
				b.begun()
				x := of(t, "spine")
				a.upload(x)
				rest(t, a, b, 1, 1)
				a.labelled(x, label("spine"))
				b.labelled(x, label("spine"))
				if n := a.story(x.id, "published"); (n > 1) != overwrite {
					t.Errorf("what came back to a was published there %d times: this test does not see what it is about", n)
				}
			})
		}
	})
}
