package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

func contains(text, part string) bool { return strings.Contains(text, part) }

// sweeping is a router that compares its work with Orthanc every second or so.
var sweeping = routertest.Settings{"publish": routertest.Settings{"sweep_interval": "1s"}}

// swept waits until n whole sweeps have begun and ended from now on.
func (w *world) swept(n int) {
	w.Helper()
	sweeps := func() int { return strings.Count(w.router.Log(), `"message":"sweep ended"`) }
	target := sweeps() + n + 1 // one may be running
	w.eventually(fmt.Sprintf("%d sweeps", n), func() error {
		if got := sweeps(); got < target {
			return fmt.Errorf("%d of %d", got, target)
		}
		return nil
	})
}

// Two body parts of one study arrive at the same moment: the study shows both, each series its own. When one is deleted, the sweep
// takes its label away.
func TestTwoBodyPartsInOneStudy(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, alone: true, settings: sweeping})
		w.begun()
		var kept, deleted []*xray
		for round := range 4 {
			study := func(o *phantom.Options) { o.StudyUID = fmt.Sprintf("2.25.4711%d", round) }
			a, b := of(t, "abdominal", study), of(t, "spine", study)
			stored := make(chan error)
			for _, x := range []*xray{a, b} {
				go func() {
					id, err := w.archive.Upload(t.Context(), x.file)
					x.id = id
					stored <- err
				}()
			}
			w.must(<-stored)
			w.must(<-stored)
			kept, deleted = append(kept, a), append(deleted, b)
		}
		for i := range kept {
			w.labelled(kept[i], label("abdominal"), label("spine"))
		}
		w.idle()
		for _, x := range slices.Concat(kept, deleted) {
			if got := w.see(x).SeriesLabels; !slices.Equal(got, []string{label(x.class)}) {
				t.Errorf("series of %s has %v", x.name, got)
			}
		}
		for _, x := range deleted {
			w.do(http.MethodDelete, "/instances/"+x.id, nil)
		}
		for _, x := range kept {
			w.labelled(x, label("abdominal"))
		}
	})
}

// What a person did to labels stays, whatever the router is told again.
func TestHumanLabels(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{alone: true, settings: sweeping})
		w.begun()
		w.must(w.router.Stop())
		x := of(t, "others")
		w.upload(x)
		study := "/studies/" + w.see(x).Study + "/labels/"
		w.do(http.MethodPut, study+"urgent", nil)
		w.do(http.MethodPut, study+label("spine"), nil) // a person may use our words
		w.start()
		w.labelled(x, label("others"), label("spine"), "urgent")
		w.swept(2)
		w.labelled(x, label("others"), label("spine"), "urgent")

		w.do(http.MethodDelete, study+label("others"), nil)
		w.must(w.router.Hook(t.Context(), x.id))
		w.idle()
		w.swept(2)
		w.labelled(x, label("spine"), "urgent")
		if got := w.see(x).SeriesLabels; !slices.Equal(got, []string{label("others")}) {
			t.Errorf("the series, which nobody touched, has %v", got)
		}

		w.do(http.MethodPut, study+label("others"), nil) // the person changes their mind: now it is theirs
		w.swept(2)
		w.labelled(x, label("others"), label("spine"), "urgent")
		w.must(w.router.Kill())
		w.start()
		w.must(w.router.Hook(t.Context(), x.id))
		w.idle()
		w.labelled(x, label("others"), label("spine"), "urgent")
	})
}

// An overwrite of a study's only image makes Orthanc forget the study's labels: they come again. The same content is sent nowhere again;
// another content gets its own class and is delivered anew.
func TestOverwrittenStudy(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: map[string]any{"OverwriteInstances": true, "CheckRevisions": true}})
		w.begun()
		x := of(t, "spine")
		w.upload(x)
		w.allRight([]*xray{x}, 1)
		uuid := w.attachment(x)

		w.upload(x)
		if w.attachment(x) == uuid {
			t.Fatal("Orthanc did not overwrite")
		}
		w.labelled(x, label("spine"))
		w.allRight([]*xray{x}, 1)

		other := of(t, "abdominal", func(o *phantom.Options) {
			o.StudyUID, o.SeriesUID, o.SOPInstanceUID = x.study, x.series, x.sop
		})
		w.upload(other)
		if other.id != x.id {
			t.Fatal("not the same instance")
		}
		w.labelled(other, label("abdominal"))
		w.eventually("the new content is delivered", func() error {
			if n := w.destinations[chestAI].proxy.Passed()[x.sop]; n != 1 {
				return fmt.Errorf("%d times to %s", n, chestAI)
			}
			return nil
		})
		w.idle()
		spine := w.destinations[spineAI].proxy.Posts()
		if len(spine) != 2 || spine[0].SHA256 == spine[1].SHA256 {
			t.Errorf("%s got %d POSTs, want one of each content", spineAI, len(spine))
		}
		if got := w.see(x).BodyPart; got != "abdominal" {
			t.Errorf("BodyPart is %q", got)
		}
	})
}

func (w *world) attachment(x *xray) string {
	w.Helper()
	var info struct {
		UUID string `json:"Uuid"`
	}
	w.must(w.archive.GetJSON(w.Context(), "/instances/"+x.id+"/attachments/dicom/info", &info))
	return info.UUID
}

// A hook that fires again, a study that is sent again, a restart, a sweep: nothing is classified, written or sent twice.
func TestNothingTwice(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: map[string]any{"StableAge": 3600}, settings: sweeping})
		w.begun()
		files := []*xray{of(t, "abdominal"), of(t, "spine"), of(t, "others")}
		w.upload(files...)
		w.allRight(files, 1)
		changes, looked := w.changes(), w.looks()
		if looked != int64(len(files)) {
			t.Errorf("%d pictures were looked at for %d instances", looked, len(files))
		}
		for range 2 {
			for _, x := range files {
				w.must(w.router.Hook(t.Context(), x.id))
			}
			w.idle()
			w.cstore(files...)
			w.idle()
			w.swept(1)
			w.must(w.router.Stop())
			w.start()
			w.idle()
		}
		w.allRight(files, 1)
		if got := w.looks(); got != looked {
			t.Errorf("%d pictures were looked at, then %d", looked, got)
		}
		if got := w.changes(); got != changes {
			t.Errorf("Orthanc's log of changes grew from %d rows to %d", changes, got)
		}
	})
}

// looks counts the classifications that went to the network, over all starts of the router.
func (w *world) looks() int64 {
	w.Helper()
	n, err := w.router.Query(w.Context(), "SELECT count(*) FROM event WHERE stage = 'classify' AND detail LIKE '%network %'")
	w.must(err)
	return n
}
