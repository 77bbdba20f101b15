package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// run runs a sub-command that must succeed, and returns what it printed.
func (w *world) run(arguments ...string) string {
	w.Helper()
	out, errs, status, err := w.router.Run(w.Context(), arguments...)
	w.must(err)
	if status != 0 {
		w.Fatalf("%v: exit status %d: %s%s", arguments, status, out, errs)
	}
	return out
}

// nothingSent checks that no destination got any of the files.
func (w *world) nothingSent(files ...*xray) {
	w.Helper()
	for _, name := range w.names() {
		there, err := w.destinations[name].arrived(w)
		w.must(err)
		posts := w.destinations[name].proxy.Passed()
		for _, x := range files {
			if there[x.sop] || posts[x.sop] > 0 {
				w.Errorf("%s was sent to %s", x.name, name)
			}
		}
	}
}

// Pilot mode only labels. What came in that time is not sent later, either.
func TestPilotMode(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: routertest.Settings{"forwarding": routertest.Settings{"enabled": false}}})
		w.begun()
		pilot := of(t, "abdominal")
		w.upload(pilot)
		w.labelled(pilot, label("abdominal"))
		w.idle()
		if out := w.run("forwarding", "on"); !contains(out, "on (by command") {
			t.Errorf("forwarding on: %s", out)
		}
		later := of(t, "spine")
		w.upload(later)
		w.allRight([]*xray{later}, 1)
		w.nothingSent(pilot)
		if m := w.metrics(); m.Sum("forwarding") != 1 {
			t.Error("metrics say that forwarding is off")
		}
	})
}

// The brake holds what is new while everything is labelled, beyond a restart; released, it all goes, once.
func TestBrake(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true})
		w.begun()
		before := of(t, "spine")
		w.upload(before)
		w.allRight([]*xray{before}, 1)
		w.run("forwarding", "off")
		held := []*xray{of(t, "abdominal"), of(t, "spine")}
		w.upload(held...)
		w.labelled(held[0], label("abdominal"))
		w.labelled(held[1], label("spine"))
		w.must(w.router.Kill())
		w.start()
		w.eventually("three deliveries wait", func() error {
			m, err := w.router.Metrics(t.Context())
			if err == nil && m.Sum("deliveries", `state="pending"`) != 3 {
				err = fmt.Errorf("%v", m.Sum("deliveries", `state="pending"`))
			}
			return err
		})
		w.nothingSent(held...)
		if out := w.run("forwarding", "status"); !contains(out, "off (by command") || !contains(out, "deliveries wait") {
			t.Errorf("forwarding status: %s", out)
		}
		w.run("forwarding", "default")
		w.allRight(append(held, before), 1)
	})
}

// What the brake held until it was older than route_max_age is not sent by its release.
func TestBrakeHeldTooLong(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: routertest.Settings{"forwarding": routertest.Settings{"route_max_age": "4s"}}})
		w.begun()
		w.run("forwarding", "off")
		held := of(t, "spine")
		w.upload(held)
		w.labelled(held, label("spine"))
		w.old(held, 5*time.Second)
		w.run("forwarding", "on")
		w.idle()
		w.nothingSent(held)
		if n := w.metrics().Sum("deliveries", `state="expired"`); n != 1 {
			t.Errorf("%v deliveries expired, want the one that was held", n)
		}
		fresh := of(t, "spine")
		w.upload(fresh)
		w.allRight([]*xray{fresh}, 1)
	})
}

// old waits until the archive has had an X-ray for so long.
func (w *world) old(x *xray, age time.Duration) {
	w.Helper()
	at, err := time.ParseInLocation("20060102T150405", w.see(x).Metadata["ReceptionDate"], time.UTC)
	w.must(err)
	w.eventually("it is old", func() error {
		if got := time.Since(at); got < age {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// An archive that was there before the router is labelled from its beginning, and none of it is forwarded; what comes now is.
func TestFromTheBeginning(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{settings: routertest.Settings{"intake": routertest.Settings{"from": "beginning"}}})
		old := []*xray{of(t, "abdominal"), of(t, "spine"), of(t, "others")}
		w.upload(old...)
		w.start()
		for _, x := range old {
			w.labelled(x, label(x.class))
		}
		w.idle()
		fresh := of(t, "abdominal")
		w.upload(fresh)
		w.allRight([]*xray{fresh}, 1)
		w.nothingSent(old...)
	})
}

// By default the router begins with what comes from now on, and leaves alone what was there.
func TestFromNow(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{archive: map[string]any{"StoreMD5ForAttachments": false}}) // some sites save the time
		old := of(t, "spine")
		w.upload(old)
		w.begun()
		fresh := of(t, "abdominal")
		w.upload(fresh)
		w.allRight([]*xray{fresh}, 1)
		if s := w.see(old); s.BodyPart != "" || len(s.StudyLabels) > 0 {
			t.Errorf("what was there before has %q and labels %v", s.BodyPart, s.StudyLabels)
		}
	})
}

// What is older than route_max_age when the router gets to it is labelled and not forwarded.
func TestRouteMaxAge(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{settings: routertest.Settings{"forwarding": routertest.Settings{"route_max_age": "3s"}}})
		w.begun()
		w.must(w.router.Stop())
		old := of(t, "abdominal")
		w.upload(old)
		w.old(old, 4*time.Second)
		w.start()
		w.labelled(old, label("abdominal"))
		w.idle()
		w.nothingSent(old)
		if story := w.router.Show(t.Context(), old.id); !contains(story, "route_max_age") {
			t.Errorf("the story does not say why it was not forwarded:\n%s", story)
		}
	})
}

// Copies that Orthanc made by modify and anonymise are labelled and not forwarded; what came from a destination does not go back there.
func TestCopiesAndReturns(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true})
		w.begun()
		x := of(t, "spine")
		w.upload(x)
		w.allRight([]*xray{x}, 1)
		sent, _ := w.posts()
		study := w.see(x).Study
		for _, request := range []struct {
			how  string
			body map[string]any
		}{
			{"modify", map[string]any{"Replace": map[string]string{"InstitutionName": "elsewhere"}}},
			{"anonymize", map[string]any{}},
		} {
			var copied struct{ ID string }
			w.must(json.Unmarshal(w.do(http.MethodPost, "/studies/"+study+"/"+request.how, request.body), &copied))
			w.eventually("the copy is labelled", func() error {
				var s struct{ Labels []string }
				if err := w.archive.GetJSON(t.Context(), "/studies/"+copied.ID, &s); err != nil {
					return err
				}
				if !slices.Equal(s.Labels, []string{label("spine")}) {
					return fmt.Errorf("%s: labels %v", request.how, s.Labels)
				}
				return nil
			})
		}
		w.idle()
		if n, _ := w.posts(); n != sent {
			t.Errorf("%d POSTs, %d before the copies were made", n, sent)
		}

		returned := of(t, "abdominal")                               // the rules say: both
		w.archive.Username, w.archive.Password = "chest-ai", "chest" // its account at the archive
		w.upload(returned)
		w.archive.Username, w.archive.Password = "router", "secret"
		w.labelled(returned, label("abdominal"))
		w.idle()
		if n := w.destinations[spineAI].proxy.Passed()[returned.sop]; n != 1 {
			t.Errorf("sent %d times to the other destination", n)
		}
		if n := w.destinations[chestAI].proxy.Passed()[returned.sop]; n != 0 {
			t.Errorf("sent back %d times to where it came from", n)
		}
	})
}
