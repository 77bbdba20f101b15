package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// The router's own endpoints: who may ask, what is refused with which reason, and that nothing of a refused request comes back.
func TestEndpoints(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{alone: true})
		w.begun()
		const path, echo = "/hooks/stored-instance", "ECHO-OF-A-STRANGER"
		id := "01234567-89abcdef-01234567-89abcdef-01234567"
		ask := func(token, method, path string, body []byte) (int, string) {
			status, answer, err := w.router.As(t.Context(), token, method, path, body)
			w.must(err)
			return status, string(answer)
		}
		token := w.router.Token
		for name, c := range map[string]struct {
			token, method, path, body string
			status                    int
		}{
			"no token":             {"", "POST", path, `{"instance":"` + id + `"}`, 401},
			"wrong token":          {echo, "POST", path, `{"instance":"` + id + `"}`, 401},
			"empty":                {token, "POST", path, "", 400},
			"no JSON":              {token, "POST", path, echo, 400},
			"broken JSON":          {token, "POST", path, `{"instance": "` + echo, 400},
			"no instance":          {token, "POST", path, `{"` + echo + `": 1}`, 400},
			"no identifier":        {token, "POST", path, `{"instance": "` + echo + `"}`, 400},
			"a path":               {token, "POST", path, `{"instance": "../../` + echo + `"}`, 400},
			"wrong type":           {token, "POST", path, `{"instance": 17}`, 400},
			"empty list":           {token, "POST", path, `[]`, 400},
			"list with a bad one":  {token, "POST", path, `[{"instance":"` + id + `"},{"instance":"` + echo + `"}]`, 400},
			"too long":             {token, "POST", path, `{"instance":"` + id + `","x":"` + strings.Repeat("x", 1<<20) + `"}`, 413},
			"GET":                  {token, "GET", path, "", 405},
			"elsewhere":            {token, "POST", "/hooks/" + echo, "", 404},
			"metrics, no token":    {"", "GET", "/metrics", "", 401},
			"metrics, wrong token": {echo, "GET", "/metrics", "", 401},
			"metrics":              {token, "GET", "/metrics", "", 200},
			"healthy":              {"", "GET", "/-/healthy", "", 200},
			"ready":                {"", "GET", "/-/ready", "", 200},
		} {
			status, answer := ask(c.token, c.method, c.path, []byte(c.body))
			if status != c.status {
				t.Errorf("%s: HTTP %d: %s", name, status, answer)
			}
			if contains(answer, echo) {
				t.Errorf("%s: the answer repeats what a stranger said: %s", name, answer)
			}
			if c.status == 400 || c.status == 413 || c.status == 401 {
				var reason struct{ Error string }
				if err := json.Unmarshal([]byte(answer), &reason); err != nil || reason.Error == "" {
					t.Errorf("%s: refused without a reason: %s", name, answer)
				}
			}
		}
		if contains(w.router.Log(), echo) {
			t.Error("the log repeats what a stranger said")
		}
		m := w.metrics()
		if n := m.Sum("instances_marked_total", `source="hook"`); n != 0 {
			t.Errorf("%v refused instances were marked", n)
		}
		if m.Sum("hook_refused_total", `status="400"`) == 0 || m.Sum("hook_refused_total", `status="413"`) == 0 {
			t.Error("the refusals are not counted")
		}

		// An instance that Orthanc does not know is accepted, found to be gone by the job, and costs nothing more.
		if status, answer := ask(token, "POST", path, []byte(`{"instance":"`+id+`","origin":{"RequestOrigin":"Lua"}}`)); status != http.StatusAccepted {
			t.Errorf("HTTP %d: %s", status, answer)
		}
		x := of(t, "spine")
		w.upload(x)
		if status, answer := ask(token, "POST", path, []byte(`[{"instance":"`+x.id+`"},{"instance":"`+x.id+`"}]`)); status != http.StatusAccepted {
			t.Errorf("a list: HTTP %d: %s", status, answer)
		}
		w.labelled(x, label("spine"))
		w.idle()
		if story := w.router.Show(t.Context(), id); !contains(story, "gone") {
			t.Errorf("an unknown instance:\n%s", story)
		}

		w.must(w.router.Stop())
		w.router.Configure(routertest.Settings{"server": routertest.Settings{"metrics_open": true}})
		w.start()
		if status, _ := ask("", "GET", "/metrics", nil); status != 200 {
			t.Errorf("open metrics: HTTP %d", status)
		}
		if status, _ := ask("", "POST", path, []byte(`{}`)); status != 401 {
			t.Errorf("with open metrics the hook takes anybody: HTTP %d", status)
		}
	})
}

