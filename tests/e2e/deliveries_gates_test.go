package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// several makes X-rays of a class, each of a study of its own.
func several(t testing.TB, n int, class string) []*xray {
	t.Helper()
	files := make([]*xray, n)
	for i := range files {
		files[i] = of(t, class)
		files[i].name = fmt.Sprintf("%s %d", class, i)
	}
	return files
}

// waits waits until so many deliveries to a destination are pending and the router has looked at everything.
func (w *world) waits(destination string, n int) {
	w.Helper()
	w.eventually(fmt.Sprintf("%d deliveries wait for %s", n, destination), func() error {
		got := w.counted("SELECT count(*) FROM delivery WHERE destination = ? AND state IN ('pending', 'submitting', 'sent')", destination)
		if got != int64(n) {
			return fmt.Errorf("%d do", got)
		}
		return nil
	})
}

// tries counts how often the router has tried a destination that it had left alone.
func (w *world) tries() int {
	return strings.Count(w.router.Log(), "the destination is tried with one delivery")
}

// A dead destination is left alone: it is tried with one delivery from time to time, and the others are not. When it is back, everything arrives, once.
func TestCircuitBreaker(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		const n = 20
		w := newWorld(t, version, plan{hook: true, settings: sending([]any{soon(chestAI), soon(spineAI)}, spines("instance", spineAI))})
		spine := w.destinations[spineAI].proxy
		spine.Set(routertest.Refuse)
		w.begun()
		files := several(t, n, "spine")
		w.upload(files...)
		w.waits(spineAI, n)
		w.metric(1, "destination_closed", spineAI, `reason="circuit_breaker"`)
		w.metric(0, "destination_closed", chestAI)
		before := w.tries()
		w.eventually("it is tried several times", func() error {
			if got := w.tries() - before; got < 4 {
				return fmt.Errorf("%d times", got)
			}
			return nil
		})
		attempts := w.counted("SELECT sum(attempts) FROM delivery")
		tries := w.tries()
		t.Logf("%d attempts, %d tries of the closed destination, %d deliveries", attempts, tries, n)
		if most := int64(3 + tries); attempts > most { // three that closed it, and then one for each try
			t.Errorf("%d attempts at a dead destination that was tried %d times", attempts, tries)
		}
		w.nothingSent(files...)
		w.logged("deliveries wait", spineAI, "left alone")
		spine.Set(routertest.Pass)
		w.at(spineAI, 1, files...)
		w.metric(0, "destination_closed", spineAI)
		w.metric(n, "deliveries_total", spineAI, `outcome="delivered"`)
		w.logged("deliveries go again", spineAI)
	})
}

// What a destination never takes does not keep the others from it: neither while it is well, nor when it was down and that one is the oldest that waits.
func TestOneThatIsAlwaysRefused(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: join(sending([]any{soon(chestAI), soon(spineAI)}, spines("instance", spineAI)),
			routertest.Settings{"jobs": routertest.Settings{"backoff_max": "10m"}})})
		spine := w.destinations[spineAI].proxy
		w.begun()
		refused := several(t, 2, "spine")
		spine.Reject(refused[0].sop, refused[1].sop)
		w.upload(refused...)
		w.failing(spineAI)
		files := several(t, 8, "spine")
		w.upload(files[:4]...)
		for _, x := range files[:4] {
			w.passed(spineAI, x)
		}
		w.metric(0, "destination_closed", spineAI)
		w.eventually("the refused ones have failed so often that they wait for long", func() error {
			if n := w.counted("SELECT count(*) FROM river_job WHERE state = 'retryable'"); n != 2 {
				return fmt.Errorf("%d do", n)
			}
			return nil
		})

		spine.Set(routertest.Refuse)
		w.upload(files[4:]...)
		w.metric(1, "destination_closed", spineAI, `reason="circuit_breaker"`)
		w.waits(spineAI, 6)
		spine.Set(routertest.Pass)
		for _, x := range files[4:] {
			w.passed(spineAI, x)
		}
		w.waits(spineAI, 2)
		if out := w.run("deliveries", "list", "--destination", spineAI, "--state", "pending,submitting,sent"); !contains(out, refused[0].id) || !contains(out, refused[1].id) || !contains(out, "failed: error") {
			t.Errorf("deliveries list does not show the refused ones with their answers:\n%s", out)
		}
		w.nothingSent(refused...)
		w.eventually("the destination is open", func() error { // one that fails may still be the one with which it is tried
			if m, err := w.router.Metrics(t.Context()); err != nil || m.Sum("destination_closed", spineAI) != 0 {
				return fmt.Errorf("it is closed (%w)", err)
			}
			return nil
		})
		spine.Reject()
		w.at(spineAI, 1, append(files, refused...)...)
		w.metric(10, "deliveries_total", spineAI, `outcome="delivered"`)
	})
}

