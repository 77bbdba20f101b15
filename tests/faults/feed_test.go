package faults

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/routertest"
	"imagingrouter/tests/worldtest"
)

// The patient of every file: what must be found nowhere in the router. Written over the phantom's own words of the same lengths.
const (
	patientName = "Zwiebel" // of PatientName
	patientID   = "KENNUNG" // of PatientID
)

// content is one content of an instance, and when the archive has taken it.
type content struct {
	said     string // the class that the network gives it, or "review"
	file     []byte
	sha256   string
	begun    time.Time // the first try to store it
	accepted []time.Time
}

// instance is one X-ray, and all that it has held so far.
type instance struct {
	name               string
	sop, study, series string
	id                 string // Orthanc's
	dicom              bool   // sent over C-STORE
	epoch              int    // how often the archive had been wiped by then
	contents           []*content
}

func (i *instance) now() *content { return i.contents[len(i.contents)-1] }

// drawing is a drawn picture, and what the network says of it.
type drawing struct {
	options phantom.Options
	said    string
}

var drawings struct {
	once sync.Once
	all  []drawing
	err  error
}

// draw returns the drawings that the files hold, at least one for each rule: what the network takes them for, the
// program itself says.
func draw(t testing.TB) []drawing {
	t.Helper()
	drawings.once.Do(func() { drawings.all, drawings.err = classifyDrawings(t) })
	if drawings.err != nil {
		t.Fatal(drawings.err)
	}
	return drawings.all
}

func classifyDrawings(t testing.TB) ([]drawing, error) {
	folder := t.TempDir()
	paths := map[string]phantom.Options{}
	for _, class := range worldtest.Classes {
		for seed := range int64(4) {
			o := phantom.Options{Class: class, Seed: seed + 1, Rows: 240, Columns: 240, Bits: []int{12, 16}[seed%2], Monochrome1: seed%3 == 0}
			var b bytes.Buffer
			if _, err := phantom.Write(&b, o); err != nil {
				return nil, err
			}
			path := filepath.Join(folder, fmt.Sprintf("%03d.dcm", len(paths)))
			paths[path] = o
			if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
				return nil, err
			}
		}
	}
	router := routertest.New(t, routertest.Config{Settings: routertest.Settings{"model": sureOfItself()}})
	out, errs, status, err := router.Run(t.Context(), "classify", "--format", "json", folder)
	if err != nil || status != 0 {
		return nil, fmt.Errorf("classify: exit status %d: %w\n%s", status, err, errs)
	}
	var all []drawing
	had := map[string]bool{}
	for line := range strings.Lines(out) {
		var r struct {
			File, Class string
			Review      bool
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return nil, fmt.Errorf("classify: %q: %w", line, err)
		}
		if r.Review {
			r.Class = worldtest.Review
		}
		had[r.Class] = true
		all = append(all, drawing{paths[r.File], r.Class})
	}
	slices.SortFunc(all, func(a, b drawing) int {
		return strings.Compare(fmt.Sprint(a.options), fmt.Sprint(b.options))
	})
	if !had["spine"] || !had["abdominal"] || !had["adult_chest"] && !had["pediatric_chest"] {
		return nil, fmt.Errorf("of the drawings the network makes only %v", had)
	}
	return all, nil
}

// feed is what the modalities send: studies of one or several X-rays, some of them twice, some again with another content.
type feed struct {
	random   *rand.Rand
	drawings []drawing
	studies  int

	mu        sync.Mutex
	instances []*instance
	hurry     chan struct{} // one more, now
}

// file draws a content for an instance.
func (f *feed) file(i *instance) (*content, error) {
	d := f.drawings[f.random.IntN(len(f.drawings))]
	for d.said == "others" && f.random.IntN(2) == 0 { // most shall go somewhere
		d = f.drawings[f.random.IntN(len(f.drawings))]
	}
	for len(i.contents) > 0 && slices.ContainsFunc(i.contents, func(c *content) bool { return c.said == d.said }) && f.random.IntN(3) > 0 {
		d = f.drawings[f.random.IntN(len(f.drawings))] // a corrected picture is mostly one of something else
	}
	o := d.options
	o.StudyUID, o.SeriesUID, o.SOPInstanceUID = i.study, i.series, i.sop
	o.When = time.Unix(1_700_000_000+int64(len(i.contents)), 0) // so that the same drawing is another content
	var b bytes.Buffer
	if _, err := phantom.Write(&b, o); err != nil {
		return nil, err
	}
	file := bytes.Replace(b.Bytes(), []byte("PHANTOM^"), []byte(patientName+"^"), 1)
	file = bytes.Replace(file, []byte("PHANTOM-"), []byte(patientID+"-"), 1)
	return &content{said: d.said, file: file, sha256: sum(file)}, nil
}

