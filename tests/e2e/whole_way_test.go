package e2e

import (
	"math/rand/v2"
	"testing"

	"imagingrouter/tests/orthanctest"
)

// Real X-rays of all five classes over C-STORE, with the hook: classified, labelled and forwarded exactly where the rules say, once.
func TestTheWholeWay(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		random := rand.New(rand.NewPCG(1, 1)) // always the same ones: chance must not decide whether nine of ten are right
		w := newWorld(t, version, plan{hook: true})
		var files []*xray
		for i, p := range realXRays(t, random, 50) {
			files = append(files, p.dicom(t, i))
		}
		w.begun()
		w.cstore(files...)
		w.allRight(files, 1)

		all, err := w.look()
		w.must(err)
		right, sent := 0, 0
		for _, x := range files {
			if all[x.sop].Said == x.class {
				right++
			} else {
				t.Logf("%s: %s", x.name, all[x.sop].Result)
			}
			sent += len(route[all[x.sop].Said])
		}
		posts := 0
		for _, d := range w.destinations {
			posts += len(d.proxy.Posts())
		}
		t.Logf("%d of %d real X-rays as expected; %d deliveries, %d POSTs", right, len(files), sent, posts)
		if right*10 < len(files)*9 {
			t.Errorf("%d of %d real X-rays have the expected class, fewer than 90 %%", right, len(files))
		}
		if posts != sent {
			t.Errorf("%d POSTs at the destinations for %d deliveries", posts, sent)
		}
		m := w.metrics()
		if got := m.Sum("results_total"); got != float64(len(files)) {
			t.Errorf("metrics count %v results of %d X-rays: something was classified twice or not", got, len(files))
		}
		if m.Sum("instances_marked_total", `source="hook"`) == 0 {
			t.Error("the hook was never heard")
		}
		if got := m.Sum("stored_to_labelled_seconds_count"); got < float64(len(files)) {
			t.Errorf("metrics count %v labelled of %d", got, len(files))
		}
	})
}
