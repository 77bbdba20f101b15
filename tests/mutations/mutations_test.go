package mutations

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// seed is that of all mutants. MUTATIONS_SEED names another.
const seed = 20261126

// TestMutations: whatever Orthanc takes of two hundred damaged files (MUTATIONS=10000 for as many, and for every real file as it is), the router
// brings each to an end with a reason, stays alive, tells nobody's name, and holds in the end what it held after the first tenth.
func TestMutations(t *testing.T) {
	n := number(t, "MUTATIONS", 200)
	files := drawn(t)
	corpus, whole := corpora(t)
	files = append(files, corpus...)
	routertest.Model(t) // is made before TMPDIR changes
	orthanctest.Each(t, func(t *testing.T, version string) {
		temporary := t.TempDir()
		t.Setenv("TMPDIR", temporary)
		w := newWorld(t, version, routertest.Settings{
			"intake": routertest.Settings{"sop_classes": classesOf(files), "secondary_capture": true, "poll_interval": "200ms"},
			"jobs":   routertest.Settings{"max_attempts": 4, "backoff_max": "2s"}, "publish": routertest.Settings{"sweep_interval": "1000h"},
			"log": routertest.Settings{"level": "info"},
		})
		random := uint64(number(t, "MUTATIONS_SEED", seed))
		within := time.Minute + time.Duration(n)*time.Second
		if n >= 1000 { // TestZoo of the end-to-end tests sends them whatever is asked for here
			w.upload(func(yield func(mutant) bool) {
				for name, content := range whole {
					if !yield(mutant{-1, name, content}) {
						return
					}
				}
			})
		}
		part := func(from, to int) {
			w.upload(func(yield func(mutant) bool) {
				for i := from; i < to; i++ {
					if !yield(mutate(files, random, i)) {
						return
					}
				}
			})
			w.idle(within)
		}
		part(0, n/10)
		before := w.measure(temporary)
		part(n/10, n)
		after := w.measure(temporary)
		t.Logf("%d mutants: %d stored, %d refused by Orthanc, which died %d times", n, len(w.stored), w.refused.Load(), w.deaths.Load())
		t.Logf("after a tenth: %v", before)
		t.Logf("in the end:    %v", after)
		for _, grown := range after.grewSince(before) {
			t.Error("it grew: " + grown)
		}
		w.checkEnds()
		if started := strings.Count(w.router.Log(), `"message":"imaging-router started"`); started != 1 {
			t.Errorf("the router started %d times", started)
		}
		written, err := w.router.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(written, []byte(marked)); at >= 0 {
			t.Errorf("the router has written a patient's name: %q", written[max(0, at-300):min(len(written), at+100)])
		}
	})
}

// checkEnds wants each instance that Orthanc stored at an end, with a reason where it is not published.
func (w *world) checkEnds() {
	w.Helper()
	out, errs, status, err := w.router.Run(w.Context(), "jobs", "list", "--json", "--limit", "0", "--state", "due,classified,published,skipped,undecodable,unreadable,gone,failed")
	if err != nil || status != 0 {
		w.Fatalf("jobs list: %v, status %d: %s", err, status, errs)
	}
	states, ended := map[string]int{}, map[string]bool{}
	for line := range strings.Lines(out) {
		var j struct{ Kind, Instance, State, Reason string }
		if err := json.Unmarshal([]byte(line), &j); err != nil {
			w.Fatal(err)
		}
		if j.Kind != "instance" {
			continue
		}
		states[j.State]++
		ended[j.Instance] = true
		name := cmp.Or(w.stored[j.Instance], "unknown to the test")
		switch j.State {
		case "published":
		case "skipped", "undecodable", "unreadable":
			if j.Reason == "" {
				w.Errorf("%s (%s) is %s without a reason", name, j.Instance, j.State)
			}
		case "gone": // what Orthanc lost as it died
			if status, _, err := w.archive.Do(w.Context(), http.MethodGet, "/instances/"+j.Instance, nil); err != nil || status != http.StatusNotFound {
				w.Errorf("%s (%s) is gone, and Orthanc answers HTTP %d, %v", name, j.Instance, status, err)
			}
		default:
			w.Errorf("%s (%s) is %s: %s\n%s", name, j.Instance, j.State, j.Reason, w.router.Show(w.Context(), j.Instance))
		}
	}
	for id, name := range w.stored {
		if !ended[id] {
			w.Errorf("the router knows nothing of %s (%s)", name, id)
		}
	}
	w.Logf("instances by state: %v", states)
	if states["published"] == 0 || states["unreadable"] == 0 || states["undecodable"] == 0 || states["skipped"] == 0 {
		w.Errorf("not all kinds of end occurred: %v", states)
	}
}

// classesOf returns the SOP classes of the files: all of them are to be looked at.
func classesOf(files []file) []string {
	seen, classes := map[string]bool{}, []string{}
	for _, f := range files {
		if class := f.text(sopClass); class != "" && !seen[class] && strings.Trim(class, "0123456789.") == "" {
			seen[class] = true
			classes = append(classes, class)
		}
	}
	return classes
}

func number(t testing.TB, variable string, missing int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return missing
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 10 {
		t.Fatalf("%s is %q, not a number of 10 or more", variable, text)
	}
	return n
}
