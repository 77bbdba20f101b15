package publish

import (
	"maps"
	"slices"
	"testing"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/store"
)

const (
	spine = "bodypart-spine"
	chest = "bodypart-adult-chest"
)

func ledger(pairs ...any) map[string]store.LabelState {
	m := map[string]store.LabelState{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1].(store.LabelState)
	}
	return m
}

func TestDecide(t *testing.T) {
	tests := []struct {
		name          string
		wanted        []string
		current       []string
		ledger        map[string]store.LabelState
		marked        bool
		add, remove   []string
		respected     []string
		before, after map[string]store.LabelState
	}{
		{
			name: "first result", wanted: []string{spine}, add: []string{spine},
			before: ledger(spine, store.LabelIntended), after: ledger(spine, store.LabelWritten),
		},
		{name: "nothing to do", wanted: []string{spine}, current: []string{spine}, ledger: ledger(spine, store.LabelWritten), marked: true},
		{
			name: "a second body part", wanted: []string{chest, spine}, current: []string{spine}, ledger: ledger(spine, store.LabelWritten), marked: true,
			add: []string{chest}, before: ledger(chest, store.LabelIntended), after: ledger(chest, store.LabelWritten),
		},
		{
			name: "the class changed", wanted: []string{chest}, current: []string{spine, "urgent"}, ledger: ledger(spine, store.LabelWritten), marked: true,
			add: []string{chest}, remove: []string{spine},
			before: ledger(chest, store.LabelIntended), after: ledger(chest, store.LabelWritten, spine, store.LabelState("")),
		},
		{name: "a person's label of the same name stays a person's", wanted: []string{spine}, current: []string{spine}},
		{name: "a person's labels are never removed", current: []string{spine, "urgent"}, marked: true},
		{
			name: "a person removed ours", wanted: []string{spine}, ledger: ledger(spine, store.LabelWritten), marked: true,
			respected: []string{spine}, before: ledger(spine, store.LabelRemovedByPerson),
		},
		{name: "and it stays away", wanted: []string{spine}, ledger: ledger(spine, store.LabelRemovedByPerson), marked: true},
		{
			name: "a person put it back: theirs now", wanted: []string{spine}, current: []string{spine},
			ledger: ledger(spine, store.LabelRemovedByPerson), marked: true, before: ledger(spine, store.LabelState("")),
		},
		{
			name: "an overwrite recreated the study", wanted: []string{spine}, ledger: ledger(spine, store.LabelWritten),
			add: []string{spine}, before: ledger(spine, store.LabelIntended), after: ledger(spine, store.LabelWritten),
		},
		{
			name: "an overwrite also forgets what a person had removed", wanted: []string{spine}, ledger: ledger(spine, store.LabelRemovedByPerson),
			add: []string{spine}, before: ledger(spine, store.LabelIntended), after: ledger(spine, store.LabelWritten),
		},
		{
			name: "an overwrite with another class", wanted: []string{chest}, ledger: ledger(spine, store.LabelWritten),
			add: []string{chest}, before: ledger(spine, store.LabelState(""), chest, store.LabelIntended), after: ledger(chest, store.LabelWritten),
		},
		{
			name: "recreated, and a person was faster", wanted: []string{spine}, current: []string{spine}, ledger: ledger(spine, store.LabelWritten),
			before: ledger(spine, store.LabelState("")),
		},
		{
			name: "crash after the intent", wanted: []string{spine}, ledger: ledger(spine, store.LabelIntended),
			add: []string{spine}, before: ledger(spine, store.LabelIntended), after: ledger(spine, store.LabelWritten),
		},
		{
			name: "crash after the marker", wanted: []string{spine}, ledger: ledger(spine, store.LabelIntended), marked: true,
			add: []string{spine}, before: ledger(spine, store.LabelIntended), after: ledger(spine, store.LabelWritten),
		},
		{
			name: "crash after the label", wanted: []string{spine}, current: []string{spine}, ledger: ledger(spine, store.LabelIntended), marked: true,
			after: ledger(spine, store.LabelWritten),
		},
		{
			name: "crash before a removal was noted", ledger: ledger(spine, store.LabelIntended), marked: true,
			after: ledger(spine, store.LabelState("")),
		},
		{name: "what it rests on was forgotten by age: it stands", current: []string{spine}, ledger: ledger(spine, store.LabelKept), marked: true},
		{
			name: "the last instance was deleted", current: []string{spine}, ledger: ledger(spine, store.LabelWritten), marked: true,
			remove: []string{spine}, after: ledger(spine, store.LabelState("")),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := decide(tt.wanted, tt.current, tt.ledger, tt.marked)
			if !slices.Equal(p.add, tt.add) || !slices.Equal(p.remove, tt.remove) || !slices.Equal(p.respected, tt.respected) {
				t.Errorf("add %v remove %v respected %v, want %v %v %v", p.add, p.remove, p.respected, tt.add, tt.remove, tt.respected)
			}
			if !maps.Equal(p.before, tt.before) {
				t.Errorf("before %v, want %v", p.before, tt.before)
			}
			if !maps.Equal(p.after, tt.after) {
				t.Errorf("after %v, want %v", p.after, tt.after)
			}
		})
	}
}

