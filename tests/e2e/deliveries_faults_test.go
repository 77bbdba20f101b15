package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// soon describes a destination that is a peer, and that is tried again soon when it did not take what it was sent.
func soon(name string, keys ...any) map[string]any {
	return with(map[string]any{"name": name, "peer": name, "timeout": "30s", "circuit_breaker": map[string]any{"failures": 3, "pause": "1s"}}, keys...)
}

// sending are the settings of a router with these destinations and rules, for which a study is quiet soon and no number of deliveries is too many.
func sending(destinations []any, list ...any) routertest.Settings {
	return routertest.Settings{
		"forwarding": routertest.Settings{"quiet": "500ms", "volume_limit": "off"}, "destinations": destinations, "rules": list,
	}
}

// spines are rules that send pictures of the class spine to a destination, one by one or with their whole study.
func spines(level, to string) map[string]any {
	return wholeRule("spines", level, `class == "spine"`, to)
}

// levels runs a test for deliveries of single instances and of whole studies. The files are of one study; rules as above send all of them.
func levels(t *testing.T, version string, p plan, test func(t *testing.T, w *world, files []*xray)) {
	t.Helper()
	for _, level := range []string{"instance", "study"} {
		t.Run(level, func(t *testing.T) {
			p := p
			p.hook, p.archive = true, stableSoon
			p.settings = join(sending([]any{soon(chestAI), soon(spineAI)}, spines(level, spineAI)), p.settings)
			w := newWorld(t, version, p)
			files := wholeStudy(t, "spine", "spine", "spine", "spine")
			if level == "study" {
				files = append(files, sameStudy(t, files[0], "others"), ctOf(files[0]))
			}
			test(t, w, files)
			want := map[string]int64{"instance": int64(len(files)), "study": 1}[level]
			if n := w.counted("SELECT count(*) FROM delivery WHERE state = 'delivered'"); n != want || w.counted("SELECT count(*) FROM delivery") != want {
				t.Errorf("%d deliveries of level %s arrived, want %d and no other", n, level, want)
			}
		})
	}
}

// at waits until the router is at rest and every file is at the destination, and checks that it is nowhere else and was sent there most times
// at most. The destination "" is none.
func (w *world) at(destination string, most int, files ...*xray) {
	w.Helper()
	missing := func() error {
		if destination == "" {
			return nil
		}
		there, err := w.destinations[destination].arrived(w)
		if err != nil {
			return err
		}
		for _, x := range files {
			if !there[x.sop] {
				return fmt.Errorf("%s is not at %s\n%s", x.name, destination, w.run("deliveries", "list"))
			}
		}
		return nil
	}
	w.eventually("everything is at "+destination, func() error { return errors.Join(missing(), w.atRest()) })
	for _, name := range w.names() {
		there, err := w.destinations[name].arrived(w)
		w.must(err)
		posts := w.destinations[name].proxy.Passed()
		for _, x := range files {
			switch {
			case name != destination && (there[x.sop] || posts[x.sop] > 0):
				w.Errorf("%s was sent to %s", x.name, name)
			case name == destination && (posts[x.sop] < 1 || posts[x.sop] > most):
				w.Errorf("%s was sent to %s %d times, want once, and at most %d times", x.name, name, posts[x.sop], most)
			}
		}
	}
}

// unlimited is for at, where every further attempt may send a file again, which eachAttemptOnce counts.
const unlimited = 1 << 30

// eachAttemptOnce checks that no file was sent to a destination more often than there were attempts to deliver it.
func (w *world) eachAttemptOnce(destination string, files ...*xray) {
	w.Helper()
	posts := w.destinations[destination].proxy.Passed()
	for _, x := range files {
		attempts := int(w.counted("SELECT coalesce(sum(d.attempts), 0) FROM delivery d JOIN delivery_item i ON i.delivery_id = d.id WHERE i.instance_id = ?", x.id))
		if posts[x.sop] > attempts {
			w.Errorf("%s was sent to %s %d times in %d attempts", x.name, destination, posts[x.sop], attempts)
		}
	}
}

// metric waits for the value of a metric.
func (w *world) metric(want float64, name string, parts ...string) {
	w.Helper()
	w.eventually(fmt.Sprintf("%s%v is %v", name, parts, want), func() error {
		m, err := w.router.Metrics(w.Context())
		if n := m.Sum(name, parts...); err == nil && n != want {
			err = fmt.Errorf("%v", n)
		}
		return err
	})
}

