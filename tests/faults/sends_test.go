package faults

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"
)

func sum(file []byte) string {
	s := sha256.Sum256(file)
	return hex.EncodeToString(s[:])
}

// savesJobs is how often Orthanc saves its jobs: one that is killed does again, after its restart, what it had done since.
const savesJobs = 12 * time.Second // 10 s (OrthancServer/Sources/ServerContext.cpp), and room for a slow machine

// slack is between a moment and its being noted.
const slack = time.Second

// sends counts what arrived at the destinations, and compares it with what may: once without a fault, and once more for each fault that hit its
// sending; nothing old after the router's database began anew.
func (w *world) sends() findings {
	var wrong findings
	bySOP, byID := map[string]*instance{}, map[string]*instance{}
	for _, i := range w.feed.instances {
		bySOP[i.sop], byID[i.id] = i, i
	}
	shipments := w.front.shipments()
	for name, taken := range w.taken() {
		for what, n := range taken {
			i := bySOP[what.sop]
			if i == nil {
				wrong.addf(nil, "%s was sent %s, which the archive never had", name, what.sop)
				continue
			}
			c := i.by(what.sha256)
			switch {
			case c == nil:
				wrong.addf(i, "%s was sent a content of it that the archive never had (SHA-256 %s)", name, what.sha256)
			case !w.may(i, c, name):
				wrong.addf(i, "a content that is %s was sent to %s", c.said, name)
			case n-1 > w.mayRepeat(i, c, name, shipments):
				wrong.addf(i, "sent %d times to %s; faults that can explain it: %d", n, name, w.mayRepeat(i, c, name, shipments))
			}
		}
	}
	for _, b := range w.blind {
		for _, s := range shipments {
			old := !slices.ContainsFunc(s.instances, func(id string) bool { return byID[id] == nil || !byID[id].before(b.at) }) // something new takes its study along
			if b.reset && old && s.from.After(b.at) {
				wrong.addf(byID[s.instances[0]], "sent to %s (job %s) after the router's database began anew, and it is from before", s.peer, s.job)
			}
		}
	}
	return wrong
}

// sent names what a destination was sent.
type sent struct{ sop, sha256 string }

// taken counts the POSTs that each destination has taken.
func (w *world) taken() map[string]map[sent]int {
	all := map[string]map[sent]int{}
	for name, d := range w.destinations {
		all[name] = map[sent]int{}
		for _, p := range d.proxy.Posts() {
			if p.Status == 200 {
				all[name][sent{p.SOPInstanceUID, p.SHA256}]++
			}
		}
	}
	return all
}

// posts counts them all, and the repetitions among them.
func (w *world) posts() (all, repeats int) {
	for _, taken := range w.taken() {
		for _, n := range taken {
			all += n
			repeats += n - 1
		}
	}
	return all, repeats
}

// by returns the content with this checksum; nil when there is none.
func (i *instance) by(sha256 string) *content {
	for _, c := range i.contents {
		if c.sha256 == sha256 {
			return c
		}
	}
	if i.dicom { // wiped before its file could be read back: it has one content only
		return i.contents[0]
	}
	return nil
}

// before says whether nothing of the instance came after a moment.
func (i *instance) before(t time.Time) bool {
	return !slices.ContainsFunc(i.contents, func(c *content) bool {
		return len(c.accepted) == 0 || c.accepted[len(c.accepted)-1].After(t.Add(-2*slack))
	})
}

// mayRepeat counts what may have repeated a content's sending to a destination: faults that were there while it was on its way, and that it was stored
// again after the router had lost its memory.
func (w *world) mayRepeat(i *instance, c *content, name string, shipments []shipment) int {
	n := 0
	for _, f := range w.faults {
		if !f.repeats || len(f.parts) == 1 && (f.parts[0] == chest || f.parts[0] == spine) && string(f.parts[0]) != name {
			continue
		}
		if slices.ContainsFunc(shipments, func(s shipment) bool { return s.of(i, name) && s.hitBy(f) }) {
			n++
		}
	}
	for _, b := range w.blind {
		if slices.ContainsFunc(c.accepted, func(t time.Time) bool { return b.lost && t.After(b.at) }) {
			n++
		}
		if slices.ContainsFunc(shipments, func(s shipment) bool {
			return s.of(i, name) && s.from.Before(b.at) && (b.reset || b.deliveries || b.items && len(s.instances) > 1)
		}) {
			n++ // with its study: that it was sent is forgotten
		}
	}
	if w.raced(i, c, name) {
		n++
	}
	return n
}

func (s shipment) of(i *instance, name string) bool {
	return s.peer == name && slices.Contains(s.instances, i.id)
}

// hitBy says whether a fault was there while the shipment was on its way: from its submission until the router knew of its end.
func (s shipment) hitBy(f *fault) bool {
	after := slack
	if f.parts[0] == theArchive {
		after = savesJobs
	}
	return s.from.Before(f.to) && (s.until.IsZero() || s.until.Add(after).After(f.from))
}

// raced says whether a content came while an older one of the instance was on its way to a destination. Orthanc's job names the instance and not the
// content: it sends what is there when it comes to it.
func (w *world) raced(i *instance, c *content, name string) bool {
	if len(c.accepted) == 0 || c == i.contents[0] {
		return false
	}
	return slices.ContainsFunc(w.front.shipments(), func(s shipment) bool {
		return s.of(i, name) && s.from.Add(-slack).Before(c.accepted[0]) && (s.until.IsZero() || c.begun.Before(s.until))
	})
}
