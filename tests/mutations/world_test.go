package mutations

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

const uploaders = 4

// world is an archive and a router that classifies whatever is in it.
type world struct {
	*testing.T
	archive *orthanctest.Server
	router  *routertest.Router

	mu       sync.Mutex
	stored   map[string]string // name by Orthanc's identifier
	suspects []mutant          // whose upload was answered by a broken connection
	refused  atomic.Int64
	deaths   atomic.Int64 // of Orthanc
}

// newWorld starts an archive that is started again whenever a file ends it, and a router beside it.
func newWorld(t *testing.T, version string, settings routertest.Settings) *world {
	t.Helper()
	w := &world{T: t, stored: map[string]string{}}
	w.router = routertest.New(t, routertest.Config{Version: version, Settings: settings})
	w.archive = orthanctest.New(t, orthanctest.Config{Version: version, Name: "archive"})
	w.router.Beside(t, w.archive, "")
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var keeper sync.WaitGroup
	keeper.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.archive.Ended():
			}
			w.deaths.Add(1)
			if err := w.archive.Restart(ctx); err != nil && ctx.Err() == nil {
				w.Errorf("Orthanc died, and does not start again: %v", err)
				return
			}
		}
	})
	t.Cleanup(func() { // before the archive's own end
		stop()
		keeper.Wait()
	})
	if err := w.router.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// upload stores the mutants over a few connections, and tells the router of each that Orthanc took.
func (w *world) upload(mutants func(yield func(mutant) bool)) {
	w.Helper()
	queue := make(chan mutant)
	var workers sync.WaitGroup
	for range uploaders {
		workers.Go(func() {
			for m := range queue {
				if err := w.one(m); err != nil {
					w.mu.Lock()
					w.suspects = append(w.suspects, m)
					w.mu.Unlock()
					w.eventually("Orthanc answers again", time.Minute, func() error {
						_, _, err := w.archive.Do(w.Context(), http.MethodGet, "/system", nil)
						return err
					})
				}
			}
		})
	}
	for m := range mutants {
		queue <- m
	}
	close(queue)
	workers.Wait()
	w.tryOneByOne()
}

// tryOneByOne finds out which of the files on their way when Orthanc died had killed it, and stores the others.
func (w *world) tryOneByOne() {
	suspects := w.suspects
	w.suspects = nil
	for _, m := range suspects {
		if err := w.one(m); err != nil {
			w.Logf("Orthanc %s dies from mutant %d of %s (%v)", w.archive.Version, m.number, m.name, err)
			w.eventually("Orthanc answers again", time.Minute, func() error {
				_, _, err := w.archive.Do(w.Context(), http.MethodGet, "/system", nil)
				return err
			})
		}
	}
}

// one stores a file; its error is a broken connection.
func (w *world) one(m mutant) error {
	status, answer, err := w.archive.Do(w.Context(), http.MethodPost, "/instances", m.content)
	if err != nil {
		return err
	}
	var stored struct{ ID string }
	if status == http.StatusOK {
		err = json.Unmarshal(answer, &stored)
	}
	if stored.ID == "" {
		w.refused.Add(1)
		return err
	}
	w.mu.Lock()
	w.stored[stored.ID] = fmt.Sprintf("mutant %d of %s", m.number, m.name)
	w.mu.Unlock()
	return w.router.Hook(w.Context(), stored.ID)
}

// eventually waits until check returns nil.
func (w *world) eventually(what string, within time.Duration, check func() error) {
	w.Helper()
	deadline := time.Now().Add(within)
	for err := check(); err != nil; err = check() {
		select {
		case <-w.router.Ended():
			w.Fatalf("%s: the router is gone", what)
		default:
		}
		if time.Now().After(deadline) {
			w.Errorf("%s: not within %s: %v", what, within, err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// idle waits until the router has nothing left to do for what was stored and has read Orthanc's changes to their end.
func (w *world) idle(within time.Duration) {
	w.Helper()
	w.eventually("the router has done its work", within, func() error {
		m, err := w.router.Metrics(w.Context())
		if err != nil {
			return err
		}
		if open := m.Sum("queue_jobs") + m.Sum("instances", `state="due"`) + m.Sum("instances", `state="classified"`); open > 0 {
			return fmt.Errorf("%.0f jobs or instances are open", open)
		}
		seq, err := w.router.Query(w.Context(), "SELECT coalesce(max(seq), 0) FROM cursor")
		if err != nil {
			return err
		}
		var page struct{ Changes []any }
		if err := w.archive.GetJSON(w.Context(), fmt.Sprintf("/changes?since=%d&limit=1&type=NewInstance", seq), &page); err != nil {
			return err
		}
		if len(page.Changes) > 0 {
			return fmt.Errorf("the follower stands at %d", seq)
		}
		return nil
	})
}
