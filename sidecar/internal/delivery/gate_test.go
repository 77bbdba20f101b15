package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	errDown    = errors.New("down")
	errExcused = errors.New("not its fault")
)

// passing sends a delivery whose sending ends so, and says whether it was sent at all.
func passing(t *testing.T, g *Gate, delivery string, outcome error) (sent bool) {
	t.Helper()
	err := g.Pass(context.Background(), delivery, func() error { sent = true; return outcome })
	if sent && !errors.Is(err, outcome) || !sent && !errors.Is(err, ErrClosed) {
		t.Errorf("%s: sent %t, %v; its sending ends with %v", delivery, sent, err, outcome)
	}
	return sent
}

func newGate(o GateOptions) *Gate {
	o.Excused = func(err error) bool { return errors.Is(err, errExcused) }
	return NewGate("pacs", o)
}

// Three different deliveries that fail close the gate, and not three attempts of one; what is excused does not count, and a success forgets.
func TestGateCloses(t *testing.T) {
	type attempt struct {
		delivery string
		err      error
	}
	down := func(ids ...string) (list []attempt) {
		for _, id := range ids {
			list = append(list, attempt{id, errDown})
		}
		return list
	}
	for name, tt := range map[string]struct {
		failures int
		attempts []attempt
		want     State
	}{
		"nothing":               {3, nil, GateOpen},
		"different deliveries":  {3, down("a", "b", "c"), GateClosed},
		"too few":               {3, down("a", "b"), GateOpen},
		"one again and again":   {3, down("a", "a", "a", "a", "b", "a"), GateOpen},
		"in between":            {3, down("a", "b", "a", "b", "c"), GateClosed},
		"a success between":     {3, append(append(down("a", "b"), attempt{"c", nil}), down("a", "b")...), GateOpen},
		"what is not its fault": {2, []attempt{{"a", errDown}, {"b", errExcused}, {"c", errExcused}, {"d", errExcused}}, GateOpen},
		"never":                 {0, down("a", "b", "c", "d"), GateOpen},
		"at the first":          {1, down("a"), GateClosed},
	} {
		t.Run(name, func(t *testing.T) {
			var changes atomic.Int64
			g := newGate(GateOptions{Failures: tt.failures, Pause: time.Hour, Changed: func() { changes.Add(1) }})
			for _, a := range tt.attempts {
				if !passing(t, g, a.delivery, a.err) {
					t.Fatalf("delivery %s was not sent: the gate closed before", a.delivery)
				}
			}
			if g.State() != tt.want || changes.Load() != map[State]int64{GateClosed: 1}[tt.want] {
				t.Fatalf("%s after %d changes, want %s", g.State(), changes.Load(), tt.want)
			}
			if sent := passing(t, g, "next", nil); sent != (tt.want == GateOpen) {
				t.Errorf("the next was sent: %t", sent)
			}
		})
	}
}

func waitFor(t *testing.T, g *Gate, want State) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); g.State() != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s, never %s", g.State(), want)
		}
	}
}

// After the pause one delivery finds out: it opens the gate or closes it for another pause, and one that was not its fault leaves it to the next.
func TestGateTrial(t *testing.T) {
	for name, tt := range map[string]struct {
		outcome error
		want    State
	}{"success": {nil, GateOpen}, "failure": {errDown, GateClosed}, "excused": {errExcused, GateTrial}} {
		t.Run(name, func(t *testing.T) {
			g := newGate(GateOptions{Failures: 2, Pause: 100 * time.Millisecond})
			passing(t, g, "a", errDown)
			passing(t, g, "b", errDown)
			waitFor(t, g, GateTrial)
			began, end, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			go func() {
				done <- g.Pass(context.Background(), "trial", func() error { close(began); <-end; return tt.outcome })
			}()
			<-began
			if passing(t, g, "c", nil) {
				t.Error("a second one went through beside the trial")
			}
			close(end)
			if err := <-done; !errors.Is(err, tt.outcome) {
				t.Errorf("the trial: %v", err)
			}
			if state := g.State(); state != tt.want {
				t.Fatalf("%s after the trial, want %s", state, tt.want)
			}
			if tt.want == GateClosed {
				waitFor(t, g, GateTrial)
			}
			if !passing(t, g, "d", nil) || g.State() != GateOpen {
				t.Errorf("%s after what came next", g.State())
			}
			passing(t, g, "e", errDown)
			if g.State() != GateOpen {
				t.Error("the failures before the trial count on")
			}
		})
	}
}

// The gate lets so many through in a minute, one after the other, and whoever waits for it ends with the router.
func TestGateRate(t *testing.T) {
	g := newGate(GateOptions{MostPerMinute: 600}) // one in 100 ms
	var group sync.WaitGroup
	began := time.Now()
	for i := range 4 {
		group.Go(func() { passing(t, g, fmt.Sprint(i), nil) })
	}
	group.Wait()
	if took := time.Since(began); took < 250*time.Millisecond {
		t.Errorf("4 went within %s, at one in 100 ms", took)
	}
	g = newGate(GateOptions{MostPerMinute: 1, Failures: 1, Pause: time.Hour})
	passing(t, g, "a", nil)
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := g.Pass(ctx, "b", func() error { t.Error("sent beyond the rate"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("whoever waits when the router stops: %v", err)
	}
}