// The commands beside a running router: check, jobs list, show and retry.
func TestCommands(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true})
		w.begun()
		x := of(t, "spine")
		w.upload(x)
		w.allRight([]*xray{x}, 1)

		out := w.run("check")
		for _, line := range []string{"orthanc", "labels", "metadata", "changes", "peer chest-ai): answers", "peer spine-ai): answers", "takes this configuration's token", "last heard"} {
			if !contains(out, line) {
				t.Errorf("check does not say %q:\n%s", line, out)
			}
		}
		if contains(out, "WRONG") {
			t.Errorf("check:\n%s", out)
		}
		if out := w.run("jobs", "list", "--state", "published"); !contains(out, x.id) || !contains(out, "1 published") {
			t.Errorf("jobs list:\n%s", out)
		}
		story := w.run("jobs", "show", x.id)
		for _, part := range []string{x.id, "spine", "published", "delivered", `to spine-ai by rule "spines"`} {
			if !contains(story, part) {
				t.Errorf("jobs show does not say %q:\n%s", part, story)
			}
		}
		w.run("healthcheck")

		// A file that came broken and was mended in the archive: retry takes it up, labels and forwards it.
		spine := of(t, "spine")
		broken := compressed(bytes.Clone(spine.file), "1.2.840.10008.1.2.4.201")
		id, err := w.archive.Upload(t.Context(), broken)
		w.must(err)
		w.eventually("the broken file ends", func() error {
			if out := w.run("jobs", "list", "--json", "--state", "undecodable"); !contains(out, id) {
				return fmt.Errorf("undecodable: %s", out)
			}
			return nil
		})
		w.idle()
		looked := w.story(id, "undecodable")
		if out := w.run("jobs", "retry", "--reason", "undecodable", "--dry-run"); !contains(out, "1 instances, 0 deliveries") || !contains(out, "  1  undecodable: ") {
			t.Errorf("dry run: %s", out)
		}
		if out := w.run("jobs", "retry", id); !contains(out, "1 instances, 0 deliveries") {
			t.Errorf("retry: %s", out)
		}
		w.eventually("it is looked at again", func() error {
			if n := w.story(id, "undecodable"); n <= looked {
				return fmt.Errorf("%d times, as before", n)
			}
			return nil
		})
		if _, _, status, err := w.router.Run(t.Context(), "jobs", "retry"); err != nil || status == 0 {
			t.Errorf("retry of nothing in particular: exit status %d, %v", status, err)
		}
		if _, errs, status, err := w.router.Run(t.Context(), "jobs", "show", "no-such-thing"); err != nil || status != 1 || !contains(errs, "unknown to this router") {
			t.Errorf("show of nothing: exit status %d, %v: %s", status, err, errs)
		}

		w.must(w.archive.Stop())
		out, _, status, err := w.router.Run(t.Context(), "check")
		w.must(err)
		if status != 1 || !contains(out, "WRONG  orthanc") {
			t.Errorf("check without an archive: exit status %d\n%s", status, out)
		}
	})
}

// story counts the lines of an instance's story with an outcome.
func (w *world) story(id, outcome string) int64 {
	w.Helper()
	n, err := w.router.Query(w.Context(), "SELECT count(*) FROM event WHERE instance_id = ? AND outcome = ?", id, outcome)
	w.must(err)
	return n
}

// A delivery that was given up is taken up again by retry, and arrives.
func TestRetryDelivery(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: routertest.Settings{"forwarding": routertest.Settings{"give_up_after": "1s"}}})
		w.destinations[spineAI].proxy.Set(routertest.Fail)
		w.begun()
		x := of(t, "spine")
		w.upload(x)
		w.eventually("the delivery is given up", func() error {
			m, err := w.router.Metrics(t.Context())
			if err == nil && m.Sum("deliveries", `state="failed"`) != 1 {
				err = fmt.Errorf("%v failed", m.Sum("deliveries", `state="failed"`))
			}
			return err
		})
		if out := w.run("jobs", "list"); !contains(out, "not delivered within 1s") {
			t.Errorf("jobs list:\n%s", out)
		}
		w.destinations[spineAI].proxy.Set(routertest.Pass)
		if out := w.run("jobs", "retry", "--destination", spineAI, "--state", "failed"); !contains(out, "0 instances, 1 deliveries") {
			t.Errorf("retry: %s", out)
		}
		w.allRight([]*xray{x}, 1)
	})
}
