package faults

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"imagingrouter/tests/worldtest"
)

// finding is one thing that is not as it must be.
type finding struct {
	about *instance // nil: no one instance
	text  string
}

// findings gathers them.
type findings []finding

func (f *findings) addf(about *instance, format string, args ...any) {
	*f = append(*f, finding{about, fmt.Sprintf(format, args...)})
}

func (f findings) Error() string {
	lines := make([]string, len(f))
	for n, one := range f {
		lines[n] = one.text
		if one.about != nil {
			lines[n] = fmt.Sprintf("%s (%s): %s", one.about.name, one.about.id, one.text)
		}
	}
	return strings.Join(lines, "\n")
}

// settled waits until nothing is wrong and the router is at rest, and looks once more then: nothing more may have come.
func (w *world) settled() (findings, error) {
	if err := w.complete(); err != nil {
		return nil, err
	}
	wrong, err := w.patiently()
	if err != nil || len(wrong) > 0 {
		return wrong, err
	}
	time.Sleep(time.Second)
	wrong, err = w.wrong()
	if err != nil {
		return wrong, err
	}
	inside, err := w.inside()
	return append(append(wrong, w.sends()...), inside...), err
}

// patiently waits until nothing is wrong and the router is at rest, as long as anything moves.
func (w *world) patiently() (findings, error) {
	before, moved := "", time.Now()
	for {
		found, resting := w.wrong()
		if resting == nil {
			resting = w.atRest()
		}
		if len(found) == 0 && resting == nil {
			return nil, nil
		}
		now := fmt.Sprint(found, resting)
		if now != before {
			before, moved = now, time.Now()
		}
		if time.Since(moved) > within || w.ctx.Err() != nil {
			return found, resting
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// complete learns the files as the archive has them of what came over C-STORE: their heads are the archive's.
func (w *world) complete() error {
	for _, i := range w.expected() {
		if !i.dicom {
			continue
		}
		status, file, err := w.archive.Do(w.ctx, http.MethodGet, "/instances/"+i.id+"/file", nil)
		if err != nil {
			return err
		}
		if status == http.StatusOK { // else it is missed elsewhere
			i.now().sha256 = sum(file)
		}
	}
	return nil
}

// expected returns the instances that the archive must hold.
func (w *world) expected() []*instance {
	return slices.DeleteFunc(slices.Clone(w.feed.instances), func(i *instance) bool { return i.epoch != w.epoch })
}

// wrong says what is not as it must be at the end: results, labels, and what is at the destinations.
func (w *world) wrong() (findings, error) {
	var wrong findings
	all, err := worldtest.Look(w.ctx, w.archive)
	if err != nil {
		return nil, err
	}
	labels, older := w.labels()
	for _, i := range w.expected() {
		s, there := all[i.sop]
		if !there {
			wrong.addf(i, "not in the archive")
			continue
		}
		if err := s.Valid(); err != nil {
			wrong.addf(i, "%v", err)
			continue
		}
		if s.Said != i.now().said {
			wrong.addf(i, "shown as %s; the network says %s", s.Said, i.now().said)
		}
		if s.SeriesMetadata["BodyPartMarker"] == "" || s.StudyMetadata["BodyPartMarker"] == "" {
			wrong.addf(i, "no marker on series or study")
		}
		for level, shown := range map[string][]string{"series": s.SeriesLabels, "study": s.StudyLabels} {
			of := map[string]string{"series": i.series, "study": i.study}[level]
			for _, label := range shown {
				if !labels[of][label] && !older[of][label] {
					wrong.addf(i, "its %s has the label %s, which none of its pictures gives it", level, label)
				}
			}
			for label := range labels[of] {
				if !slices.Contains(shown, label) {
					wrong.addf(i, "its %s has the labels %v, and not %s", level, shown, label)
				}
			}
		}
	}
	arrived, err := w.arrivals()
	return append(wrong, arrived...), err
}

// labels says which labels a series or study must have, and which it may have beside them: where the router has lost its memory, its own older ones
// count as a person's.
func (w *world) labels() (must, may map[string]map[string]bool) {
	must, may = map[string]map[string]bool{}, map[string]map[string]bool{}
	put := func(to map[string]map[string]bool, i *instance, said string) {
		for _, of := range []string{i.series, i.study} {
			if to[of] == nil {
				to[of] = map[string]bool{}
			}
			to[of][worldtest.Label(said)] = true
		}
	}
	lost := slices.ContainsFunc(w.blind, func(b blindness) bool { return b.lost })
	for _, i := range w.expected() {
		put(must, i, i.now().said)
		for _, c := range i.contents {
			if lost {
				put(may, i, c.said)
			}
		}
	}
	return must, may
}

// optional says whether a content need not be forwarded: it came while it could be taken for old.
func (w *world) optional(c *content) bool {
	return slices.ContainsFunc(w.blind, func(b blindness) bool {
		return len(c.accepted) > 0 && !c.accepted[0].Before(b.from) && !c.begun.After(b.to)
	})
}

// arrivals compares what is at the destinations with what the rules say.
func (w *world) arrivals() (findings, error) {
	var wrong findings
	for name, d := range w.destinations {
		there, err := worldtest.Arrived(w.ctx, d.Server)
		if err != nil {
			return nil, err
		}
		for _, i := range w.feed.instances {
			id, arrived := there[i.sop]
			delete(there, i.sop)
			wanted := i.epoch == w.epoch && w.must(i, name)
			switch {
			case wanted && !w.optional(i.now()):
				if !arrived {
					wrong.addf(i, "%s, but not at %s", i.now().said, name)
				} else if same, err := w.same(d, id); err != nil {
					return nil, err
				} else if !same {
					wrong.addf(i, "%s has another content than the archive", name)
				}
			case arrived && !slices.ContainsFunc(i.contents, func(c *content) bool { return w.may(i, c, name) }):
				wrong.addf(i, "%s, but at %s", i.now().said, name)
			}
		}
		for sop := range there {
			wrong.addf(nil, "%s holds %s, which was never sent to the archive", name, sop)
		}
	}
	return wrong, nil
}

// must says whether the rules send an instance, as it is now, to a destination: for itself, or with its study.
func (w *world) must(i *instance, name string) bool {
	if slices.Contains(route[i.now().said], name) && (!w.whole || i.now().said != "spine") {
		return true
	}
	// A part of the study that was itself taken for old may be no reason to send it.
	return w.whole && name == spineAI && slices.ContainsFunc(w.expected(), func(o *instance) bool {
		return o.study == i.study && o.now().said == "spine" && !w.optional(o.now())
	})
}

// may says whether a content of an instance may be at a destination.
func (w *world) may(i *instance, c *content, name string) bool {
	if slices.Contains(route[c.said], name) || w.raced(i, c, name) {
		return true
	}
	return w.whole && name == spineAI && slices.ContainsFunc(w.feed.instances, func(o *instance) bool {
		return o.study == i.study && slices.ContainsFunc(o.contents, func(c *content) bool { return c.said == "spine" })
	})
}

// same says whether a destination holds the same file as the archive.
func (w *world) same(d *destination, id string) (bool, error) {
	path := "/instances/" + id + "/attachments/dicom/md5"
	_, ours, err := w.archive.Do(w.ctx, http.MethodGet, path, nil)
	if err != nil {
		return false, err
	}
	_, theirs, err := d.Do(w.ctx, http.MethodGet, path, nil)
	return len(ours) == 32 && bytes.Equal(ours, theirs), err
}

// atRest says whether the router has followed the archive's changes to their end and nothing is left to do.
func (w *world) atRest() error {
	m, err := w.router.Metrics(w.ctx)
	if err != nil {
		return err
	}
	open := m.Sum("queue_jobs") + m.Sum("instances", `state="due"`) + m.Sum("instances", `state="classified"`) + m.Sum("wholes", `state="waiting"`) + m.Sum("wholes", `state="held"`)
	for _, state := range []string{"pending", "submitting", "sent", "held"} {
		open += m.Sum("deliveries", fmt.Sprintf("state=%q", state))
	}
	if open > 0 {
		return fmt.Errorf("%.0f jobs, instances or deliveries are open", open)
	}
	seq, err := w.router.Query(w.ctx, "SELECT coalesce(max(seq), 0) FROM cursor")
	if err != nil {
		return err
	}
	last, err := worldtest.LastNewInstance(w.ctx, w.archive)
	if err == nil && seq < last {
		err = fmt.Errorf("the follower stands at %d, the last new instance is %d", seq, last)
	}
	return err
}

// inside looks at what the router keeps and says: no job may be stuck, nothing failed or gone without a cause, no result twice, no panic, and nowhere
// a word of the patient's.
func (w *world) inside() (findings, error) {
	var wrong findings
	byID := map[string]*instance{}
	for _, i := range w.feed.instances {
		byID[i.id] = i
	}
	wiped := func(id string) bool { return byID[id] != nil && byID[id].epoch != w.epoch }
	jobs, err1 := w.router.Rows(w.ctx, "SELECT kind, state, args FROM river_job WHERE state <> 'completed'")
	for _, row := range jobs {
		wrong.addf(nil, "a job is left in the queue: %v", row)
	}
	states, err2 := w.router.Rows(w.ctx, "SELECT id, state, reason FROM instance WHERE state <> 'published'")
	for _, row := range states {
		if row[1] != "gone" || !wiped(row[0]) {
			wrong.addf(byID[row[0]], "ended as %v", row)
		}
	}
	deliveries, err3 := w.router.Rows(w.ctx, `SELECT i.instance_id, d.state, d.destination, d.reason FROM delivery d JOIN delivery_item i ON i.delivery_id = d.id
		WHERE d.state <> 'delivered'`)
	for _, row := range deliveries {
		i := byID[row[0]]
		overwritten := i != nil && len(i.contents) > 1 && strings.Contains(row[3], "overwritten")
		lost := row[1] == "failed" && strings.Contains(row[3], "lost with the damaged database file")
		if (row[1] != "gone" || !wiped(row[0]) && !overwritten) && !lost {
			wrong.addf(i, "a delivery ended as %v", row)
		}
	}
	results, err4 := w.router.Rows(w.ctx, "SELECT instance_id, count(*), group_concat(content_md5) FROM result GROUP BY instance_id")
	for _, row := range results {
		if i := byID[row[0]]; i != nil && row[1] > fmt.Sprint(len(i.contents)) {
			wrong.addf(i, "%s results for %d contents: %s", row[1], len(i.contents), row[2])
		}
	}
	secret, err5 := w.secrets()
	return append(wrong, secret...), errors.Join(err1, err2, err3, err4, err5)
}

// secrets looks for what must not stand in a log, the database or the metrics.
func (w *world) secrets() (findings, error) {
	var wrong findings
	log := w.router.Log()
	for _, word := range []string{"WARNING: DATA RACE", "panic", "fatal error", "SIGSEGV", "SIGBUS"} {
		if at := strings.Index(log, word); at >= 0 {
			wrong.addf(nil, "the router's log says %q:\n%s", word, log[max(0, at-500):min(len(log), at+3000)])
		}
	}
	if refused := linesWith(w.archive.Log(), "refused to the account"); len(refused) > 0 {
		wrong.addf(nil, "the archive has refused the router's account what it asked for:\n%s", strings.Join(refused, "\n"))
	}
	written, err1 := w.router.Bytes()
	_, metrics, err2 := w.router.Do(w.ctx, http.MethodGet, "/metrics", nil)
	for _, word := range []string{patientName, patientID} {
		for place, text := range map[string][]byte{"log or database": written, "metrics": metrics} {
			if at := bytes.Index(text, []byte(word)); at >= 0 {
				wrong.addf(nil, "a patient's word (%s) stands in the router's %s: %q", word, place, text[max(0, at-200):min(len(text), at+200)])
			}
		}
	}
	return wrong, errors.Join(err1, err2)
}
