package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
	"imagingrouter/tests/worldtest"
)

const (
	chestAI = "chest-ai"
	spineAI = "spine-ai"

	account = "imaging-router" // the router's in the archive, with the rights of lua/router-rights.lua
	secret  = "the-router-s-own"
)

// route is where the rules send a class.
var route = map[string][]string{
	"adult_chest": {chestAI}, "pediatric_chest": {chestAI}, "spine": {spineAI}, "abdominal": {chestAI, spineAI}, "others": nil, worldtest.Review: nil,
}

// destination is an Orthanc behind a counting proxy.
type destination struct {
	*orthanctest.Server

	proxy *routertest.Proxy
}

// fault is one fault of a seed, and when it was there.
type fault struct {
	kind
	random   *rand.Rand
	from, to time.Time // zero: it has not begun, or not ended
	notes    []string
}

func (f *fault) notef(format string, args ...any) {
	f.notes = append(f.notes, fmt.Sprintf(format, args...))
}

// span returns a time between two, both in milliseconds.
func (f *fault) span(least, most int) time.Duration {
	return time.Duration(least+f.random.IntN(most-least+1)) * time.Millisecond
}

// world is an archive, a router, what they send to, and all that a seed does to them.
type world struct {
	testing.TB

	ctx          context.Context //nolint:containedctx // it ends with the seed
	seed         uint64
	folder       string // of everything: logs, storages, the database
	archive      *orthanctest.Server
	front        *front
	router       *routertest.Router
	destinations map[string]*destination
	disk         *disk // of the database; nil where none is needed, or can be made
	model        string
	runtime      string // a link to ONNX Runtime
	feed         *feed
	whole        bool // spines go with their whole study

	parts map[part]*sync.Mutex

	store sync.RWMutex // writing: the archive is being wiped
	epoch int          // how often it was

	mu     sync.Mutex
	faults []*fault
	wiped  time.Time
	blind  []blindness
	begun  time.Time
}

// blindness is a time from which contents are labelled and need not be forwarded.
type blindness struct {
	from, to time.Time
	lost     bool // the router has lost its memory, all or a part of it: its labels count as a person's
	reset    bool // all of it: nothing from before may be forwarded
	// A repair could not read all of the deliveries, or of what they hold: those of one instance tell that themselves.
	deliveries, items bool
	at                time.Time
}

// Context returns what ends with the seed.
func (w *world) Context() context.Context { return w.ctx }

func (w *world) pathOf(name string) string { return filepath.Join(w.folder, name) }

// newWorld starts everything: the router last, and waits until it follows the archive's changes.
func newWorld(t testing.TB, ctx context.Context, seed uint64, folder string, faults []kind) *world { //nolint:revive // testing.TB comes first here
	t.Helper()
	versions := orthanctest.Lines()
	version := versions[int(seed)%len(versions)]
	random := rand.New(rand.NewPCG(seed, 0x3081D))
	w := &world{TB: t, ctx: ctx, seed: seed, folder: folder, destinations: map[string]*destination{}, parts: map[part]*sync.Mutex{}, begun: time.Now()}
	for _, p := range []part{theRouter, theArchive, theWay, chest, spine, theTrap} {
		w.parts[p] = &sync.Mutex{}
	}
	for i, k := range faults {
		w.faults = append(w.faults, &fault{kind: k, random: rand.New(rand.NewPCG(seed, uint64(1000+i)))})
	}
	w.whole = seed%5 == 0
	w.feed = &feed{random: rand.New(rand.NewPCG(seed, 0xFEED)), drawings: draw(t), hurry: make(chan struct{}, 50)}

	peers := map[string]any{}
	for _, name := range []string{chestAI, spineAI} {
		d := &destination{Server: orthanctest.New(t, orthanctest.Config{Version: version, Name: name, AET: "DEST", Dir: w.make(name), Extra: overwriting(version)})}
		d.proxy = routertest.NewProxy(t, d.URL)
		d.proxy.Delay(time.Duration(random.IntN(3)*300) * time.Millisecond) // so that a fault finds something on its way
		w.destinations[name] = d
		peers[name] = map[string]any{"Url": d.proxy.URL + "/", "Username": d.Username, "Password": d.Password, "Timeout": 10}
	}
	w.prepareRouter(version, random)
	w.startArchive(version, peers)
	w.front = newFront(t, w.archive.URL, rand.New(rand.NewPCG(seed, 0xF407)))
	admin := [2]string{w.archive.Username, w.archive.Password}
	w.archive.Username, w.archive.Password = account, secret
	w.router.Beside(t, w.archive, w.front.URL)
	w.archive.Username, w.archive.Password = admin[0], admin[1]
	if err := errors.Join(w.router.Start(ctx), w.eventually("the follower begins", w.follows)); err != nil {
		t.Fatal(err)
	}
	return w
}

// overwriting is how the compose deployment has Orthanc take what is sent again.
func overwriting(version string) map[string]any {
	if strings.HasPrefix(version, "1.12") {
		return map[string]any{"OverwriteInstances": true}
	}
	return map[string]any{"OverwriteInstances": "IfChanged"}
}

func (w *world) make(name string) string {
	w.Helper()
	path := w.pathOf(name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		w.Fatal(err)
	}
	return path
}

