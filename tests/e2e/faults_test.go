package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
	"imagingrouter/tests/worldtest"
)

// burst is how many X-rays the router is killed over.
const burst = 200

// X-rays keep coming over C-STORE while the router is killed again and again and the archive restarts once. Nothing may be missing at the
// end, and a fault may repeat only what was on its way at that moment.
func TestKilledAgainAndAgain(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		const kills = 6
		random := numbers(t)
		w := newWorld(t, version, plan{hook: true})
		crash := random.IntN(2) == 0 // of the archive, or an orderly stop
		t.Logf("the archive is restarted after a crash: %t", crash)
		files := many(t, random.Int64(), burst, func(n int) []picture { return realXRays(t, random, n) })
		batches := slices.Collect(slices.Chunk(files, burst/4))
		folders := make([]string, len(batches))
		for i, batch := range batches {
			folders[i] = w.folder(batch)
		}
		w.begun()

		fed := make(chan error, 1)
		go func() {
			for i, folder := range folders {
				if i == len(folders)/2 {
					if crash {
						if err := w.archive.Kill(); err != nil {
							fed <- err
							return
						}
					}
					if err := w.archive.Restart(context.WithoutCancel(t.Context())); err != nil {
						fed <- err
						return
					}
				}
				if err := w.archive.Store(t.Context(), folder); err != nil {
					fed <- err
					return
				}
			}
			fed <- nil
		}()
		for range kills {
			select {
			case <-time.After(time.Duration(200+random.IntN(1000)) * time.Millisecond):
			case <-t.Context().Done():
			}
			w.must(w.router.Kill())
			w.start()
		}
		w.must(<-fed)
		w.allRight(files, 1+kills+1)

		posts, repeats := w.posts()
		t.Logf("%d X-rays, %d kills of the router, 1 restart of the archive: %d POSTs at the destinations, %d of them repeats", len(files), kills, posts, repeats)
		// One delivery is on its way to each destination at a time, so that is what a fault can repeat.
		if most := (kills + 1) * len(w.destinations); repeats > most {
			t.Errorf("%d repeats, at most %d can have been on their way", repeats, most)
		}
	})
}

// posts counts the POSTs at all destinations, and how many of them repeated an earlier one of the same content.
func (w *world) posts() (all, repeats int) {
	w.Helper()
	for _, name := range w.names() {
		content := map[string]string{}
		for _, p := range w.destinations[name].proxy.Posts() {
			if !p.Passed {
				continue
			}
			all++
			if before, again := content[p.SOPInstanceUID]; again {
				repeats++
				if before != p.SHA256 {
					w.Errorf("%s got two different contents of one instance", name)
				}
			}
			content[p.SOPInstanceUID] = p.SHA256
		}
	}
	return all, repeats
}

// many makes n X-rays: real ones where they are, else drawn ones.
func many(t *testing.T, seed int64, n int, pictures func(n int) []picture) []*xray {
	t.Helper()
	files := make([]*xray, 0, n)
	if shared(t) != "" {
		for i, p := range pictures(n) {
			files = append(files, p.dicom(t, i))
		}
		return files
	}
	t.Log("no real X-rays (../shared/data): drawn ones take their place")
	for i := range n {
		class := classes[i%len(classes)]
		files = append(files, write(t, class, phantom.Options{Class: class, Seed: seed + int64(i), Rows: 400, Columns: 400, Bits: []int{12, 16}[i%2], Monochrome1: i%3 == 0}))
	}
	return files
}

// Without the hook the follower alone finds everything, also what arrived while the router was down.
func TestFollowerAlone(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		random := numbers(t)
		w := newWorld(t, version, plan{archive: map[string]any{"JobsHistorySize": 10}}) // Orthanc's default: ended jobs are soon forgotten
		files := many(t, random.Int64(), 60, func(n int) []picture { return realXRays(t, random, n) })
		w.begun()
		w.cstore(files[:30]...)
		w.allRight(files[:30], 1)
		w.must(w.router.Kill())
		w.cstore(files[30:]...)
		w.start()
		w.allRight(files, 1)
		if n := w.metrics().Sum("instances_marked_total", `source="hook"`); n != 0 {
			t.Errorf("the hook was heard %v times, there is none", n)
		}
	})
}

// A router that is down does not slow the archive down, and catches up.
func TestRouterDownDuringBurst(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		const n = 50
		w := newWorld(t, version, plan{hook: true, alone: true})
		files := make([]*xray, 0, 3*n)
		for i := range 3 * n {
			o := phantom.Options{Class: classes[i%len(classes)], Seed: int64(i % 7), Rows: 256, Columns: 256}
			files = append(files, write(t, o.Class, o))
		}
		took := func(part []*xray) time.Duration {
			folder := w.folder(part)
			began := time.Now()
			w.must(w.archive.Store(t.Context(), folder))
			return time.Since(began)
		}
		w.begun()
		up := took(files[:n])
		w.idle()
		w.must(w.router.Stop())
		down := took(files[n : 2*n])
		down = min(down, took(files[2*n:]))
		t.Logf("%d files: stored in %v with the router up, in %v with the router down: the rate is %.2f times as high", n, up.Round(time.Millisecond), down.Round(time.Millisecond), up.Seconds()/down.Seconds())
		w.start()
		w.allRight(files, 0)
	})
}

