package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// failing waits until a further attempt to deliver something to a destination has failed.
func (w *world) failing(destination string) {
	w.Helper()
	before := w.failures(destination)
	w.eventually("a delivery to "+destination+" fails", func() error {
		if w.failures(destination) == before {
			return fmt.Errorf("%d failures, as before", before)
		}
		return nil
	})
}

// failures counts the attempts to deliver to a destination that have failed.
func (w *world) failures(destination string) int64 {
	w.Helper()
	n, err := w.router.Query(w.Context(), "SELECT coalesce(sum(attempts - (state IN ('submitting', 'sent', 'delivered'))), 0) FROM delivery WHERE destination = ?", destination)
	w.must(err)
	return n
}

// A destination is down, then out of order, then hanging, then back: what was for it arrives, once; labels and the other destination do
// not wait for it.
func TestDestinationDown(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: routertest.Settings{"jobs": routertest.Settings{"backoff_max": "1s"}}})
		chest := w.destinations[chestAI]
		chest.proxy.Set(routertest.Refuse)
		w.begun()
		down := of(t, "abdominal") // for both
		w.upload(down)
		w.failing(chestAI)
		w.passed(spineAI, down)

		chest.proxy.Set(routertest.Fail)
		failing := of(t, "abdominal")
		w.upload(failing)
		w.failing(chestAI)
		w.passed(spineAI, failing)

		chest.proxy.Set(routertest.Hang)
		before := len(chest.proxy.Posts())
		hanging := of(t, "abdominal")
		w.upload(hanging)
		w.eventually("a delivery hangs", func() error {
			if n := len(chest.proxy.Posts()); n <= before {
				return fmt.Errorf("%d POSTs", n)
			}
			return nil
		})
		w.labelled(hanging, label("abdominal"))
		w.passed(spineAI, hanging)
		if n := chest.proxy.Passed(); len(n) != 0 {
			t.Errorf("the dead destination got %v", n)
		}

		chest.proxy.Set(routertest.Pass)
		w.allRight([]*xray{down, failing, hanging}, 1)
		if n := w.metrics().Sum("deliveries_total", `outcome="delivered"`); n != 6 {
			t.Errorf("%v deliveries were counted, want 6", n)
		}
	})
}

// An answer that gets lost leaves open whether the instance arrived: it is sent again, once.
func TestLostAnswer(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true})
		spine := w.destinations[spineAI]
		spine.proxy.Set(routertest.LostReply)
		w.begun()
		x := of(t, "spine")
		w.upload(x)
		w.failing(spineAI)
		spine.proxy.Set(routertest.Pass)
		sent := spine.proxy.Passed()[x.sop]
		w.allRight([]*xray{x}, sent+1)
	})
}

func (w *world) passed(destination string, x *xray) {
	w.Helper()
	w.eventually(x.name+" arrives at "+destination, func() error {
		if n := w.destinations[destination].proxy.Passed()[x.sop]; n != 1 {
			return fmt.Errorf("sent %d times", n)
		}
		return nil
	})
}

// The archive is down: the router says that it is not ready, takes the hook's word, waits without spending attempts, and goes on when
// the archive is back.
func TestArchiveDown(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{})
		w.begun()
		w.readiness(http.StatusOK)
		w.must(w.router.Stop())
		files := []*xray{of(t, "spine"), of(t, "others")}
		w.upload(files...)
		w.must(w.archive.Stop())
		w.start() // it starts without the archive
		w.readiness(http.StatusServiceUnavailable)
		w.must(w.router.Hook(t.Context(), files[0].id, files[1].id))
		w.eventually("both jobs have met the silence", func() error {
			n, err := w.router.Query(t.Context(), "SELECT count(DISTINCT instance_id) FROM event WHERE outcome = 'error'")
			if err == nil && n < 2 {
				err = fmt.Errorf("%d of 2", n)
			}
			return err
		})
		w.must(w.archive.Restart(t.Context()))
		w.readiness(http.StatusOK)
		w.allRight(files, 1)
		attempts, err := w.router.Query(t.Context(), "SELECT max(attempt) FROM event WHERE stage = 'classify' AND outcome <> 'error'")
		w.must(err)
		if attempts != 1 {
			t.Errorf("the work was done in attempt %d: waiting for the archive has cost attempts", attempts)
		}
	})
}

// readiness waits until /-/ready answers with a status.
func (w *world) readiness(status int) {
	w.Helper()
	w.eventually(fmt.Sprintf("/-/ready answers %d", status), func() error {
		got, answer, err := w.router.As(w.Context(), "", http.MethodGet, "/-/ready", nil)
		if err == nil && got != status {
			err = fmt.Errorf("HTTP %d: %s", got, answer)
		}
		return err
	})
}
