package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// simulated is one line of simulate's JSON.
type simulated struct {
	File, Instance, Study, Class, Error string
	Rules                               []struct {
		Rule, Why string
		Matched   bool
	}
	SendTo  []string `json:"send_to"`
	NotBack []string `json:"not_sent_back_to"`
	Against *struct {
		SendTo []string `json:"send_to"`
	}
	Differs bool
}

// simulate runs the command and returns its lines, by file or instance, and its exit status.
func (w *world) simulate(arguments ...string) (map[string]simulated, string, int) {
	w.Helper()
	out, errs, status, err := w.router.Run(w.Context(), append([]string{"simulate", "--format", "json"}, arguments...)...)
	w.must(err)
	lines := map[string]simulated{}
	for line := range strings.Lines(out) {
		var s simulated
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			w.Fatalf("%s: %v\n%s%s", line, err, out, errs)
		}
		lines[s.File+s.Instance] = s
	}
	return lines, errs, status
}

// Simulate says what happened before it happens: over past traffic, a study and files, it names the destinations that the router has
// sent to; over other rules it names the studies that would have gone elsewhere. It sends and writes nothing.
func TestSimulate(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, settings: routertest.Settings{"rules": []any{
			rule("lumbar", `class == "spine" && tag_body_part == "LSPINE" && remote_aet == ""`, spineAI),
			rule("abdomens", `class == "abdominal"`, chestAI, spineAI),
		}}})
		w.begun()
		lumbar := of(t, "spine", func(o *phantom.Options) { o.BodyPartExamined = "LSPINE" })
		cervical := of(t, "spine", func(o *phantom.Options) { o.BodyPartExamined = "CSPINE" })
		abdomen := of(t, "abdominal")
		w.upload(lumbar, cervical)
		w.archive.Username, w.archive.Password = "chest-ai", "chest" // from one of its destinations
		w.upload(abdomen)
		w.archive.Username, w.archive.Password = "router", "secret"
		w.idle()
		before, err := w.router.Query(t.Context(), "SELECT (SELECT count(*) FROM delivery) + (SELECT count(*) FROM event) + (SELECT count(*) FROM river_job)")
		w.must(err)
		posts := len(w.destinations[chestAI].proxy.Posts()) + len(w.destinations[spineAI].proxy.Posts())

		lines, errs, status := w.simulate("--last", "10")
		if status != 0 || len(lines) != 3 || !contains(errs, "3 instances of 3 studies: 2 to spine-ai; nothing was sent") {
			t.Errorf("status %d, %d lines: %s", status, len(lines), errs)
		}
		for x, want := range map[*xray][]string{lumbar: {spineAI}, cervical: {}, abdomen: {spineAI}} {
			if got := lines[x.id]; !slices.Equal(got.SendTo, want) || got.Class != x.class || len(got.Rules) != 2 {
				t.Errorf("%s: %+v", x.class, got)
			}
			for _, name := range w.names() { // what it says is what was done
				w.sentTo(name, x, map[bool]int{true: 1}[slices.Contains(lines[x.id].SendTo, name)])
			}
		}
		if got := lines[abdomen.id].NotBack; !slices.Equal(got, []string{chestAI}) {
			t.Errorf("not sent back to %v", got)
		}
		if got := lines[cervical.id].Rules[0]; got.Matched || !contains(got.Why, `tag_body_part = "CSPINE"`) || contains(got.Why, `remote_aet = "`) {
			t.Errorf("the values that it saw: %+v", got)
		}

		// Other rules over the same traffic.
		other := filepath.Join(t.TempDir(), "other.json")
		text, err := os.ReadFile(filepath.Join(w.router.Dir, "config.yaml"))
		w.must(err)
		changed := strings.Replace(string(text), `tag_body_part == \"LSPINE\"`, `agrees`, 1)
		if changed == string(text) {
			t.Fatal("the other rules are the same")
		}
		w.must(os.WriteFile(other, []byte(changed), 0o600))
		lines, errs, status = w.simulate("--last", "10", "--against", other)
		if got := lines[cervical.id]; status != 0 || len(lines) != 1 || !got.Differs || len(got.SendTo) != 0 || !slices.Equal(got.Against.SendTo, []string{spineAI}) {
			t.Errorf("status %d: %+v", status, lines)
		}
		if !contains(errs, "1 of 3 studies (1 of 3 instances) would have gone elsewhere") {
			t.Error(errs)
		}
		if out := w.run("simulate", "--last", "10", "--against", other); !contains(out, "now: → nowhere") || !contains(out, "then: → spine-ai") || !contains(out, "1 of 3 studies") {
			t.Errorf("as a table:\n%s", out)
		}

		// One study; and one whose file the router has never seen.
		study := w.see(lumbar).Study
		if lines, _, status = w.simulate("--study", study); status != 0 || len(lines) != 1 || !slices.Equal(lines[lumbar.id].SendTo, []string{spineAI}) {
			t.Errorf("a study: status %d, %+v", status, lines)
		}
		w.must(w.router.Stop())
		unseen := of(t, "abdominal")
		w.upload(unseen)
		if lines, errs, status = w.simulate("--study", w.see(unseen).Study); status != 0 || !slices.Equal(lines[unseen.id].SendTo, []string{chestAI, spineAI}) {
			t.Errorf("an unseen study: status %d, %+v %s", status, lines, errs)
		}

		// Files; and what is gone from the archive and cannot be asked.
		folder := t.TempDir()
		w.must(os.WriteFile(filepath.Join(folder, "lumbar.dcm"), lumbar.file, 0o600))
		w.must(os.WriteFile(filepath.Join(folder, "text.txt"), []byte("no picture"), 0o600))
		lines, _, status = w.simulate(folder)
		if got := lines[filepath.Join(folder, "lumbar.dcm")]; status != 1 || !slices.Equal(got.SendTo, []string{spineAI}) {
			t.Errorf("files: status %d, %+v", status, lines)
		}
		if got := lines[filepath.Join(folder, "text.txt")]; got.Error == "" {
			t.Errorf("a text: %+v", got)
		}
		w.do(http.MethodDelete, "/studies/"+study, nil)
		lines, _, status = w.simulate("--last", "10")
		if status != 1 || !contains(lines[lumbar.id].Error, "deleted in Orthanc") || lines[cervical.id].Error != "" {
			t.Errorf("a deleted study: status %d, %+v", status, slices.Collect(maps.Values(lines)))
		}

		after, err := w.router.Query(t.Context(), "SELECT (SELECT count(*) FROM delivery) + (SELECT count(*) FROM event) + (SELECT count(*) FROM river_job)")
		w.must(err)
		if now := len(w.destinations[chestAI].proxy.Posts()) + len(w.destinations[spineAI].proxy.Posts()); before != after || now != posts {
			t.Errorf("it has written or sent something: %d rows, before %d; %d POSTs, before %d", after, before, now, posts)
		}
		for _, wrong := range [][]string{{}, {"--last", "-1"}, {"--study", "x"}, {"--study", study, "--last", "3"}, {"--last", "1", "--format", "xml"}} {
			if _, _, status, err := w.router.Run(t.Context(), append([]string{"simulate"}, wrong...)...); err != nil || status != 2 {
				t.Errorf("%v: exit status %d, %v", wrong, status, err)
			}
		}
	})
}
