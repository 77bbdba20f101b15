package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
	"imagingrouter/tests/worldtest"
)

// within is how long anything may take that is waited for: no test measures time, so it only bounds a failure.
const within = 3 * time.Minute

// plan says what differs from the usual world: an archive without hook beside a router that forwards to two destinations, follows changes five
// times a second, sweeps never and takes the network's word whatever its confidence.
type plan struct {
	settings routertest.Settings
	hook     bool
	front    bool           // a counting proxy between router and archive
	archive  map[string]any // laid over the archive's configuration
	verbose  bool           // the archive logs every request
	alone    bool           // no destinations
}

// world is an archive, a router and what they send to.
type world struct {
	*testing.T
	version      string
	archive      *orthanctest.Server
	front        *routertest.Proxy // nil unless planned
	router       *routertest.Router
	destinations map[string]*destination
}

// destination is an Orthanc behind a counting proxy.
type destination struct {
	*orthanctest.Server
	proxy *routertest.Proxy
}

const (
	chestAI = "chest-ai"
	spineAI = "spine-ai"
)

// route is where the rules of the usual world send a class.
var route = map[string][]string{
	"adult_chest": {chestAI}, "pediatric_chest": {chestAI}, "spine": {spineAI}, "abdominal": {chestAI, spineAI}, "others": nil, "review": nil,
}

var classes = worldtest.Classes

// newWorld starts everything but the router.
func newWorld(t *testing.T, version string, p plan) *world {
	t.Helper()
	w := &world{T: t, version: version, destinations: map[string]*destination{}}
	w.router = routertest.New(t, routertest.Config{Version: version, Token: "t0ken-of-the-hook", Settings: usual(p)})
	peers := map[string]any{}
	if !p.alone {
		for _, name := range []string{chestAI, spineAI} {
			d := &destination{Server: orthanctest.New(t, orthanctest.Config{Version: version, Name: name, AET: "DEST"})}
			d.proxy = routertest.NewProxy(t, d.URL)
			w.destinations[name] = d
			peers[name] = map[string]any{"Url": d.proxy.URL + "/", "Username": d.Username, "Password": d.Password, "Timeout": 10}
		}
	}
	extra := map[string]any{"OrthancPeers": peers}
	maps.Copy(extra, p.archive)
	c := orthanctest.Config{Version: version, Name: "archive", Extra: extra, Verbose: p.verbose,
		Users: map[string]string{"router": "secret", "chest-ai": "chest", "modality": "m"}}
	if p.hook {
		c.Lua = []string{routertest.Hook(t)}
		c.Env = []string{"IMAGING_ROUTER_URL=" + w.router.URL, "IMAGING_ROUTER_TOKEN=" + w.router.Token, "IMAGING_ROUTER_SILENCE=2"}
	}
	w.archive = orthanctest.New(t, c)
	w.archive.Username, w.archive.Password = "router", "secret"
	url := ""
	if p.front {
		w.front = routertest.NewProxy(t, w.archive.URL)
		url = w.front.URL
	}
	w.router.Beside(t, w.archive, url)
	return w
}

func usual(p plan) routertest.Settings {
	s := routertest.Settings{
		"orthanc":    routertest.Settings{"concurrent_jobs": 8}, // Orthanc 1.12 does not say it
		"intake":     routertest.Settings{"poll_interval": "200ms"},
		"model":      routertest.Settings{"thresholds": map[string]float64{"abdominal": 0, "adult_chest": 0, "pediatric_chest": 0, "spine": 0, "others": 0}},
		"jobs":       routertest.Settings{"backoff_max": "2s"},
		"publish":    routertest.Settings{"sweep_interval": "1000h"},
		"forwarding": routertest.Settings{"enabled": true},
	}
	if !p.alone {
		s["destinations"] = []any{
			map[string]any{"name": chestAI, "peer": chestAI, "from_usernames": []string{"chest-ai"}, "timeout": "30s"},
			map[string]any{"name": spineAI, "peer": spineAI, "timeout": "30s"},
		}
		s["rules"] = []any{
			map[string]any{"name": "chests", "when": `class == "adult_chest" || class == "pediatric_chest"`, "to": []string{chestAI}},
			map[string]any{"name": "spines", "when": `class == "spine"`, "to": []string{spineAI}},
			map[string]any{"name": "abdomens", "when": `class == "abdominal"`, "to": []string{chestAI, spineAI}},
		}
	}
	return join(s, p.settings)
}