// logged checks that the router's log has a line with all the parts.
func (w *world) logged(parts ...string) {
	w.Helper()
	for line := range strings.Lines(w.router.Log()) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !contains(line, p) }) {
			return
		}
	}
	w.Errorf("the log has no line with %q", parts)
}

// arriving waits until so many POSTs of instances have reached a destination since it was last made to forget them.
func (w *world) arriving(destination string, n int) {
	w.Helper()
	w.eventually(fmt.Sprintf("%d POSTs reach %s", n, destination), func() error {
		if got := len(w.destinations[destination].proxy.Posts()); got < n {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
}

// timeout tells the running archive how long it waits for a peer, in seconds.
func (w *world) timeout(peer string, seconds int) {
	w.Helper()
	d := w.destinations[peer]
	w.do(http.MethodPut, "/peers/"+peer, map[string]any{"Url": d.proxy.URL + "/", "Username": d.Username, "Password": d.Password, "Timeout": seconds})
}

// A destination refuses, then answers with errors, then hangs, then is back: the study that was for it arrives, each instance once.
func TestDestinationDownForAWholeStudy(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: sending([]any{soon(chestAI), soon(spineAI)}, spines("study", spineAI))})
		w.timeout(spineAI, 2)
		spine := w.destinations[spineAI].proxy
		spine.Set(routertest.Refuse)
		w.begun()
		files := append(wholeStudy(t, "spine", "others", "spine"), nil)
		files[3] = ctOf(files[0])
		w.upload(files...)
		w.failing(spineAI)
		spine.Set(routertest.Fail)
		w.failing(spineAI)
		spine.Set(routertest.Hang)
		w.failing(spineAI)
		w.failing(spineAI)
		w.nothingSent(files...)
		w.labelled(files[0], label("spine"), label("others"))
		if out := w.run("deliveries", "list"); !contains(out, "4 instances") || !contains(out, "failed: error") {
			t.Errorf("deliveries list does not show what waits, and its last answer:\n%s", out)
		}
		spine.Set(routertest.Pass)
		w.at(spineAI, 2, files...) // twice, where the last one that hung was let go with an answer
		w.logged("delivery not made yet", spineAI, "failed: error 9")
		w.logged("delivery ended", `"instances":4`, `"state":"delivered"`)
		w.metric(1, "deliveries_total", spineAI, `outcome="delivered"`)
		w.made("studies", 4, 1)
	})
}

// A destination has no room, then has: everything arrives. What it refused for want of room is not reported as delivered.
func TestDestinationFull(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		levels(t, version, plan{}, func(t *testing.T, w *world, files []*xray) {
			spine := w.destinations[spineAI]
			full := map[string]any{"MaximumStorageSize": 1, "MaximumStorageMode": "Reject"}
			w.must(spine.RestartWith(t.Context(), func(c *orthanctest.Config) { c.Extra = full }))
			var status int
			for range 10 { // of 0.3 MB each, so that the last ones are refused
				var err error
				status, _, err = spine.Do(t.Context(), http.MethodPost, "/instances", orthanctest.File{Side: 560}.Bytes())
				w.must(err)
			}
			if status == http.StatusOK {
				t.Fatal("the destination is not full")
			}
			w.begun()
			w.upload(files...)
			w.failing(spineAI)
			w.failing(spineAI)
			if n := w.counted("SELECT count(*) FROM delivery WHERE state = 'delivered'"); n != 0 {
				there, err := spine.arrived(w)
				w.must(err)
				t.Errorf("%d deliveries are reported as delivered; it holds %v", n, there)
			}
			w.must(spine.RestartWith(t.Context(), func(c *orthanctest.Config) { c.Extra = nil }))
			w.at(spineAI, unlimited, files...)
			w.eachAttemptOnce(spineAI, files...)
			w.logged("delivery not made yet", spineAI)
		})
	})
}