// A person pauses a destination: nothing is sent to it, beyond a restart, and the other one goes on. Resumed, it gets everything, once.
func TestPauseAndResume(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: sending([]any{soon(chestAI), soon(spineAI)},
			rule("abdomens", `class == "abdominal"`, chestAI), rule("abdomens too", `class == "abdominal"`, spineAI))})
		w.begun()
		if out := w.run("deliveries", "pause", chestAI); !contains(out, "chest-ai: paused") {
			t.Errorf("pause: %s", out)
		}
		files := several(t, 4, "abdominal")
		w.upload(files[:2]...)
		w.passed(spineAI, files[0])
		w.passed(spineAI, files[1])
		w.waits(chestAI, 2)
		w.metric(1, "destination_closed", chestAI, `reason="paused"`)
		w.metric(0, "destination_closed", spineAI)
		w.must(w.router.Kill())
		w.start()
		w.upload(files[2:]...)
		w.passed(spineAI, files[2])
		w.passed(spineAI, files[3])
		w.waits(chestAI, 4)
		w.metric(1, "destination_closed", chestAI, `reason="paused"`)
		w.logged("deliveries wait", chestAI, "paused by a person since")
		if out := w.run("deliveries", "status"); !contains(out, "paused since") {
			t.Errorf("status does not say that it is paused:\n%s", out)
		}
		for _, x := range files {
			w.sentTo(chestAI, x, 0)
		}
		if n := w.counted("SELECT sum(attempts) FROM delivery WHERE destination = ?", chestAI); n != 0 {
			t.Errorf("%d attempts at the paused destination", n)
		}
		w.run("deliveries", "resume", chestAI)
		w.once(chestAI, files...)
		w.once(spineAI, files...)
		w.metric(0, "destination_closed", chestAI)
		if out, errs, status, err := w.router.Run(t.Context(), "deliveries", "pause", "elsewhere"); err != nil || status == 0 || !contains(errs, "unknown destination") {
			t.Errorf("pause of an unknown destination: exit status %d, %v: %s%s", status, err, out, errs)
		}
	})
}

// A destination is down: what it does not take in time goes to its alternate, once, also where a rule sends it there anyway, and never to itself after that.
func TestAlternate(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: sending(
			[]any{soon(chestAI, "alternate", spineAI, "alternate_after", "2s"), soon(spineAI)},
			rule("spines", `class == "spine"`, chestAI), rule("abdomens", `class == "abdominal"`, chestAI, spineAI),
			wholeRule("studies", "study", `class == "others"`, chestAI),
		)})
		chest := w.destinations[chestAI].proxy
		chest.Set(routertest.Refuse)
		w.begun()
		single, both, study := of(t, "spine"), of(t, "abdominal"), wholeStudy(t, "others", "others")
		w.upload(append(study, single, both)...)
		w.at(spineAI, 1, append(study, single, both)...)
		w.metric(3, "deliveries_diverted_total", chestAI, spineAI)
		w.logged("delivery goes to the alternate destination", chestAI, spineAI)
		out := w.run("deliveries", "list", "--state", "delivered")
		if strings.Count(out, "spine-ai instead of chest-ai") != 3 || !contains(out, "gets it by another delivery") {
			t.Errorf("deliveries list does not say what the alternate got:\n%s", out)
		}
		if story := w.router.Show(t.Context(), single.id); !contains(story, "diverted") || !contains(story, "to its alternate spine-ai") {
			t.Errorf("the story does not tell of the alternate:\n%s", story)
		}
		chest.Set(routertest.Pass)
		later := of(t, "spine")
		w.upload(later)
		w.at(chestAI, 1, later)
		w.at(spineAI, 1, append(study, single, both)...)
	})
}

