package e2e

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// Files of every encoding, many of them broken on purpose, from the public corpora of a dozen DICOM libraries: whatever Orthanc takes, the
// router brings to an end, and stays alive.
func TestZoo(t *testing.T) {
	folder := shared(t)
	if folder == "" {
		t.Skip("no DICOM corpora: ../shared is absent (IMAGINGROUTER_SHARED names another place)")
	}
	orthanctest.Each(t, func(t *testing.T, version string) {
		classes := []string{orthanctest.ComputedRadiography, orthanctest.DigitalXRay, "1.2.840.10008.5.1.4.1.1.1.1.1", orthanctest.CT,
			"1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.77.1.4"}
		w := newWorld(t, version, plan{alone: true, settings: routertest.Settings{
			"intake": routertest.Settings{"sop_classes": classes, "secondary_capture": true},
			"jobs":   routertest.Settings{"max_attempts": 4},
		}})
		w.begun()
		stored := map[string]string{}
		w.must(filepath.WalkDir(filepath.Join(folder, "dicom"), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) == ".csv" || filepath.Ext(path) == ".md" {
				return err
			}
			file, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			status, answer, err := w.archive.Do(t.Context(), http.MethodPost, "/instances", file)
			if err != nil {
				select {
				case <-w.archive.Ended(): // a file that ends Orthanc itself; the router must outlive that too
					t.Logf("Orthanc %s dies from %s", w.archive.Version, filepath.Base(path))
					return w.archive.Restart(t.Context())
				case <-time.After(5 * time.Second):
					return err
				}
			}
			var one struct{ ID string }
			if status == http.StatusOK && json.Unmarshal(answer, &one) == nil && one.ID != "" {
				stored[one.ID] = filepath.ToSlash(strings.TrimPrefix(path, folder))
			}
			return nil
		}))
		w.idle()
		states := map[string]int{}
		for line := range strings.Lines(w.run("jobs", "list", "--json", "--limit", "0", "--state", "due,classified,published,skipped,undecodable,unreadable,gone,failed")) {
			var j struct{ Kind, Instance, State, Reason string }
			w.must(json.Unmarshal([]byte(line), &j))
			if j.Kind != "instance" {
				continue
			}
			states[j.State]++
			switch {
			case stored[j.Instance] == "":
				t.Errorf("instance %s was not sent", j.Instance)
			case j.State == "failed" || j.State == "gone" || j.State == "due" || j.State == "classified":
				t.Errorf("%s is %s: %s\n%s", stored[j.Instance], j.State, j.Reason, w.router.Show(t.Context(), j.Instance))
			case j.State != "published" && j.Reason == "":
				t.Errorf("%s is %s without a reason", stored[j.Instance], j.State)
			}
		}
		t.Logf("%d files were stored; instances by state: %v", len(stored), states)
		if states["published"] == 0 || states["unreadable"] == 0 || states["undecodable"] == 0 {
			t.Errorf("not all kinds of end occurred: %v", states)
		}
		if n := strings.Count(w.router.Log(), `"message":"imaging-router started"`); n != 1 {
			t.Errorf("the router started %d times", n)
		}
	})
}
