package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

func rule(name, when string, to ...string) map[string]any {
	return map[string]any{"name": name, "when": when, "to": to}
}

// with lays further keys over a rule.
func with(r map[string]any, keys ...any) map[string]any {
	for i := 0; i < len(keys); i += 2 {
		r[keys[i].(string)] = keys[i+1]
	}
	return r
}

// sentTo checks how often a destination got an X-ray.
func (w *world) sentTo(destination string, x *xray, want int) {
	w.Helper()
	if n := w.destinations[destination].proxy.Passed()[x.sop]; n != want {
		w.Errorf("%s went to %s %d times, want %d", x.name, destination, n, want)
	}
}

// Rules ask Orthanc for tags, the way of arrival and the study. An Orthanc that cannot answer delays the decision and does not change it.
func TestRulesAskOrthanc(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: routertest.Settings{"rules": []any{
			with(rule("by C-STORE", `remote_aet != "" && called_aet != "" && origin == "DicomProtocol"`, chestAI), "stop", true),
			rule("tags", `tags["PatientID"].startsWith("PHANTOM") && tag_body_part == "LSPINE" && agrees && modality == "DX" && age_known && age_years > 40.5 && age_years < 41.5`, spineAI),
			rule("the study", `"abdominal" in study.classes && study.instances == 1 && origin == "RestApi"`, chestAI),
			with(rule("nothing else", "true", spineAI), "fallback", true, "priority", "low"),
		}}})
		target, err := url.Parse(w.archive.URL)
		w.must(err)
		var refused atomic.Int64
		behind := httputil.NewSingleHostReverseProxy(target)
		front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/tags") && refused.Add(1) <= 2 {
				http.Error(rw, "not now", http.StatusInternalServerError)
				return
			}
			behind.ServeHTTP(rw, r)
		}))
		t.Cleanup(front.Close)
		w.router.Beside(t, w.archive, front.URL)
		w.begun()

		tagged := of(t, "spine", func(o *phantom.Options) { o.BodyPartExamined, o.PatientAge = "LSPINE", "041Y" })
		w.upload(tagged) // its tags are asked for, and refused twice
		w.idle()
		w.sentTo(spineAI, tagged, 1)
		w.sentTo(chestAI, tagged, 0)
		if refused.Load() < 3 {
			t.Errorf("tags were asked for %d times: nothing was refused, and this test proves nothing", refused.Load())
		}
		if story := w.router.Show(t.Context(), tagged.id); !contains(story, "HTTP 500") || !contains(story, `to spine-ai by rule "tags"`) {
			t.Errorf("the story does not tell of the refusals:\n%s", story)
		}

		abdomen, sent, other := of(t, "abdominal"), of(t, "spine"), of(t, "others")
		w.upload(abdomen, other)
		w.cstore(sent)
		w.idle()
		w.sentTo(chestAI, abdomen, 1) // by the study
		w.sentTo(spineAI, abdomen, 0)
		w.sentTo(chestAI, sent, 1) // by C-STORE, and no further
		w.sentTo(spineAI, sent, 0)
		w.sentTo(spineAI, other, 1) // by the fallback
		w.sentTo(chestAI, other, 0)
		written, err := w.router.Bytes()
		w.must(err)
		if contains(string(written), "LSPINE") {
			t.Error("a tag's value is in the router's database or log")
		}
	})
}

// Outside its schedule a delivery waits; the other rules' deliveries do not.
func TestScheduleHolds(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		later := time.Now().UTC().Add(2 * time.Hour)
		w := newWorld(t, version, plan{hook: true, settings: routertest.Settings{"rules": []any{
			with(rule("later", `class == "spine"`, spineAI), "schedule", map[string]any{
				"from": later.Format("15:04"), "to": later.Add(time.Hour).Format("15:04"), "zone": "UTC",
			}),
			rule("now", `class == "spine"`, chestAI),
		}}})
		w.begun()
		x := of(t, "spine")
		w.upload(x)
		w.eventually("one is delivered and one waits", func() error {
			m, err := w.router.Metrics(t.Context())
			if err == nil && (m.Sum("deliveries", `state="delivered"`) != 1 || m.Sum("deliveries", `state="pending"`) != 1) {
				err = fmt.Errorf("%v delivered, %v pending", m.Sum("deliveries", `state="delivered"`), m.Sum("deliveries", `state="pending"`))
			}
			return err
		})
		w.sentTo(chestAI, x, 1)
		w.sentTo(spineAI, x, 0)
		want := later.Truncate(time.Minute)
		if story := w.router.Show(t.Context(), x.id); !contains(story, "not before "+want.Format(time.RFC3339)) {
			t.Errorf("the story does not say until when it waits (%s):\n%s", want, story)
		}
		n, err := w.router.Query(t.Context(), "SELECT count(*) FROM river_job WHERE kind = 'deliver' AND state = 'scheduled' AND unixepoch(scheduled_at) = ?", want.Unix())
		w.must(err)
		if n != 1 {
			t.Error("the queue does not hold it until then")
		}
	})
}

// Orthanc's own routing by lua/route-by-bodypart.lua, from what the router writes: the router itself is in pilot mode and sends nothing.
func TestOrthancRoutesByTheRoutersMetadata(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		repository, err := orthanctest.Repository()
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("IMAGING_ROUTER_ROUTES", "spine=peer:spine-ai;abdominal=peer:chest-ai,peer:spine-ai")
		w := newWorld(t, version, plan{
			settings: routertest.Settings{"forwarding": routertest.Settings{"enabled": false}, "model": routertest.Settings{"thresholds": map[string]float64{"others": 1}}},
			archive:  map[string]any{"StableAge": 1, "LuaScripts": []string{filepath.Join(repository, "lua", "route-by-bodypart.lua")}},
		})
		w.begun()
		spine, abdomen, unsure := of(t, "spine"), of(t, "abdominal"), of(t, "others")
		w.upload(spine, abdomen, unsure)
		w.eventually("Orthanc sends them", func() error {
			if a, b := len(w.destinations[chestAI].proxy.Passed()), len(w.destinations[spineAI].proxy.Passed()); a != 1 || b != 2 {
				return fmt.Errorf("%d and %d have arrived", a, b)
			}
			return nil
		})
		w.idle()
		w.sentTo(spineAI, spine, 1)
		w.sentTo(spineAI, abdomen, 1)
		w.sentTo(chestAI, abdomen, 1)
		w.sentTo(chestAI, spine, 0)
		w.nothingSent(unsure)
		if n, err := w.router.Query(t.Context(), "SELECT count(*) FROM delivery"); err != nil || n != 0 {
			t.Errorf("the router has %d deliveries of its own, %v", n, err)
		}
	})
}
