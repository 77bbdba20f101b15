package pipeline

import (
	"testing"
	"time"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/rules"
	"imagingrouter/sidecar/internal/store"
)

func TestUrgent(t *testing.T) {
	for _, tt := range []struct{ a, b, want rules.Priority }{
		{"", rules.Low, rules.Low}, {"", rules.Normal, rules.Normal}, {rules.Low, rules.Normal, rules.Normal}, {rules.Normal, rules.Low, rules.Normal},
		{rules.Normal, rules.High, rules.High}, {rules.High, rules.Low, rules.High}, {rules.Low, rules.Low, rules.Low},
	} {
		if got := urgent(tt.a, tt.b); got != tt.want {
			t.Errorf("%q and %q: %q, want %q", tt.a, tt.b, got, tt.want)
		}
	}
}

// Soon after something came it is looked again soon, then less often, also when the clock was set back.
func TestGatherPause(t *testing.T) {
	for name, tt := range map[string]struct {
		g           store.Gathering
		least, most time.Duration
	}{
		"just now":      {store.Gathering{State: store.GatheringWaiting, ChangedAt: time.Now()}, 500 * time.Millisecond, 500 * time.Millisecond},
		"half a minute": {store.Gathering{State: store.GatheringWaiting, ChangedAt: time.Now().Add(-32 * time.Second)}, 4 * time.Second, 5 * time.Second},
		"an hour":       {store.Gathering{State: store.GatheringWaiting, ChangedAt: time.Now().Add(-time.Hour)}, 10 * time.Second, 10 * time.Second},
		"in the future": {store.Gathering{State: store.GatheringWaiting, ChangedAt: time.Now().Add(time.Hour)}, 500 * time.Millisecond, 500 * time.Millisecond},
		"held":          {store.Gathering{State: store.GatheringHeld, OpenedAt: time.Now()}, 12 * time.Second, 18 * time.Second},
		"held for long": {store.Gathering{State: store.GatheringHeld, OpenedAt: time.Now().Add(-24 * time.Hour)}, 96 * time.Second, 144 * time.Second},
	} {
		if got := gatherPause(tt.g); got < tt.least || got > tt.most {
			t.Errorf("%s: %s, want %s to %s", name, got, tt.least, tt.most)
		}
	}
}

func TestIncomplete(t *testing.T) {
	long := time.Now().Add(-time.Hour)
	ready, waits := member{}, member{waiting: true}
	for name, tt := range map[string]struct {
		w       whole
		members []member
		want    string
	}{
		"complete":            {whole{stable: true, changed: long}, []member{ready, ready}, ""},
		"not classified":      {whole{stable: true, changed: long}, []member{ready, waits, waits}, "2 of 3 instances are not classified yet"},
		"not stable":          {whole{changed: long}, []member{ready}, "instances may still arrive: Orthanc does not call it stable"},
		"both":                {whole{changed: long}, []member{waits}, "1 of 1 instances are not classified yet"},
		"not quiet":           {whole{stable: true, changed: time.Now()}, []member{ready}, "instances may still arrive: the last came less than 10s ago"},
		"the clock went back": {whole{stable: true, changed: time.Now().Add(time.Hour)}, []member{ready}, ""},
	} {
		if got := (&Pipeline{Quiet: 10 * time.Second}).incomplete(&tt.w, tt.members); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// The content's name goes into the set only while it is that of the file which Orthanc holds.
func TestItemOfAMember(t *testing.T) {
	inst := orthanc.Instance{ID: "i", FileUUID: "new"}
	for name, tt := range map[string]struct {
		m    member
		want store.Item
	}{
		"looked at":   {member{inst: inst, known: true, row: store.Instance{State: store.StatePublished, FileUUID: "new", ContentMD5: "a"}}, store.Item{InstanceID: "i", FileUUID: "new", ContentMD5: "a"}},
		"unreadable":  {member{inst: inst, known: true, row: store.Instance{State: store.StateUnreadable, FileUUID: "new", ContentMD5: "a"}}, store.Item{InstanceID: "i", FileUUID: "new"}}, // the sum is the older content's
		"overwritten": {member{inst: inst, known: true, row: store.Instance{FileUUID: "old", ContentMD5: "a"}}, store.Item{InstanceID: "i", FileUUID: "new"}},
		"a report":    {member{inst: inst}, store.Item{InstanceID: "i", FileUUID: "new"}},
	} {
		if got := tt.m.item(); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}