// TestDecideSettles: whatever the start, carrying a plan out and deciding again leaves nothing to do. A router that flaps labels would
// fill Orthanc's log and confuse every reader.
func TestDecideSettles(t *testing.T) {
	labels := []string{spine, chest}
	states := []store.LabelState{"", store.LabelIntended, store.LabelWritten, store.LabelRemovedByPerson, store.LabelKept}
	for bits := range 1 << 5 {
		for _, s1 := range states {
			for _, s2 := range states {
				pick := func(shift int) []string {
					var out []string
					for i, l := range labels {
						if bits>>(shift+i)&1 == 1 {
							out = append(out, l)
						}
					}
					return out
				}
				wanted, current, marked := pick(0), pick(2), bits>>4&1 == 1
				book := map[string]store.LabelState{}
				for i, s := range []store.LabelState{s1, s2} {
					if s != "" {
						book[labels[i]] = s
					}
				}
				for range 3 {
					p := decide(wanted, current, book, marked)
					apply(book, p.before)
					marked = marked || len(p.add) > 0
					for _, l := range p.add {
						if !slices.Contains(current, l) {
							current = append(current, l)
						}
					}
					current = slices.DeleteFunc(current, func(l string) bool { return slices.Contains(p.remove, l) })
					apply(book, p.after)
				}
				if p := decide(wanted, current, book, marked); p.changes() || len(p.before) > 0 || len(p.after) > 0 {
					t.Fatalf("start wanted=%v states=%q,%q bits=%05b: still changes: %+v", wanted, s1, s2, bits, p)
				}
			}
		}
	}
}

func apply(book, changes map[string]store.LabelState) {
	for l, s := range changes {
		if s == "" {
			delete(book, l)
		} else {
			book[l] = s
		}
	}
}

// A person takes the label that asks for the review away, and sets another class where the router's is wrong.
func TestVerdict(t *testing.T) {
	const review = "bodypart-review"
	asked := ledger(review, store.LabelWritten)
	tests := []struct {
		name    string
		current []string
		ledger  map[string]store.LabelState
		marked  bool
		want    Verdict
	}{
		{"still asked for", []string{review}, asked, true, Verdict{}},
		{"taken away", nil, asked, true, Verdict{Reviewed: true}},
		{"taken away, and noted", []string{"urgent"}, ledger(review, store.LabelRemovedByPerson), true, Verdict{Reviewed: true}},
		{"and a class set", []string{chest}, asked, true, Verdict{Reviewed: true, Class: bodypart.AdultChest}},
		{"a class set first", []string{review, chest}, asked, true, Verdict{Class: bodypart.AdultChest}},
		{"two classes set", []string{chest, spine}, asked, true, Verdict{Reviewed: true}},
		{"the router's own class says nothing", []string{spine}, ledger(review, store.LabelWritten, spine, store.LabelWritten), true, Verdict{Reviewed: true}},
		{"one of each", []string{chest, spine}, ledger(review, store.LabelWritten, spine, store.LabelWritten), true, Verdict{Reviewed: true, Class: bodypart.AdultChest}},
		{"the study was recreated", nil, asked, false, Verdict{}},
		{"never written", nil, ledger(review, store.LabelIntended), true, Verdict{}},
		{"never asked for", nil, ledger(spine, store.LabelWritten), true, Verdict{}},
		{"forgotten by age", nil, ledger(review, store.LabelKept), true, Verdict{}},
		{"another prefix", []string{"spine"}, asked, true, Verdict{Reviewed: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := verdict("bodypart-", tt.current, tt.ledger, tt.marked); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}
