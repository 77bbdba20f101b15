package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"imagingrouter/tests/worldtest"
)

// upload stores files in the archive over REST.
func (w *world) upload(files ...*xray) {
	w.Helper()
	for _, x := range files {
		id, err := w.archive.Upload(w.Context(), x.file)
		w.must(err)
		x.id = id
	}
}

// folder writes files for dcmsend.
func (w *world) folder(files []*xray) string {
	w.Helper()
	folder := w.TempDir()
	for i, x := range files {
		w.must(os.WriteFile(filepath.Join(folder, fmt.Sprintf("%04d.dcm", i)), x.file, 0o600))
	}
	return folder
}

// cstore sends files to the archive over C-STORE.
func (w *world) cstore(files ...*xray) {
	w.Helper()
	w.must(w.archive.Store(w.Context(), w.folder(files)))
}

// shown is what Orthanc shows of one instance.
type shown = worldtest.Shown

// look returns all that the archive shows, by SOP Instance UID.
func (w *world) look() (map[string]shown, error) { return worldtest.Look(w.Context(), w.archive) }

// see returns what the archive shows of one X-ray.
func (w *world) see(x *xray) shown {
	w.Helper()
	all, err := w.look()
	w.must(err)
	return all[x.sop]
}

// labelled waits until an X-ray's study has exactly these labels.
func (w *world) labelled(x *xray, labels ...string) {
	w.Helper()
	w.eventually(fmt.Sprintf("the study of %s has the labels %v", x.name, labels), func() error {
		all, err := w.look()
		if err != nil {
			return err
		}
		got := slices.Clone(all[x.sop].StudyLabels)
		slices.Sort(got)
		if slices.Sort(labels); !slices.Equal(got, labels) {
			return fmt.Errorf("it has %v; %s", got, w.router.Show(w.Context(), all[x.sop].ID))
		}
		return nil
	})
}

// label is the label of a class, or of review.
func label(class string) string { return worldtest.Label(class) }

// arrived returns the SOP Instance UIDs at a destination.
func (d *destination) arrived(w *world) (map[string]bool, error) {
	instances, err := worldtest.Arrived(w.Context(), d.Server)
	out := make(map[string]bool, len(instances))
	for sop := range instances {
		out[sop] = true
	}
	return out, err
}

// wrong says everything that is not as it must be at the end for these files: a valid result, its label on series and study, and arrival
// exactly where the rules say. most is how often a file may have been sent to one destination.
func (w *world) wrong(files []*xray, most int) error {
	all, err := w.look()
	if err != nil {
		return err
	}
	var faults []error
	fault := func(x *xray, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s (%s): %s", x.name, all[x.sop].ID, fmt.Sprintf(format, args...)))
	}
	for _, x := range files {
		s, stored := all[x.sop]
		if !stored {
			fault(x, "not in the archive")
			continue
		}
		if err := s.Valid(); err != nil {
			fault(x, "%v", err)
			continue
		}
		for level, labels := range map[string][]string{"series": s.SeriesLabels, "study": s.StudyLabels} {
			if !slices.Contains(labels, label(s.Said)) {
				fault(x, "%s shows %v, not %s", level, labels, label(s.Said))
			}
		}
	}
	for _, name := range w.names() {
		d := w.destinations[name]
		there, err := d.arrived(w)
		if err != nil {
			return err
		}
		posts := d.proxy.Passed()
		for _, x := range files {
			wanted := slices.Contains(route[all[x.sop].Said], name)
			switch {
			case wanted && !there[x.sop]:
				fault(x, "%s, but not at %s", all[x.sop].Said, name)
			case !wanted && (there[x.sop] || posts[x.sop] > 0):
				fault(x, "%s, but sent to %s", all[x.sop].Said, name)
			case posts[x.sop] > most:
				fault(x, "sent %d times to %s, at most %d", posts[x.sop], name, most)
			}
		}
	}
	return errors.Join(faults...)
}

// allRight waits until nothing is wrong with the files and the router is at rest, and checks once more then. On failure it tells the story of
// the first instances concerned.
func (w *world) allRight(files []*xray, most int) {
	w.Helper()
	check := func() error { return errors.Join(w.wrong(files, most), w.atRest()) }
	deadline := time.Now().Add(within)
	err := check()
	for err != nil && time.Now().Before(deadline) && w.Context().Err() == nil {
		time.Sleep(100 * time.Millisecond)
		err = check()
	}
	if err == nil {
		err = w.wrong(files, most) // at rest, nothing more may have come
	}
	if err != nil {
		w.Fatalf("not everything is classified, labelled and delivered within %s: %v\n%s", within, err, w.stories(err.Error()))
	}
}

// stories tells the stories of the first three instances that a text names.
func (w *world) stories(text string) string {
	var out strings.Builder
	ids := instanceID.FindAllString(text, 3)
	for _, id := range ids {
		out.WriteString(w.router.Show(w.Context(), id))
	}
	return out.String()
}

var instanceID = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{8}){4}`)