// A destination takes half of a study and dies. When it is back, all of it arrives: the half that it had, twice at most.
func TestHalfOfAStudy(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		for name, dies := range map[string]routertest.Behaviour{"refuses": routertest.Refuse, "fails": routertest.Fail, "loses answers": routertest.LostReply} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: sending([]any{soon(chestAI), soon(spineAI)}, spines("study", spineAI))})
				spine := w.destinations[spineAI]
				spine.proxy.After(3, dies)
				w.begun()
				files := wholeStudy(t, "spine", "others", "spine", "others", "abdominal")
				files = append(files, ctOf(files[0]))
				w.upload(files...)
				w.failing(spineAI)
				half, err := spine.arrived(w)
				w.must(err)
				if len(half) < 3 || len(half) > 4 {
					t.Errorf("the destination has %d of 6", len(half))
				}
				w.metric(0, "deliveries_total", spineAI, `outcome="delivered"`)
				spine.proxy.Set(routertest.Pass)
				if dies == routertest.LostReply { // Orthanc's libcurl repeats by itself what got no answer on a connection that it had used before
					w.at(spineAI, unlimited, files...)
				} else {
					w.at(spineAI, 2, files...)
					w.eachAttemptOnce(spineAI, files...)
				}
				repeated := 0
				for _, x := range files {
					if spine.proxy.Passed()[x.sop] > 1 {
						repeated++
					}
				}
				if repeated > len(half) {
					t.Errorf("%d instances were sent again; the destination had %d", repeated, len(half))
				}
				w.logged("delivery not made yet", spineAI, "failed: error")
				w.made("studies", 6, 1)
				w.metric(1, "deliveries_total", spineAI, `outcome="delivered"`)
			})
		}
	})
}

// The archive is restarted, or killed, while it sends: everything arrives, and what was on its way at that moment twice at most.
func TestArchiveEndsWhileItSends(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		for name, end := range map[string]func(w *world) error{
			"restarted": func(w *world) error { return w.archive.Restart(context.WithoutCancel(w.Context())) },
			"killed": func(w *world) error {
				return errors.Join(w.archive.Kill(), w.archive.Restart(context.WithoutCancel(w.Context())))
			},
		} {
			t.Run(name, func(t *testing.T) {
				levels(t, version, plan{}, func(t *testing.T, w *world, files []*xray) {
					spine := w.destinations[spineAI].proxy
					w.begun()
					spine.Delay(time.Second)
					w.upload(files...)
					w.arriving(spineAI, 2)
					w.must(end(w))
					spine.Delay(0)
					w.at(spineAI, 2, files...)
					w.logged("delivery ended", spineAI, `"state":"delivered"`)
					all, repeats := w.posts()
					t.Logf("%d POSTs of %d instances, %d of them repeats", all, len(files), repeats)
				})
			})
		}
	})
}

// The archive has taken a job, and its answer does not reach the router, which is killed, or goes on: the job is found again, and nothing is sent twice.
func TestSubmittedAndNotRecorded(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		submits := func(method, path string) bool {
			return method == http.MethodPost && strings.HasPrefix(path, "/peers/") && strings.HasSuffix(path, "/store")
		}
		for name, fault := range map[string]func(w *world){
			"router killed": func(w *world) {
				w.must(w.router.Kill())
				w.front.Withhold(nil)
				w.start()
			},
			"answer lost": func(w *world) {
				w.front.Withhold(nil)
			},
		} {
			t.Run(name, func(t *testing.T) {
				levels(t, version, plan{front: true}, func(t *testing.T, w *world, files []*xray) {
					w.begun()
					w.front.Withhold(submits)
					w.upload(files...)
					w.eventually("an answer is withheld", func() error {
						if w.front.Withheld() == 0 {
							return errors.New("none was asked for")
						}
						return nil
					})
					if n := w.counted("SELECT count(*) FROM delivery WHERE state = 'submitting'"); n != 1 {
						t.Errorf("%d deliveries are being submitted, want 1", n)
					}
					fault(w)
					w.at(spineAI, 1, files...)
					w.logged("delivery ended", spineAI, `"state":"delivered"`)
					w.metric(float64(w.counted("SELECT count(*) FROM delivery")), "deliveries", spineAI, `state="delivered"`)
				})
			})
		}
	})
}

// What waits for a destination is deleted in the archive: the delivery ends as gone, of a study what is left arrives, and nothing is stuck.
func TestDeletedWhileItWaits(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: sending([]any{soon(chestAI), soon(spineAI)},
			spines("study", spineAI), rule("abdomens", `class == "abdominal"`, spineAI))})
		spine := w.destinations[spineAI].proxy
		spine.Set(routertest.Refuse)
		w.begun()
		gone := wholeStudy(t, "spine", "others", "spine")
		part := wholeStudy(t, "spine", "others", "spine")
		single := of(t, "abdominal")
		w.upload(append(append(slices.Clone(gone), part...), single)...)
		w.metric(3, "deliveries", spineAI, `state="pending"`)
		w.failing(spineAI)
		w.do(http.MethodDelete, "/studies/"+w.see(gone[0]).Study, nil)
		w.do(http.MethodDelete, "/instances/"+part[1].id, nil)
		w.do(http.MethodDelete, "/instances/"+single.id, nil)
		w.metric(2, "deliveries", spineAI, `state="gone"`)
		spine.Set(routertest.Pass)
		w.at(spineAI, 2, part[0], part[2])
		w.at("", 0, append(slices.Clone(gone), part[1], single)...)
		w.logged("delivery ended", `"state":"gone"`, "deleted in Orthanc")
		w.metric(2, "deliveries_total", spineAI, `outcome="gone"`)
		w.metric(1, "deliveries_total", spineAI, `outcome="delivered"`)
		if n := w.counted("SELECT count(*) FROM delivery_item WHERE dropped = 'deleted in Orthanc'"); n != 5 {
			t.Errorf("%d instances are noted as deleted, want 5", n)
		}
	})
}