// More deliveries than are allowed in an hour wait for a person, beyond a restart; released, they go, and cancelled, they do not.
func TestVolumeBrake(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: join(sending([]any{soon(chestAI), soon(spineAI)}, spines("instance", spineAI)),
			routertest.Settings{"forwarding": routertest.Settings{"volume_limit": "3"}})})
		w.begun()
		files := several(t, 9, "spine")
		w.upload(files[:3]...)
		w.at(spineAI, 1, files[:3]...)
		w.metric(0, "volume_brake")
		if out := w.run("deliveries", "status"); !contains(out, "volume brake: open, holds beyond 3 deliveries") {
			t.Errorf("deliveries status:\n%s", out)
		}
		w.upload(files[3])
		w.labelled(files[3], label("spine"))
		w.metric(1, "volume_brake")
		w.metric(1, "deliveries", spineAI, `state="held"`)
		w.logged(`"level":"error"`, "volume brake holds further deliveries", `"limit":3`)
		w.must(w.router.Kill())
		w.start()
		w.metric(1, "volume_brake")
		w.upload(files[4])
		w.metric(2, "deliveries", spineAI, `state="held"`)
		w.idle()
		w.nothingSent(files[3], files[4])
		if out := w.run("deliveries", "status"); !contains(out, "volume brake: HOLDS since") || !contains(out, "deliveries release") {
			t.Errorf("deliveries status:\n%s", out)
		}
		if out := w.run("deliveries", "list"); strings.Count(out, " held ") != 2 || !contains(out, "more than 3 deliveries within an hour") {
			t.Errorf("deliveries list:\n%s", out)
		}
		if out := w.run("deliveries", "release"); !contains(out, "2 deliveries released") {
			t.Errorf("release: %s", out)
		}
		w.at(spineAI, 1, files[:5]...)
		w.metric(0, "volume_brake")

		// The hour begins anew.
		w.upload(files[5:8]...)
		w.at(spineAI, 1, files[:8]...)
		w.upload(files[8])
		w.metric(1, "deliveries", spineAI, `state="held"`)
		if out := w.run("deliveries", "cancel", "--state", "held"); !contains(out, "1 deliveries cancelled") {
			t.Errorf("cancel: %s", out)
		}
		w.metric(1, "deliveries", spineAI, `state="cancelled"`)
		w.run("deliveries", "release")
		w.at(spineAI, 1, files[:8]...)
		w.at("", 0, files[8])
	})
}

// A rate limits and loses nothing.
func TestMostPerMinute(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: sending([]any{soon(chestAI), soon(spineAI, "most_per_minute", 60, "max_in_flight", 3)}, spines("instance", spineAI))})
		w.begun()
		files := several(t, 3, "spine")
		w.upload(files...)
		w.at(spineAI, 1, files...)
		w.metric(3, "deliveries_total", spineAI, `outcome="delivered"`)
	})
}

// further adds a destination of the usual kind to a world whose router has not been started. The archive knows it until it ends.
func (w *world) further(name string) {
	w.Helper()
	d := &destination{Server: orthanctest.New(w.T, orthanctest.Config{Version: w.version, Name: name, AET: "DEST"})}
	d.proxy = routertest.NewProxy(w.T, d.URL)
	w.destinations[name] = d
	w.timeout(name, 10)
}

// What is stored again goes again as the destination's policy says: never, when it has changed, or always.
func TestResend(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: map[string]any{"OverwriteInstances": true}, settings: sending(
			[]any{soon(chestAI, "resend", "never"), soon(spineAI, "resend", "always"), soon("changed", "resend", "changed")},
			rule("spines", `class == "spine"`, chestAI, spineAI, "changed"))})
		w.further("changed")
		w.begun()
		x := of(t, "spine")
		x.name = "the first"
		again := sameObject(t, x, "spine", "062Y")
		got := func(what string, never, changed, always int) {
			t.Helper()
			w.eventually(what, func() error {
				for name, want := range map[string]int{chestAI: never, "changed": changed, spineAI: always} {
					if n := w.destinations[name].proxy.Passed()[x.sop]; n < want {
						return fmt.Errorf("%s got it %d times, want %d", name, n, want)
					}
				}
				return w.atRest()
			})
			w.sentTo(chestAI, x, never)
			w.sentTo("changed", x, changed)
			w.sentTo(spineAI, x, always)
		}
		w.upload(x)
		got("it goes everywhere", 1, 1, 1)
		w.upload(x)
		got("the same is stored again", 1, 1, 2)
		w.upload(again)
		got("another content is stored", 1, 2, 3)
		w.upload(again)
		got("the other content is stored again", 1, 2, 4)
		w.metric(1, "deliveries_total", chestAI, `outcome="delivered"`)
		w.metric(4, "deliveries_total", spineAI, `outcome="delivered"`)
	})
}

