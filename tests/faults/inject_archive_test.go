package faults

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"time"

	"imagingrouter/tests/orthanctest"
)

// again starts an Orthanc that was killed. On a busy machine that may take more than one try.
func (w *world) again(s *orthanctest.Server) error {
	var err error
	for range 3 {
		if err = s.Restart(w.ctx); err == nil {
			return nil
		}
	}
	return err
}

func (w *world) killArchive(f *fault) error {
	defer w.front.letGo()
	points := []point{afterFetch, afterResult, beforeLabel, beforeSubmit, afterSubmit, afterArrival}
	if n := f.random.IntN(2 * len(points)); n < len(points) {
		w.await(f, points[n]) // and the router is told nothing of what came of it
	} else {
		w.hurry(2)
		time.Sleep(f.span(0, 1000))
	}
	if err := w.archive.Kill(); err != nil {
		return err
	}
	w.front.letGo()
	time.Sleep(f.span(0, 4000))
	return w.again(w.archive)
}

// pauseArchive stops the archive as a machine does that swaps, or is being moved: nothing answers, and no connection breaks.
func (w *world) pauseArchive(f *fault) error {
	w.hurry(2)
	time.Sleep(f.span(0, 1000))
	pause := f.span(2000, 8000)
	if f.random.IntN(5) == 0 {
		pause = time.Minute
	}
	f.notef("for %s", pause)
	if err := w.archive.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	time.Sleep(pause)
	return w.archive.Signal(syscall.SIGCONT)
}

// wiping is what the router's log says when it has recognised another database in Orthanc.
const wiping = "follower: Orthanc's database was reset or restored"

// wipeArchive empties the archive. What it held is no longer expected there. Until the router has noticed, what comes may be taken for old.
func (w *world) wipeArchive(_ *fault) error {
	before := strings.Count(w.router.Log(), wiping)
	if err := w.empty(); err != nil {
		return err
	}
	from := w.wiped
	w.hurry(2)
	err := w.eventually("the router notices that the archive was wiped", func() error {
		if strings.Count(w.router.Log(), wiping) == before {
			return errors.New("its log does not say so")
		}
		return nil
	})
	time.Sleep(2 * time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blind = append(w.blind, blindness{from: from, to: time.Now()})
	return err
}

func (w *world) empty() error {
	w.store.Lock()
	defer w.store.Unlock()
	if err := errors.Join(w.archive.Kill(), os.RemoveAll(w.archive.Dir+"/storage")); err != nil {
		return err
	}
	w.epoch++
	w.mark(&w.wiped)
	return w.again(w.archive)
}

func killDestination(name string) func(w *world, f *fault) error {
	return func(w *world, f *fault) error {
		w.hurry(2)
		time.Sleep(f.span(0, 1000))
		d := w.destinations[name]
		if err := d.Kill(); err != nil {
			return err
		}
		time.Sleep(f.span(500, 5000))
		return w.again(d.Server)
	}
}

// moody has the front spoil a share of the router's requests for a while.
func moody(m mood) func(w *world, f *fault) error {
	return func(w *world, f *fault) error {
		share, pause := []float64{0.15, 0.3, 0.6, 1}[f.random.IntN(4)], f.span(2000, 8000)
		if m == cutFile {
			share = 1 // few requests are for files
		}
		f.notef("%.0f %% of the requests for %s", 100*share, pause)
		w.front.set(m, share)
		defer w.front.set(well, 0)
		w.hurry(4)
		time.Sleep(pause)
		for range 30 {
			if w.front.spoilt(f.from) > 0 {
				return nil
			}
			w.hurry(1)
			time.Sleep(time.Second)
		}
		f.notef("no request came") // the router or the archive is away, perhaps
		return nil
	}
}
