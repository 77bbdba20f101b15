package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
	"imagingrouter/tests/worldtest"
)

// peaceful starts a world in which nothing happens but what the test does.
func peaceful(t *testing.T, version string) *world {
	t.Helper()
	routertest.ONNXRuntime(t)
	seed := uint64(1) // 1.13
	if strings.HasPrefix(version, "1.12") {
		seed = 2
	}
	return newWorld(t, t.Context(), seed, t.TempDir(), nil)
}

// xray sends an X-ray that the network takes for the class, or a new content of an earlier one.
func (w *world) xray(i *instance, class string) *instance {
	w.Helper()
	all := w.feed.drawings
	defer func() { w.feed.drawings = all }()
	w.feed.drawings = nil
	for _, d := range all {
		if d.said == class {
			w.feed.drawings = append(w.feed.drawings, d)
		}
	}
	var err error
	if i == nil {
		var fresh []*instance
		if fresh, err = w.feed.fresh(w.feed.uid(), w.feed.uid(), 1, false, w.epoch); err == nil {
			i = fresh[0]
		}
	} else {
		var c *content
		if c, err = w.feed.file(i); err == nil {
			i.contents = append(i.contents, c)
		}
	}
	if err == nil {
		err = w.send([]*instance{i})
	}
	if err != nil {
		w.Fatal(err)
	}
	return i
}

// caught waits until a trap has something.
func (w *world) caught(t *trap) {
	w.Helper()
	select {
	case <-t.caught:
	case <-time.After(within):
		w.Fatal("the router did not come to the point")
	}
}

// good checks everything.
func (w *world) good() {
	w.Helper()
	found, err := w.settled()
	if err != nil || len(found) > 0 {
		w.Fatalf("%v\n%v\n%s", err, found, w.stories(found))
	}
}

// once has the front do something to the first request for which the function holds.
func (f *front) once(m mood, which func(method, path string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.only, f.onlyMood = which, m
}

// A page of HTML in place of a file, with status 200, is no picture that cannot be read: it is fetched again.
func TestNonsenseInPlaceOfAFile(t *testing.T) {
	t.Parallel()
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := peaceful(t, version)
		for range 4 {
			w.front.once(garbage, func(_, path string) bool { return strings.HasSuffix(path, "/file") })
			w.xray(nil, "spine")
			if err := w.eventually("a file is spoilt", w.front.done); err != nil {
				t.Fatal(err)
			}
		}
		w.good()
	})
}

// done says whether what was to be done once was done.
func (f *front) done() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.only != nil {
		return errors.New("not yet")
	}
	return nil
}

// An answer about a job that says nothing about it (an error of the archive's, nonsense) does not have it done again.
func TestNoWordAboutAJob(t *testing.T) {
	t.Parallel()
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := peaceful(t, version)
		for _, m := range []mood{error500, garbage, cutAnswer} {
			w.front.once(m, func(method, path string) bool { return method == http.MethodGet && strings.HasPrefix(path, "/jobs/") })
			w.xray(nil, "spine")
			if err := w.eventually("an answer is spoilt", w.front.done); err != nil {
				t.Fatal(err)
			}
		}
		w.good()
	})
}

// The router dies when a delivery is recorded and not submitted, and meanwhile the instance is overwritten by another class: the new content is not
// sent where the old one belonged.
func TestOverwrittenWhileTheRouterWasDown(t *testing.T) {
	t.Parallel()
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := peaceful(t, version)
		caught := w.front.lay(beforeSubmit.matches(), nil)
		i := w.xray(nil, "spine")
		w.caught(caught)
		if err := w.router.Kill(); err != nil {
			t.Fatal(err)
		}
		w.front.letGo()
		w.xray(i, "others")
		if err := w.router.Start(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.good()
		there, err := worldtest.Arrived(context.WithoutCancel(w.ctx), w.destinations[spineAI].Server)
		if err != nil || len(there) != 0 {
			t.Errorf("%v is at %s (%v)", there, spineAI, err)
		}
	})
}

// What was deleted before it was looked at does not hold up what comes: each 404 is asked again after a pause, and no worker waits for that.
func TestDeletedBeforeItWasLookedAt(t *testing.T) {
	t.Parallel()
	orthanctest.Each(t, func(t *testing.T, version string) {
		const deleted, stay = 12, 4
		w := peaceful(t, version)
		w.front.set(error503, 1) // all are announced, and wait for the archive
		for n := range deleted + stay {
			i := w.xray(nil, "spine")
			if err := w.router.Hook(w.ctx, i.id); err != nil { // as well: on a busy machine the archive's hook gives up after a second, and is silent then
				t.Fatal(err)
			}
			if n >= deleted {
				continue
			}
			if status, _, err := w.archive.Do(w.ctx, http.MethodDelete, "/instances/"+i.id, nil); err != nil || status != http.StatusOK {
				t.Fatalf("HTTP %d, %v", status, err)
			}
		}
		w.front.set(well, 0)
		done := func() error {
			n, err := w.router.Query(w.ctx, "SELECT count(*) FROM instance WHERE state IN ('gone', 'published')")
			if err == nil && n < deleted+stay {
				err = fmt.Errorf("%d of %d", n, deleted+stay)
			}
			return err
		}
		if err := w.eventually("all have come to their end", done); err != nil {
			t.Fatal(err)
		}
		before, err := w.router.Query(w.ctx, `SELECT count(*) FROM event WHERE outcome = 'gone' AND id <
			(SELECT max(id) FROM event WHERE stage = 'classify' AND outcome LIKE 'spine%' AND detail NOT LIKE 'this content already%')`)
		if err != nil || before > deleted/2 {
			t.Errorf("%d of %d were waited for before the last of the others was looked at (%v)", before, deleted, err)
		}
	})
}