// What is given up stays, with the last answer, and goes by the same delivery when a person takes it up again.
func TestDeadLetter(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		for _, level := range []string{"instance", "study"} {
			t.Run(level, func(t *testing.T) {
				w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: join(sending([]any{soon(chestAI), soon(spineAI)}, spines(level, spineAI)),
					routertest.Settings{"forwarding": routertest.Settings{"give_up_after": "3s"}})})
				spine := w.destinations[spineAI].proxy
				spine.Set(routertest.Fail)
				w.begun()
				files := wholeStudy(t, "spine", "others", "others")
				w.upload(files...)
				if level == "instance" {
					files = files[:1]
				}
				w.metric(1, "deliveries", spineAI, `state="failed"`)
				w.idle()
				text := w.run("deliveries", "list", "--state", "failed", "--json")
				var failed struct{ Delivery, Reason string }
				w.must(json.Unmarshal([]byte(text), &failed)) // one, and no other
				if !contains(failed.Reason, "not delivered within 3s, at last: ") || !contains(failed.Reason, "failed: error") {
					t.Errorf("deliveries list does not show the last answer:\n%s", text)
				}
				w.logged("delivery ended", `"state":"failed"`, "not delivered within 3s")
				w.metric(1, "deliveries_total", spineAI, `outcome="failed"`)
				spine.Set(routertest.Pass)
				if out := w.run("deliveries", "retry", "--destination", spineAI, "--dry-run"); !contains(out, "1 deliveries") {
					t.Errorf("dry run: %s", out)
				}
				w.nothingSent(files...)
				if out := w.run("deliveries", "retry", "--destination", spineAI); !contains(out, "1 deliveries") {
					t.Errorf("retry: %s", out)
				}
				w.at(spineAI, 1, files...)
				if n := w.counted("SELECT count(*) FROM delivery WHERE id = ? AND state = 'delivered' AND instances = ?", failed.Delivery, len(files)); n != 1 {
					t.Errorf("it did not go by the same delivery: %s", w.run("deliveries", "show", failed.Delivery))
				}
				if n := w.counted("SELECT count(*) FROM delivery"); n != 1 {
					t.Errorf("%d deliveries, want the one", n)
				}
				w.metric(1, "deliveries_total", spineAI, `outcome="delivered"`)
			})
		}
	})
}

// pacs makes a destination reachable as a DICOM node of the archive, which it knows as well when both is set.
func (w *world) pacs(name string, both bool) {
	w.Helper()
	d := w.destinations[name]
	node := func(s *orthanctest.Server) map[string]any {
		return map[string]any{"AET": s.AET, "Host": "127.0.0.1", "Port": s.DicomPort}
	}
	w.do(http.MethodPut, "/modalities/pacs", node(d.Server))
	if !both {
		return
	}
	status, answer, err := d.Do(w.Context(), http.MethodPut, "/modalities/archive", node(w.archive))
	w.must(err)
	if status != http.StatusOK {
		w.Fatalf("HTTP %d: %s", status, answer)
	}
}

// committed is a destination that must commit itself to keep what it got.
func committed() map[string]any {
	return map[string]any{"name": "pacs", "modality": "pacs", "storage_commitment": true, "timeout": "5s", "circuit_breaker": map[string]any{"failures": 3, "pause": "1s"}}
}

// A modality that is asked for storage commitment has got something only when it has said so: neither before it can answer, nor when it takes
// everything and keeps nothing.
func TestStorageCommitment(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		for _, level := range []string{"instance", "study"} {
			t.Run(level, func(t *testing.T) {
				w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: sending([]any{committed(), soon(chestAI)}, spines(level, "pacs"))})
				d := w.destinations[spineAI] // reached by DICOM
				w.pacs(spineAI, false)
				w.begun()
				files := wholeStudy(t, "spine", "spine")
				holds := func(all []*xray) error {
					there, err := d.arrived(w)
					for _, x := range all {
						if err == nil && !there[x.sop] {
							err = fmt.Errorf("%s is not there\n%s", x.name, w.run("deliveries", "list"))
						}
					}
					return err
				}
				undelivered := func(what string) {
					t.Helper()
					if n := w.counted("SELECT count(*) FROM delivery WHERE state = 'delivered'"); n != 0 {
						t.Errorf("%s: %d deliveries are reported as delivered", what, n)
					}
				}
				w.upload(files...)
				w.eventually("the destination has taken it", func() error { return holds(files) })
				w.failing("pacs")
				undelivered("a destination that cannot answer")
				w.pacs(spineAI, true)
				w.eventually("it is delivered", func() error { return errors.Join(holds(files), w.atRest()) })
				want := map[string]int64{"instance": 2, "study": 1}[level]
				if n := w.counted("SELECT count(*) FROM delivery WHERE state = 'delivered'"); n != want {
					t.Errorf("%d deliveries arrived, want %d", n, want)
				}
				w.metric(float64(want), "deliveries_total", "pacs", `outcome="delivered"`)
				w.logged("delivery not made yet", "pacs")
			})
		}
	})
}

