package publish

import (
	"slices"
	"strings"
	"testing"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/store"
)

// FuzzLabels looks for labels, a ledger and results with which somebody else's label would be touched, or labels never come to rest. The
// letters say which label of a handful is wanted, is in Orthanc, and how it stands in the ledger.
func FuzzLabels(f *testing.F) {
	f.Add([]byte{0}, []byte{0}, []byte{0}, true, "urgent")
	f.Add([]byte{1, 2}, []byte{2, 3}, []byte{1, 2, 3, 4, 5, 6}, false, "bodypart-")
	f.Add([]byte{5, 5}, []byte{}, []byte{0, 0, 9, 9}, true, "bodypart-review\x00")
	const prefix = "bodypart-"
	names := []string{bodypart.ReviewLabel(prefix)}
	for _, c := range bodypart.Classes() {
		names = append(names, c.Label(prefix))
	}
	states := []store.LabelState{store.LabelIntended, store.LabelWritten, store.LabelRemovedByPerson, store.LabelKept}
	pick := func(letters []byte, more ...string) []string {
		var labels []string
		for _, b := range letters {
			labels = append(labels, names[int(b)%len(names)])
		}
		labels = append(labels, more...)
		slices.Sort(labels)
		return slices.Compact(labels)
	}
	f.Fuzz(func(t *testing.T, want, have, book []byte, marked bool, stranger string) {
		wanted, current, ledger := pick(want), pick(have, stranger), map[string]store.LabelState{}
		for i := 0; i+1 < len(book); i += 2 {
			ledger[names[int(book[i])%len(names)]] = states[int(book[i+1])%len(states)]
		}
		v := verdict(prefix, current, ledger, marked)
		if v.Class != "" && !slices.Contains(current, v.Class.Label(prefix)) {
			t.Errorf("%q was decided by nobody: labels %q", v.Class, current)
		}
		p := decide(wanted, current, ledger, marked)
		for _, label := range p.add {
			if slices.Contains(current, label) || !slices.Contains(wanted, label) {
				t.Errorf("%q is added to %q, wanted %q", label, current, wanted)
			}
		}
		for _, label := range p.remove {
			if state := ledger[label]; !slices.Contains(current, label) || slices.Contains(wanted, label) || state != store.LabelWritten && state != store.LabelIntended {
				t.Errorf("%q (%q in the ledger) is removed from %q, wanted %q", label, state, current, wanted)
			}
		}
		current, ledger = applied(p, current, ledger)
		if stranger != "" && !slices.Contains(names, stranger) && !slices.Contains(current, stranger) {
			t.Errorf("the label %q of somebody else is gone", stranger)
		}
		if again := decide(wanted, current, ledger, marked || len(p.add) > 0); again.changes() {
			t.Errorf("it does not come to rest: first %+v, then %+v", p, again)
		}
	})
}

// applied is what Orthanc and the ledger hold once a plan was carried out.
func applied(p plan, current []string, ledger map[string]store.LabelState) ([]string, map[string]store.LabelState) {
	current = slices.DeleteFunc(append(current, p.add...), func(l string) bool { return slices.Contains(p.remove, l) })
	for _, step := range []map[string]store.LabelState{p.before, p.after} {
		for label, state := range step {
			ledger[label] = state
			if state == "" {
				delete(ledger, label)
			}
		}
	}
	return current, ledger
}

// FuzzBodyPart: whatever BodyPartExamined says, what is kept of it is one of four words.
func FuzzBodyPart(f *testing.F) {
	for _, s := range []string{"CHEST", " t-spine\x00", "QZX^MARKED", "ſpine", strings.Repeat("A", 1000)} {
		f.Add(s, uint8(len(s)))
	}
	f.Fuzz(func(t *testing.T, tag string, which uint8) {
		class := bodypart.Classes()[int(which)%len(bodypart.Classes())]
		got := bodypart.CompareTag(class, tag)
		if !slices.Contains([]bodypart.Agreement{bodypart.TagAgrees, bodypart.TagDisagrees, bodypart.TagMissing, bodypart.TagUnknown}, got) {
			t.Errorf("%q became %q", tag, got)
		}
		if missing := strings.TrimSpace(strings.ToUpper(tag)) == ""; missing != (got == bodypart.TagMissing) {
			t.Errorf("%q is %s", tag, got)
		}
	})
}
