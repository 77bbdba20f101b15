package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// copyStudy lets Orthanc modify and anonymise an X-ray's study, and returns the copies of that X-ray..
func (w *world) copyStudy(x *xray) []*xray {
	w.Helper()
	study := w.see(x).Study
	var copies []*xray
	for how, body := range map[string]map[string]any{
		"modify":    {"Replace": map[string]string{"InstitutionName": "elsewhere"}},
		"anonymize": {},
	} {
		var made struct{ ID string }
		w.must(json.Unmarshal(w.do(http.MethodPost, "/studies/"+study+"/"+how, body), &made))
		var instances []struct {
			ID            string
			MainDicomTags map[string]string
		}
		w.must(w.archive.GetJSON(w.Context(), "/studies/"+made.ID+"/instances", &instances))
		for _, i := range instances {
			copies = append(copies, &xray{name: how + " of " + x.name, class: x.class, sop: i.MainDicomTags["SOPInstanceUID"], id: i.ID})
		}
	}
	if len(copies) != 2 {
		w.Fatalf("%d copies, want 2", len(copies))
	}
	return copies
}

// intakeOfCopies are the settings of a router that treats copies so.
func intakeOfCopies(how string) routertest.Settings {
	return routertest.Settings{"intake": routertest.Settings{"copies": how}}
}

// With intake.copies: skip a copy is left alone: no result, no label, nothing sent.
func TestCopiesSkipped(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: join(intakeOfCopies("skip"), routertest.Settings{"rules": []any{
			with(rule("copies too", `class == "spine"`, spineAI), "copies", true),
		}})})
		w.begun()
		x := of(t, "spine")
		w.upload(x)
		w.once(spineAI, x)
		copies := w.copyStudy(x)
		w.eventually("the copies are skipped", func() error {
			m, err := w.router.Metrics(t.Context())
			if n := m.Sum("instances", `state="skipped"`); err == nil && n != 2 {
				err = fmt.Errorf("%v are", n)
			}
			return err
		})
		w.idle()
		for _, c := range copies {
			if s := w.see(c); s.BodyPart != "" || s.Result != "" || len(s.StudyLabels)+len(s.SeriesLabels) > 0 {
				t.Errorf("%s has %q, %s, labels %v and %v", c.name, s.BodyPart, s.Result, s.StudyLabels, s.SeriesLabels)
			}
			if story := w.router.Show(t.Context(), c.id); !contains(story, "intake.copies: skip") {
				t.Errorf("the story does not say why it was skipped:\n%s", story)
			}
		}
		w.nothingSent(copies...)
		w.labelled(x, label("spine"))
	})
}

// With intake.copies: inherit a copy has its source's result, without a look at it. Where the source has none, it is looked at.
func TestCopiesInherit(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: intakeOfCopies("inherit")})
		unknown := of(t, "abdominal") // from before the router's time
		w.upload(unknown)
		w.begun()
		x := of(t, "spine")
		w.upload(x)
		w.once(spineAI, x)
		if n := w.looks(); n != 1 {
			t.Fatalf("%d pictures were looked at, want 1", n)
		}
		copies := w.copyStudy(x)
		for _, c := range copies {
			w.labelled(c, label("spine"))
		}
		w.idle()
		for _, c := range copies {
			s := w.see(c)
			if err := s.Valid(); err != nil || s.BodyPart != "spine" {
				t.Errorf("%s: %s, %v", c.name, s.BodyPart, err)
			}
			e, text := w.explain(c.id)
			if story := w.router.Show(t.Context(), c.id); !contains(story, "the result of instance "+x.id) || !contains(text, "the result of instance "+x.id) {
				t.Errorf("the story does not say where its result is from:\n%s", story)
			}
			if e.Result == nil || e.Result.Class != "spine" {
				t.Errorf("explain: %+v", e.Result)
			}
		}
		if n := w.looks(); n != 1 {
			t.Errorf("%d pictures were looked at for one picture and its copies", n)
		}
		w.nothingSent(copies...)

		for _, c := range w.copyStudy(unknown) {
			w.labelled(c, label("abdominal"))
		}
		w.idle()
		if n := w.looks(); n != 3 {
			t.Errorf("%d pictures were looked at, want the two copies of what the router never saw as well", n)
		}
	})
}

// A rule that says copies: true sends copies, alone and with their study; one that does not sends none.
func TestCopiesByRule(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: wholes(
			with(rule("copies too", `class == "spine"`, spineAI), "copies", true),
			rule("originals", `class == "spine"`, chestAI),
			with(wholeRule("abdomens with copies", "study", `class == "abdominal"`, spineAI), "copies", true),
			wholeRule("abdomens", "study", `class == "abdominal"`, chestAI),
		)})
		w.begun()
		for _, class := range []string{"spine", "abdominal"} {
			x := of(t, class)
			w.upload(x)
			w.once(spineAI, x)
			w.once(chestAI, x)
			copies := w.copyStudy(x)
			w.once(spineAI, copies...)
			for _, c := range copies {
				w.labelled(c, label(class))
				w.sentTo(chestAI, c, 0)
			}
			w.sentTo(spineAI, x, 1)
			w.sentTo(chestAI, x, 1)
		}
	})
}