// A destination that takes everything and keeps nothing is found out.
func TestDiscardedSilently(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: sending([]any{committed(), soon(chestAI)}, spines("instance", "pacs"))})
		d := w.destinations[spineAI]
		script := filepath.Join(t.TempDir(), "discard.lua")
		w.must(os.WriteFile(script, []byte("function ReceivedInstanceFilter(dicom, origin, info)\n  return false\nend\n"), 0o600))
		w.must(d.RestartWith(t.Context(), func(c *orthanctest.Config) { c.Lua = []string{script} }))
		w.pacs(spineAI, true)
		w.begun()
		x := of(t, "spine")
		w.upload(x)
		w.failing("pacs")
		w.failing("pacs")
		if n := w.counted("SELECT count(*) FROM delivery WHERE state = 'delivered'"); n != 0 {
			t.Error("what the destination has thrown away is reported as delivered")
		}
		w.metric(0, "deliveries_total", "pacs", `outcome="delivered"`)
		w.logged("delivery not made yet", "does not keep 1 of 1 instances")
		if there, err := d.arrived(w); err != nil || len(there) != 0 {
			t.Fatalf("the destination keeps %v, %v", there, err)
		}
		w.must(d.RestartWith(t.Context(), func(c *orthanctest.Config) { c.Lua = nil }))
		w.pacs(spineAI, true)
		w.idle()
		if there, err := d.arrived(w); err != nil || !there[x.sop] {
			t.Errorf("it did not arrive: %v, %v", there, err)
		}
		w.metric(1, "deliveries_total", "pacs", `outcome="delivered"`)
	})
}

// A peer gets its files in the transfer syntax that it wants; the archive keeps its own.
func TestTransferSyntax(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		const explicit, implicit = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
		levels(t, version, plan{settings: routertest.Settings{"destinations": []any{soon(chestAI), soon(spineAI, "transfer_syntax", implicit)}}}, func(t *testing.T, w *world, files []*xray) {
			w.begun()
			w.upload(files...)
			w.at(spineAI, 1, files...)
			for _, x := range files {
				for name, want := range map[string]string{"archive": explicit, spineAI: implicit} {
					server := w.archive
					if name != "archive" {
						server = w.destinations[name].Server
					}
					status, answer, err := server.Do(t.Context(), http.MethodGet, "/instances/"+x.id+"/metadata/TransferSyntax", nil)
					w.must(err)
					if status != http.StatusOK || string(answer) != want {
						t.Errorf("%s at %s: transfer syntax %s, HTTP %d; want %s", x.name, name, answer, status, want)
					}
				}
			}
			w.logged("delivery ended", spineAI, `"state":"delivered"`)
		})
	})
}

// A webhook that answers with an error hears of a delivery again, by the same id, until it takes it; and then no more.
func TestWebhookSameDelivery(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		var mu sync.Mutex
		var ids, bodies []string
		receiver := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids, bodies = append(ids, r.Header.Get("X-Imaging-Router-Delivery")), append(bodies, string(body))
			if len(ids) <= 2 {
				http.Error(rw, "not yet", http.StatusInternalServerError)
			}
		}))
		t.Cleanup(receiver.Close)
		hook := map[string]any{"name": "reporting", "webhook": map[string]any{"url": receiver.URL + "/results"}, "circuit_breaker": map[string]any{"failures": 3, "pause": "1s"}}
		w := newWorld(t, version, plan{hook: true, alone: true, settings: sending([]any{hook}, rule("spines", `class == "spine"`, "reporting"))})
		w.begun()
		x := of(t, "spine")
		w.upload(x)
		w.metric(1, "deliveries_total", "reporting", `outcome="delivered"`)
		w.idle()
		w.upload(x) // stored again: the archive keeps what it has
		w.idle()
		mu.Lock()
		defer mu.Unlock()
		if len(ids) != 3 || ids[0] == "" || ids[0] != ids[1] || ids[1] != ids[2] {
			t.Fatalf("the deliveries: %q", ids)
		}
		for _, body := range bodies {
			var said struct{ Delivery, Instance string }
			w.must(json.Unmarshal([]byte(body), &said))
			if said.Delivery != ids[0] || said.Instance != x.id {
				t.Errorf("the body says delivery %s of %s", said.Delivery, said.Instance)
			}
		}
		w.logged("delivery not made yet", "reporting", "HTTP 500")
		if n := w.counted("SELECT attempts FROM delivery WHERE id = ?", ids[0]); n != 3 {
			t.Errorf("%d attempts, want 3", n)
		}
	})
}