func (w *world) startArchive(version string, peers map[string]any) {
	w.Helper()
	repository, err := orthanctest.Repository()
	if err != nil {
		w.Fatal(err)
	}
	extra := overwriting(version)
	maps.Copy(extra, map[string]any{"OrthancPeers": peers, "StoreMD5ForAttachments": true, "SaveJobs": true, "StableAge": 1})
	w.archive = orthanctest.New(w, orthanctest.Config{
		Version: version, Name: "archive", Dir: w.make("archive"), Extra: extra,
		Users: map[string]string{"admin": "admin", account: secret},
		Lua:   []string{filepath.Join(repository, "lua", "router-rights.lua"), routertest.Hook(w)},
		Env:   []string{"IMAGING_ROUTER_URL=" + w.router.URL, "IMAGING_ROUTER_TOKEN=" + w.router.Token, "IMAGING_ROUTER_SILENCE=3"},
	})
}

// sureOfItself takes the network's word whatever its confidence.
func sureOfItself() routertest.Settings {
	return routertest.Settings{"thresholds": map[string]float64{"abdominal": 0, "adult_chest": 0, "pediatric_chest": 0, "spine": 0, "others": 0}}
}

func (w *world) prepareRouter(version string, random *rand.Rand) {
	w.Helper()
	w.model, w.runtime = w.pathOf("model"), w.pathOf("libonnxruntime.so")
	if err := errors.Join(os.CopyFS(w.model, os.DirFS(routertest.Model(w))), os.Symlink(routertest.ONNXRuntime(w), w.runtime)); err != nil {
		w.Fatal(err)
	}
	data := w.make("database")
	if slices.ContainsFunc(w.faults, func(f *fault) bool { return f.disk }) {
		w.mountDisk(data)
	}
	model := sureOfItself()
	maps.Copy(model, routertest.Settings{"dir": w.model, "onnxruntime": w.runtime})
	sweep := []string{"1000h", "5s"}[random.IntN(2)]
	w.router = routertest.New(w, routertest.Config{Version: version, Token: "t0ken-of-the-hook", Dir: w.make("router"), Data: data, Settings: routertest.Settings{
		"orthanc":    routertest.Settings{"concurrent_jobs": 8, "timeout": "8s"}, // Orthanc 1.12 does not say it
		"intake":     routertest.Settings{"poll_interval": "300ms"},
		"model":      model,
		"jobs":       routertest.Settings{"backoff_max": "4s"},
		"publish":    routertest.Settings{"sweep_interval": sweep},
		"forwarding": routertest.Settings{"enabled": true, "quiet": "1s"},
		"destinations": []any{
			map[string]any{"name": chestAI, "timeout": "30s", "circuit_breaker": map[string]any{"pause": "3s"}},
			map[string]any{"name": spineAI, "timeout": "30s", "circuit_breaker": map[string]any{"pause": "3s"}},
		},
		"rules": []any{
			map[string]any{"name": "chests", "when": `class == "adult_chest" || class == "pediatric_chest"`, "to": []string{chestAI}},
			w.spines(),
			map[string]any{"name": "abdomens", "when": `class == "abdominal"`, "to": []string{chestAI, spineAI}},
		},
	}})
}

// spines is the rule for spines: alone, or with all that their study holds.
func (w *world) spines() map[string]any {
	rule := map[string]any{"name": "spines", "when": `class == "spine"`, "to": []string{spineAI}}
	if w.whole {
		maps.Copy(rule, map[string]any{"level": "study", "on_review": "send"})
	}
	return rule
}

// follows says whether the follower has a place in the archive's changes.
func (w *world) follows() error {
	if n, err := w.router.Query(w.ctx, "SELECT count(*) FROM cursor"); err != nil || n == 0 {
		return fmt.Errorf("no cursor yet (%w)", err)
	}
	return nil
}

// within is how long anything may take that is waited for: no test measures time, so it only bounds a failure.
const within = 3 * time.Minute

// eventually waits until check returns nil.
func (w *world) eventually(what string, check func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || w.ctx.Err() != nil {
			return fmt.Errorf("%s: not within %s: %w", what, within, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// suffer has the faults happen, one after the other, each after a pause.
func (w *world) suffer(lane []*fault) error {
	for _, f := range lane {
		time.Sleep(f.span(0, 1200))
		for _, p := range f.parts {
			w.parts[p].Lock()
		}
		w.mark(&f.from)
		err := f.do(w, f)
		w.mark(&f.to)
		for _, p := range f.parts {
			w.parts[p].Unlock()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

func (w *world) mark(at *time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*at = time.Now()
}

// live runs the whole seed: some peace, all faults, some peace again, and the end of the feed.
func (w *world) live() error {
	feeding, stop := context.WithCancel(w.ctx)
	defer stop()
	fed := make(chan error, 1)
	go func() { fed <- w.run(feeding) }()
	w.hurry(4)
	time.Sleep(2 * time.Second)

	lanes := make([][]*fault, 1+int(w.seed/2)%2) // one at a time, or two
	for i, f := range w.faults {
		lanes[i%len(lanes)] = append(lanes[i%len(lanes)], f)
	}
	failed := make([]error, len(lanes))
	var group sync.WaitGroup
	for i, lane := range lanes {
		group.Go(func() { failed[i] = w.suffer(lane) })
	}
	group.Wait()
	w.hurry(3)
	time.Sleep(time.Second)
	stop()
	return errors.Join(errors.Join(failed...), <-fed)
}