// join lays top over base, mapping by mapping.
func join(base, top routertest.Settings) routertest.Settings {
	out := maps.Clone(base)
	for k, v := range top {
		a, isMap := out[k].(routertest.Settings)
		b, both := v.(routertest.Settings)
		if isMap && both {
			v = join(a, b)
		}
		out[k] = v
	}
	return out
}

// start starts the router.
func (w *world) start() {
	w.Helper()
	if err := w.router.Start(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// begun starts the router and waits until its follower stands at the end of the archive's changes: what comes now is new.
func (w *world) begun() {
	w.Helper()
	w.start()
	w.eventually("the follower has begun", func() error {
		if n, err := w.router.Query(w.Context(), "SELECT count(*) FROM cursor"); err != nil || n == 0 {
			return fmt.Errorf("no cursor yet (%w)", err)
		}
		return nil
	})
}

// eventually waits until check returns nil.
func (w *world) eventually(what string, check func() error) {
	w.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("%s: not within %s: %v", what, within, err)
		}
		select {
		case <-w.Context().Done():
			w.Fatalf("%s: %v", what, w.Context().Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// must fails the test on an error.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// do makes a request to the archive that must be answered with 200, and returns the answer.
func (w *world) do(method, path string, body any) []byte {
	w.Helper()
	status, answer, err := w.archive.Do(w.Context(), method, path, body)
	w.must(err)
	if status != 200 {
		w.Fatalf("%s %s: HTTP %d: %s", method, path, status, answer)
	}
	return answer
}

// metrics scrapes the router.
func (w *world) metrics() routertest.Metrics {
	w.Helper()
	m, err := w.router.Metrics(w.Context())
	w.must(err)
	return m
}

// idle waits until the router has followed the archive's changes to their end and nothing is left to do: no open job, no instance and
// no delivery on its way, and no rule that waits for a series or study to be complete.
func (w *world) idle() {
	w.Helper()
	w.eventually("the router has done its work", w.atRest)
}

func (w *world) atRest() error {
	m, err := w.router.Metrics(w.Context())
	if err != nil {
		return err
	}
	open := m.Sum("queue_jobs") + m.Sum("instances", `state="due"`) + m.Sum("instances", `state="classified"`)
	open += m.Sum("wholes", `state="waiting"`) - m.Sum("queue_jobs", `kind="gather"`) // what is held for a person is at rest, though its job stays
	for _, state := range []string{"pending", "submitting", "sent"} {
		open += m.Sum("deliveries", fmt.Sprintf("state=%q", state))
	}
	if open > 0 {
		return fmt.Errorf("%.0f jobs, instances or deliveries are open", open)
	}
	// The last NewInstance is behind the cursor, which moves in the transaction that marks.
	var changes struct{ Last int64 }
	if err := w.archive.GetJSON(context.WithoutCancel(w.Context()), "/changes?last", &changes); err != nil {
		return err
	}
	seq, err := w.router.Query(w.Context(), "SELECT coalesce(max(seq), 0) FROM cursor")
	if err != nil {
		return err
	}
	last, err := worldtest.LastNewInstance(w.Context(), w.archive)
	if err != nil {
		return err
	}
	if seq < last {
		return fmt.Errorf("the follower stands at %d, the last new instance is %d", seq, last)
	}
	return nil
}

// changes returns how many rows the archive's log has.
func (w *world) changes() int {
	w.Helper()
	var page struct{ Changes []any }
	w.must(w.archive.GetJSON(w.Context(), "/changes?since=0&limit=100000", &page))
	return len(page.Changes)
}

// names returns the destinations' names in order.
func (w *world) names() []string { return slices.Sorted(maps.Keys(w.destinations)) }
