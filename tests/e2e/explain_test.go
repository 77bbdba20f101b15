package e2e

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// explained is what of the story the tests look at.
type explained struct {
	Instance, Study, State, Decision string
	Arrival                          struct {
		Origin      string
		RemoteAET   string `json:"remote_aet"`
		AnnouncedBy string `json:"announced_by"`
		Error       string
	}
	Result *struct {
		Class         string
		Probabilities map[string]float64
		Thresholds    map[string]float64
		Picture       string
	}
	Labels   []struct{ Level, ID, Label, State string }
	RulesNow struct {
		Error    string
		Verdicts []struct {
			Rule, Why string
			Matched   bool
		}
	} `json:"rules_now"`
	Deliveries []struct {
		Destination, Rule, State string
		Attempts                 int
		OrthancJob               string `json:"orthanc_job"`
	}
	Events []struct{ Stage, Outcome string }
}

func (w *world) explain(id string) (e explained, text string) {
	w.Helper()
	path := "/v1/instances/" + id + "/explain"
	status, answer, err := w.router.Do(w.Context(), http.MethodGet, path, nil)
	w.must(err)
	if status != http.StatusOK {
		w.Fatalf("explain: HTTP %d: %s", status, answer)
	}
	w.must(json.Unmarshal(answer, &e))
	status, plain, err := w.router.Do(w.Context(), http.MethodGet, path+"?format=text", nil)
	w.must(err)
	if status != http.StatusOK {
		w.Fatalf("explain as text: HTTP %d: %s", status, plain)
	}
	return e, string(answer) + string(plain)
}

// One request tells why an instance was labelled and routed as it was, without a single value of its tags.
func TestExplain(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: routertest.Settings{"rules": []any{
			rule("described", `class == "spine" && tags["StudyDescription"] != "" && tags.AccessionNumber == "" && tag_body_part != "" && age_years > 1.0`, spineAI),
			rule("chests", `class == "adult_chest" && station != ""`, chestAI),
		}}})
		w.begun()
		x := of(t, "spine", func(o *phantom.Options) { o.BodyPartExamined = "QZJXKVWPART" })
		w.destinations[spineAI].proxy.Set(routertest.Fail)
		w.cstore(x)
		w.failing(spineAI)
		w.destinations[spineAI].proxy.Set(routertest.Pass)
		w.idle()
		x.id = w.see(x).ID
		e, text := w.explain(x.id)
		if e.Instance != x.id || e.Study != w.see(x).Study || e.State != "published" || e.Arrival.Origin != "DicomProtocol" || e.Arrival.RemoteAET == "" || e.Arrival.AnnouncedBy == "" {
			t.Errorf("%+v", e)
		}
		if e.Result == nil || e.Result.Class != "spine" || len(e.Result.Probabilities) != 5 || len(e.Result.Thresholds) != 5 || !contains(e.Result.Picture, "fetch") || !contains(e.Result.Picture, "parse") {
			t.Errorf("the result: %+v", e.Result)
		}
		if len(e.Labels) != 2 || e.Labels[0].Label != label("spine") || e.Labels[0].State != "written" {
			t.Errorf("the labels: %+v", e.Labels)
		}
		if len(e.Deliveries) != 1 || e.Deliveries[0].State != "delivered" || e.Deliveries[0].Rule != "described" || e.Deliveries[0].Attempts < 2 || e.Deliveries[0].OrthancJob == "" {
			t.Errorf("the deliveries: %+v", e.Deliveries)
		}
		stages := map[string]int{}
		for _, event := range e.Events {
			stages[event.Stage+" "+event.Outcome]++
		}
		if stages["deliver error"] == 0 || stages["deliver delivered"] != 1 || stages["publish published"] == 0 {
			t.Errorf("the attempts: %v", stages)
		}
		if e.Decision != `to spine-ai by rule "described"` {
			t.Errorf("the decision: %s", e.Decision)
		}
		verdicts := e.RulesNow.Verdicts
		if len(verdicts) != 2 || !verdicts[0].Matched || verdicts[1].Matched {
			t.Fatalf("the verdicts: %+v", e.RulesNow)
		}
		for _, want := range []string{`tags["StudyDescription"] present`, `tags["AccessionNumber"] absent`, "tag_body_part present", "age_years present"} {
			if !contains(verdicts[0].Why, want) {
				t.Errorf("%q is missing: %s", want, verdicts[0].Why)
			}
		}
		for _, secret := range []string{"QZJXKVW", "PHANTOM", x.study, x.sop} {
			if contains(text, secret) {
				t.Errorf("%q is told", secret)
			}
		}
		for _, part := range []string{"RESULT", "LABELS", "DELIVERIES", "by DicomProtocol", "✓ \"described\"", "– \"chests\""} {
			if !contains(text, part) {
				t.Errorf("the text lacks %q:\n%s", part, text)
			}
		}

		for path, want := range map[string]int{
			"/v1/instances/01234567-89abcdef-01234567-89abcdef-01234567/explain": 404,
			"/v1/instances/x/explain": 400, "/v1/instances/" + x.id + "/explain?format=xml": 400, "/v1/instances/" + x.id: 404,
		} {
			if status, answer, err := w.router.Do(t.Context(), http.MethodGet, path, nil); err != nil || status != want {
				t.Errorf("%s: HTTP %d, %v: %s", path, status, err, answer)
			}
		}
		if status, _, err := w.router.As(t.Context(), "", http.MethodGet, "/v1/instances/"+x.id+"/explain", nil); err != nil || status != 401 {
			t.Errorf("without a token: HTTP %d, %v", status, err)
		}

		// Without the archive the story is still told, and says what is missing.
		w.must(w.archive.Stop())
		began := time.Now()
		e, _ = w.explain(x.id)
		if e.Result == nil || len(e.Deliveries) != 1 || e.Arrival.Error == "" || e.RulesNow.Error == "" || time.Since(began) > 30*time.Second {
			t.Errorf("without an archive, after %s: %+v", time.Since(began), e)
		}
	})
}