// orthancID is how Orthanc names an instance: a SHA-1 over the four identifiers (OrthancFramework/Sources/DicomFormat/DicomInstanceHasher.cpp).
func orthancID(file []byte, study, series, sop string) string {
	at := bytes.Index(file, []byte(patientID+"-"))
	digest := sha1.Sum([]byte(strings.Join([]string{strings.TrimSpace(string(file[at : at+len(patientID)+9])), study, series, sop}, "|")))
	text := hex.EncodeToString(digest[:])
	return strings.Join([]string{text[:8], text[8:16], text[16:24], text[24:32], text[32:]}, "-")
}

// uid returns an identifier that the seed decides.
func (f *feed) uid() string {
	return fmt.Sprintf("2.25.%d%018d", 1+f.random.Uint64N(1<<62), f.random.Uint64N(1e18))
}

// next returns what is sent next: instances with the content that they shall have now.
func (f *feed) next(epoch int) ([]*instance, error) {
	f.mu.Lock()
	var old []*instance
	for _, i := range f.instances {
		if i.epoch == epoch {
			old = append(old, i)
		}
	}
	f.mu.Unlock()
	what := f.random.IntN(100)
	switch {
	case len(old) > 0 && what < 15: // sent again as it was
		return []*instance{old[f.random.IntN(len(old))]}, nil
	case len(old) > 0 && what < 30: // sent again with another content
		i := old[f.random.IntN(len(old))]
		c, err := f.file(i)
		if err != nil || i.dicom { // of what comes over C-STORE the archive writes the head anew, and the check could not tell the contents apart
			return []*instance{i}, err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		i.contents = append(i.contents, c)
		return []*instance{i}, nil
	case len(old) > 0 && what < 45: // one more for a study
		of := old[f.random.IntN(len(old))]
		return f.fresh(of.study, of.series, 1, of.dicom, epoch)
	default:
		f.studies++
		return f.fresh(f.uid(), f.uid(), 1+f.random.IntN(6)/3, f.random.IntN(4) == 0, epoch)
	}
}

func (f *feed) fresh(study, series string, n int, dicom bool, epoch int) ([]*instance, error) {
	var out []*instance
	for range n {
		i := &instance{study: study, series: series, sop: f.uid(), dicom: dicom, epoch: epoch}
		c, err := f.file(i)
		if err != nil {
			return nil, err
		}
		i.contents, i.id = []*content{c}, orthancID(c.file, study, series, i.sop)
		f.mu.Lock()
		i.name = fmt.Sprintf("X-ray %d", len(f.instances)+1)
		f.instances = append(f.instances, i)
		f.mu.Unlock()
		out = append(out, i)
	}
	return out, nil
}

// enough is how many instances are sent in the feed's own time. More come only when a fault needs something to be on its way.
const enough = 40

// run sends until ctx ends, in the feed's own time or when it is hurried.
func (w *world) run(ctx context.Context) error {
	for {
		pause := time.Duration(200+w.feed.random.IntN(1300)) * time.Millisecond
		if len(w.feed.instances) >= enough {
			pause = time.Hour
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.feed.hurry:
		case <-time.After(pause):
		}
		w.store.RLock()
		sent, err := w.feed.next(w.epoch)
		w.store.RUnlock()
		if err == nil {
			err = w.send(sent)
		}
		if err != nil {
			return err
		}
	}
}

// hurry has n more things sent at once.
func (w *world) hurry(n int) {
	for range n {
		select {
		case w.feed.hurry <- struct{}{}:
		default: // enough wait already
		}
	}
}

// send stores instances in the archive, again and again until it has taken them, as a modality does.
func (w *world) send(sent []*instance) error {
	for w.Context().Err() == nil {
		w.store.RLock() // a wipe waits for this
		if sent[0].epoch != w.epoch {
			w.store.RUnlock()
			return nil // wiped before it took them: they count as from before
		}
		err := w.try(sent)
		w.store.RUnlock()
		if err == nil {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
	return w.Context().Err()
}

func (w *world) try(sent []*instance) error {
	ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
	defer cancel()
	w.feed.mu.Lock()
	for _, i := range sent {
		if i.now().begun.IsZero() {
			i.now().begun = time.Now()
		}
	}
	w.feed.mu.Unlock()
	if sent[0].dicom {
		folder, err := os.MkdirTemp(w.folder, "cstore-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(folder) }() // the world's folder goes at the end
		for n, i := range sent {
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.dcm", n)), i.now().file, 0o600); err != nil {
				return err
			}
		}
		if err := w.archive.Store(ctx, folder); err != nil {
			return err
		}
		w.accepted(sent)
		return nil
	}
	for _, i := range sent {
		if id, err := w.archive.Upload(ctx, i.now().file); err != nil || id != i.id {
			return fmt.Errorf("stored as %s instead of %s: %w", id, i.id, err)
		}
	}
	w.accepted(sent)
	return nil
}

func (w *world) accepted(sent []*instance) {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	for _, i := range sent {
		i.now().accepted = append(i.now().accepted, time.Now())
	}
}