// The clock was two hours ahead while the router worked, and has been set back: nothing sleeps for two hours.
func TestClockSetBack(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, front: true, archive: stableSoon, settings: sending([]any{soon(chestAI), soon(spineAI)},
			spines("study", spineAI), rule("abdomens", `class == "abdominal"`, chestAI))})
		for _, name := range w.names() {
			w.destinations[name].proxy.Set(routertest.Refuse)
		}
		w.begun()
		study := wholeStudy(t, "spine", "others", "spine")
		w.upload(study...)
		w.metric(1, "deliveries", spineAI, `state="pending"`)
		single := []*xray{of(t, "abdominal"), of(t, "abdominal"), of(t, "abdominal"), of(t, "abdominal"), of(t, "abdominal")}
		w.upload(single...)
		w.metric(5, "deliveries", chestAI, `state="pending"`)
		w.failing(chestAI)
		w.failing(spineAI)
		// One is being looked at, and of one study not everything is known.
		w.front.Withhold(func(_, path string) bool { return strings.HasSuffix(path, "/file") })
		waiting := wholeStudy(t, "spine", "others")
		w.upload(waiting...)
		w.eventually("it is being looked at", func() error {
			if w.front.Withheld() == 0 {
				return errors.New("not yet")
			}
			return nil
		})
		w.must(w.router.Kill())
		w.front.Withhold(nil)
		w.ahead(2 * time.Hour)
		for _, name := range w.names() {
			w.destinations[name].proxy.Set(routertest.Pass)
		}
		w.start()
		w.at(chestAI, 1, single...)
		w.at(spineAI, 1, append(study, waiting...)...)
		w.logged("clock was set back")
		w.metric(5, "deliveries", chestAI, `state="delivered"`)
	})
}

// ahead moves all times in the database of a stopped router into the future, as if they had been written by a clock that was ahead.
func (w *world) ahead(by time.Duration) {
	w.Helper()
	w.must(w.router.ShiftClock(w.Context(), by))
}

