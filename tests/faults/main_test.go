// Package faults drives the product through faults: a real Orthanc with the hook and the rights of the compose deployment, the real program with
// its model, two real Orthancs as destinations, and between them proxies that fail. All that happens is decided by a seed. At the end, with all
// faults gone, it is checked from outside that nothing was lost, nothing was done twice without a cause, and nothing went where it does not belong.
// docs/faults.md says how to read what it prints.
package faults

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

var (
	seeds = flag.Uint64("seeds", 0, "run the seeds from 1 to this one")
	from  = flag.Uint64("from", 1, "with -seeds: begin with this one")
	one   = flag.Uint64("seed", 0, "run this seed alone")
	keep  = flag.Bool("keep", false, "keep the seeds' folders")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(routertest.Main(m))
}

// summary is of all seeds.
var summary struct {
	sync.Mutex

	passed, failed                    int
	instances, sends, repeats, faults int
}

// Without flags it runs the seeds 1 to 3, which have every kind of fault between them.
func TestFaults(t *testing.T) {
	routertest.ONNXRuntime(t)
	first, last := uint64(1), uint64(hands)
	switch {
	case *one > 0:
		first, last = *one, *one
	case *seeds > 0:
		first, last = *from, *seeds
	}
	for _, line := range orthanctest.Lines() {
		orthanctest.Require(t, line)
	}
	draw(t)
	t.Cleanup(func() {
		fmt.Printf("%d seeds passed, %d failed: %d faults, %d instances, %d sends, %d of them repeats\n",
			summary.passed, summary.failed, summary.faults, summary.instances, summary.sends, summary.repeats)
	})
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			try(t, seed)
		})
	}
}

// longest is how long a seed may take at all: it only bounds one that hangs.
const longest = 30 * time.Minute

// try runs one seed and prints a line about it.
func try(t *testing.T, seed uint64) {
	folder, err := os.MkdirTemp("", fmt.Sprintf("faults-seed-%d-", seed)) //nolint:usetesting // it may be kept
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after everything in it was stopped
		if *keep {
			fmt.Printf("seed %d: its folder is %s\n", seed, folder)
		} else if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), longest)
	defer cancel()
	began, counted := time.Now(), false
	defer func() {
		if !counted { // it could not even begin
			summary.Lock()
			defer summary.Unlock()
			summary.failed++
			fmt.Printf("seed %-3d  FAILED to begin\n", seed)
		}
	}()
	w := newWorld(t, ctx, seed, folder, deal(seed))
	err = w.live()
	var found findings
	if err == nil {
		found, err = w.settled()
	}
	good := err == nil && len(found) == 0 && !t.Failed()
	sends, repeats := w.posts()
	summary.Lock()
	defer summary.Unlock()
	verdict := "ok    "
	counted = true
	if good {
		summary.passed++
	} else {
		verdict = "FAILED"
		summary.failed++
	}
	summary.faults, summary.instances = summary.faults+len(w.faults), summary.instances+len(w.feed.instances)
	summary.sends, summary.repeats = summary.sends+sends, summary.repeats+repeats
	fmt.Printf("seed %-3d  Orthanc %s  %s  %d faults, %d studies, %d instances, %d sends, %d repeats, %.0f s\n",
		seed, w.archive.Version, verdict, len(w.faults), w.feed.studies, len(w.feed.instances), sends, repeats, time.Since(began).Seconds())
	if good {
		t.Logf("the faults:\n%s", w.history())
	} else {
		t.Errorf("SEED=%d: %v\n%v\nthe faults:\n%s%s", seed, err, found, w.history(), w.stories(found))
	}
}