// Orthanc's database is wiped and begins anew, once behind the follower's cursor and once already past it: what is in the new one is
// labelled, and what comes after is forwarded too.
func TestArchiveWiped(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		for name, after := range map[string]int{"behind the cursor": 2, "past the cursor": 40} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, version, plan{})
				w.begun()
				before := []*xray{of(t, "abdominal"), of(t, "spine"), of(t, "others"), of(t, "spine")}
				w.upload(before...)
				w.allRight(before, 1)
				cursor, err := w.router.Query(t.Context(), "SELECT seq FROM cursor")
				w.must(err)

				running := after < 10 // the small case is found by a running router, the large one at a start
				if !running {
					w.must(w.router.Stop())
				}
				w.must(w.archive.Stop())
				w.must(os.RemoveAll(w.archive.Dir + "/storage"))
				w.must(w.archive.Restart(t.Context()))
				fresh := make([]*xray, after)
				for i := range fresh {
					fresh[i] = of(t, []string{"abdominal", "spine", "others"}[i%3], func(o *phantom.Options) { o.Rows, o.Columns = 200, 200 })
				}
				w.upload(fresh...)
				last, err := worldtest.LastNewInstance(w.Context(), w.archive)
				w.must(err)
				if past := last > cursor; past == running {
					t.Fatalf("the new log stands at %d, the cursor was at %d: this is not the case to be tested", last, cursor)
				}
				if !running {
					w.start()
				}
				w.eventually("the reset is recognised and everything labelled", func() error {
					all, err := w.look()
					if err != nil {
						return err
					}
					for _, x := range fresh {
						if s := all[x.sop]; s.Valid() != nil || !slices.Contains(s.StudyLabels, label(s.Said)) {
							return fmt.Errorf("%s: %w, labels %v", x.name, s.Valid(), s.StudyLabels)
						}
					}
					return nil
				})
				w.idle()
				if n := w.metrics().Sum("follower_resets_total"); n != 1 {
					t.Errorf("%v resets were counted", n)
				}
				later := []*xray{of(t, "spine")}
				w.upload(later...)
				w.allRight(later, 1)
			})
		}
	})
}

// The wipe is over before the follower has noticed that Orthanc was away: the log that ends before the cursor tells it.
func TestArchiveWipedBetweenPolls(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{alone: true, settings: routertest.Settings{"intake": routertest.Settings{"poll_interval": "3s"}}})
		w.begun()
		before := []*xray{of(t, "abdominal"), of(t, "spine"), of(t, "others")}
		w.upload(before...)
		w.allRight(before, 0) // the follower has just looked
		w.must(w.archive.Kill())
		w.must(os.RemoveAll(w.archive.Dir + "/storage"))
		w.must(w.archive.Restart(t.Context()))
		fresh := of(t, "spine")
		w.upload(fresh)
		w.labelled(fresh, label("spine"))
		if n := w.metrics().Sum("follower_resets_total"); n != 1 {
			t.Errorf("%v resets were counted", n)
		}
	})
}

// Somebody clears Orthanc's log of changes: that is no reset, nothing is done twice, and what comes is found.
func TestChangesCleared(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{})
		w.begun()
		files := []*xray{of(t, "abdominal"), of(t, "spine")}
		w.upload(files...)
		w.allRight(files, 1)
		w.do(http.MethodDelete, "/changes", nil)
		files = append(files, of(t, "spine"))
		w.upload(files[2])
		w.allRight(files, 1)
		w.must(w.router.Stop())
		w.do(http.MethodDelete, "/changes", nil)
		w.start()
		files = append(files, of(t, "abdominal"))
		w.upload(files[3])
		w.allRight(files, 1)
		if n := w.metrics().Sum("follower_resets_total"); n != 0 {
			t.Errorf("%v resets were counted", n)
		}
		if n := w.looks(); n != int64(len(files)) {
			t.Errorf("%d pictures were looked at for %d instances", n, len(files))
		}
	})
}

// The hook's mark is on disk before the answer: SIGTERM in the middle of the work loses nothing and repeats nothing.
func TestStoppedInTheMiddle(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true})
		files := make([]*xray, 40)
		for i := range files {
			files[i] = of(t, []string{"abdominal", "spine", "others"}[i%3])
		}
		w.begun()
		w.upload(files[:20]...)
		w.must(w.router.Stop())
		w.start()
		w.upload(files[20:]...)
		w.must(w.router.Stop())
		w.start()
		w.allRight(files, 1)
	})
}

// While one router works on a database, a second one refuses to.
func TestSecondRouter(t *testing.T) {
	routertest.ONNXRuntime(t)
	orthanctest.Require(t, "")
	w := newWorld(t, "", plan{alone: true})
	w.begun()
	err := w.router.Second(t).Start(t.Context())
	if err == nil || !contains(err.Error(), "another imaging-router works on this database") {
		t.Errorf("a second router on the same database: %v", err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("it did not end at once")
	}
	x := of(t, "others")
	w.upload(x)
	w.labelled(x, label("others"))
}