// A destination is dead and its queue grows long; another one stays current. When the dead one is back, it gets everything. IMAGINGROUTER_QUEUE says
// how long the queue gets. The times are printed and not asserted.
func TestLongQueue(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		const m = 20
		n, err := strconv.Atoi(cmp.Or(os.Getenv("IMAGINGROUTER_QUEUE"), "200"))
		if err != nil {
			t.Fatal(err)
		}
		// Grey squares are under review: rules that mention it take them all the same.
		w := newWorld(t, version, plan{hook: true, settings: sending([]any{soon(chestAI, "max_in_flight", 4), soon(spineAI)},
			rule("everything", `review || !review`, chestAI), rule("some", `modality == "CR" && (review || !review)`, spineAI))})
		chest := w.destinations[chestAI].proxy
		w.begun()
		squares := func(count int, modality string) []*xray {
			files := make([]*xray, count)
			study, series := "", ""
			for i := range files {
				if i%5 == 0 {
					study, series = orthanctest.NewUID(), orthanctest.NewUID()
				}
				f := orthanctest.File{SOPClass: orthanctest.DigitalXRay, Modality: modality, StudyUID: study, SeriesUID: series, SOPInstanceUID: orthanctest.NewUID()}
				if modality == "CR" {
					f.SOPClass = orthanctest.ComputedRadiography
				}
				files[i] = &xray{name: fmt.Sprintf("%s %d", modality, i), sop: f.SOPInstanceUID, study: study, series: series, file: f.Bytes()}
			}
			return files
		}
		delivered := func(destination string, want int) {
			t.Helper()
			w.patiently(fmt.Sprintf("%d deliveries to %s", want, destination), func() (int, bool) {
				got := int(w.counted("SELECT count(*) FROM delivery WHERE destination = ? AND state = 'delivered'", destination))
				return got, got >= want
			})
		}
		live := 0
		current := func(when string) []*xray {
			t.Helper()
			began := time.Now().UnixMilli()
			files := squares(m, "CR")
			w.upload(files...)
			live += m
			delivered(spineAI, live)
			at := func(percent int) time.Duration {
				return time.Duration(w.counted(`SELECT d.finished_at - i.first_marked FROM delivery d JOIN instance i ON i.id = d.resource_id
					WHERE d.destination = ? AND d.created_at >= ? ORDER BY 1 LIMIT 1 OFFSET ?`, spineAI, began, (m-1)*percent/100)) * time.Millisecond
			}
			own := func(percent int) time.Duration {
				return time.Duration(w.counted(`SELECT finished_at - created_at FROM delivery WHERE destination = ? AND created_at >= ? ORDER BY 1 LIMIT 1 OFFSET ?`,
					spineAI, began, (m-1)*percent/100)) * time.Millisecond
			}
			t.Logf("%-44s stored to delivered: median %6v, p90 %6v; created to finished: median %6v, p90 %6v", when, at(50), at(90), own(50), own(90))
			return files
		}
		all := current("before:")
		w.idle()

		chest.Set(routertest.Refuse)
		queue := squares(n, "DX")
		began := time.Now()
		w.uploadAll(queue)
		w.patiently("the queue grows", func() (int, bool) {
			got := int(w.counted("SELECT count(*) FROM delivery WHERE destination = ? AND state IN ('pending', 'submitting', 'sent')", chestAI))
			return got, got == n
		})
		w.metric(1, "destination_closed", chestAI, `reason="circuit_breaker"`)
		t.Logf("a queue of %d before the dead destination within %v", n, time.Since(began).Round(time.Second))
		refusing := current(fmt.Sprintf("while the other refuses, with %d queued:", n))
		chest.Set(routertest.Hang)
		w.arriving(chestAI, m+1) // the first m passed
		hanging := current(fmt.Sprintf("while the other hangs, with %d queued:", n+m))
		waits := int(w.counted("SELECT count(*) FROM delivery WHERE destination = ? AND state IN ('pending', 'submitting', 'sent')", chestAI))
		if waits != n+2*m {
			t.Errorf("%d deliveries wait for the dead destination, want %d", waits, n+2*m)
		}
		attempts := w.counted("SELECT sum(attempts) FROM delivery WHERE destination = ? AND state <> 'delivered'", chestAI)
		t.Logf("%d attempts at the dead destination", attempts)
		all = append(append(append(all, refusing...), hanging...), queue...)

		began = time.Now()
		chest.Set(routertest.Pass)
		delivered(chestAI, n+3*m)
		t.Logf("the destination that is back has got all %d within %v", n+2*m, time.Since(began).Round(100*time.Millisecond))
		w.idle()
		for name, files := range map[string][]*xray{chestAI: all, spineAI: all[:3*m]} {
			there, err := w.destinations[name].arrived(w)
			w.must(err)
			posts := w.destinations[name].proxy.Passed()
			most := map[string]int{chestAI: 2, spineAI: 1}[name]
			for _, x := range files {
				if !there[x.sop] || posts[x.sop] > most {
					t.Errorf("%s: at %s %t, after %d POSTs", x.name, name, there[x.sop], posts[x.sop])
				}
			}
			if len(there) != len(files) {
				t.Errorf("%d instances are at %s, want %d", len(there), name, len(files))
			}
		}
		w.logged("deliveries wait", chestAI, "left alone")
		w.logged("deliveries go again", chestAI)
		w.metric(float64(n+3*m), "deliveries_total", chestAI, `outcome="delivered"`)
	})
}

// uploadAll stores many files, several at a time.
func (w *world) uploadAll(files []*xray) {
	w.Helper()
	next := make(chan *xray)
	failed := make([]error, 4)
	var wait sync.WaitGroup
	for i := range failed {
		wait.Go(func() {
			for x := range next {
				id, err := w.archive.Upload(w.Context(), x.file)
				x.id, failed[i] = id, errors.Join(failed[i], err)
			}
		})
	}
	for _, x := range files {
		next <- x
	}
	close(next)
	wait.Wait()
	w.must(errors.Join(failed...))
}

// patiently waits until check is content, as long as the number that it returns moves.
func (w *world) patiently(what string, check func() (int, bool)) {
	w.Helper()
	last, moved := -1, time.Now()
	for {
		got, done := check()
		if done {
			return
		}
		if got != last {
			last, moved = got, time.Now()
		}
		if time.Since(moved) > within {
			w.Fatalf("%s: at %d, which has not moved for %s\n%s", what, got, within, w.run("deliveries", "status"))
		}
		select {
		case <-w.Context().Done():
			w.Fatalf("%s: %v", what, w.Context().Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
