package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"imagingrouter/sidecar/internal/delivery"
	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/store"
)

// Pause is a person's word that nothing is to be sent to a destination for the time being.
type Pause struct {
	On    bool
	Since time.Time
}

// PauseSetting is the name of the setting that `imaging-router deliveries pause` writes: "paused", or "" after resume.
func PauseSetting(destination string) string { return "paused/" + destination }

// GateSetting is the name of the setting in which a running router leaves why it sends nothing to a destination, for commands; "" when it may.
func GateSetting(destination string) string { return "gate/" + destination }

// Paused reads whether a person has paused a destination.
func (p *Pipeline) Paused(ctx context.Context, destination string) (Pause, error) {
	return PausedIn(ctx, p.Store, destination)
}

// PausedIn is Paused for commands that have a database and no pipeline.
func PausedIn(ctx context.Context, s *store.Store, destination string) (Pause, error) {
	value, since, ok, err := s.Setting(ctx, PauseSetting(destination))
	return Pause{On: ok && value != "", Since: since}, err
}

// GateStates says of each destination why nothing is sent to it now; "" when it may be. The words are those of the metric.
func (p *Pipeline) GateStates(ctx context.Context) (map[string]string, error) {
	state, err := p.Forwarding.State(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(p.Destinations))
	for name, to := range p.Destinations {
		paused, err := p.Paused(ctx, name)
		switch {
		case err != nil:
			return nil, err
		case !state.On:
			out[name] = GateForwarding
		case paused.On:
			out[name] = GatePaused
		case to.Gate.State() != delivery.GateOpen:
			out[name] = GateBreaker
		default:
			out[name] = ""
		}
	}
	return out, nil
}

// The reasons why nothing is sent to a destination.
const (
	GateForwarding = "forwarding_off"
	GatePaused     = "paused"
	GateBreaker    = "circuit_breaker"
)

// closed says why nothing may be sent to a destination now; "" when it may.
func (p *Pipeline) closed(ctx context.Context, name string, on bool) (string, error) {
	if !on {
		return "forwarding is off", nil
	}
	paused, err := p.Paused(ctx, name)
	switch {
	case err != nil:
		return "", err
	case paused.On:
		return "paused by a person since " + paused.Since.Format(time.RFC3339), nil
	case p.Destinations[name].Gate.State() == delivery.GateClosed:
		return "left alone: it did not take what was sent", nil
	}
	return "", nil
}

// hold pauses the queues of the destinations to which nothing may be sent, and resumes the others. What waits in a paused queue costs nothing.
func (p *Pipeline) hold(ctx context.Context) error {
	state, err := p.Forwarding.State(ctx)
	if err != nil {
		return err
	}
	for name, to := range p.Destinations {
		why, err := p.closed(ctx, name, state.On)
		if err != nil {
			return err
		}
		trial := to.Gate.State() == delivery.GateTrial
		last, known := p.gates[name]
		if known && last == (gateState{why, trial}) {
			if trial && why == "" { // what was to find it out may have ended without being sent
				if _, err := p.Queue.Try(ctx, name); err != nil {
					return err
				}
			}
			continue
		}
		if !known || (last.why == "") != (why == "") {
			err := p.Queue.Hold(ctx, name, why != "")
			if errors.Is(err, jobs.ErrNoQueue) {
				continue // it is looked at again in a second; until then each job looks for itself
			}
			if err != nil {
				return err
			}
		}
		// Back, or to be tried: what waits for its own next attempt need not wait any longer.
		if known && why == "" && (last.why != "" || last.trial) {
			wake := p.Queue.Hasten
			if trial {
				wake = p.Queue.Try
			}
			if _, err := wake(ctx, name); err != nil {
				return err
			}
		}
		if err := p.Store.SetSetting(ctx, GateSetting(name), why); err != nil {
			return err
		}
		p.tellGate(name, last, gateState{why, trial}, known)
		if p.gates == nil {
			p.gates = map[string]gateState{}
		}
		p.gates[name] = gateState{why, trial}
	}
	return nil
}

// gateState is what the loop that holds queues knew last about one of them.
type gateState struct {
	why   string // nothing may be sent; "" = it may
	trial bool
}

func (p *Pipeline) tellGate(name string, last, now gateState, known bool) {
	switch {
	case now.why != "" && last.why != now.why:
		p.Log.Warn().Str("destination", name).Str("why", now.why).Msg("deliveries wait")
	case now.why == "" && now.trial:
		p.Log.Info().Str("destination", name).Msg("the destination is tried with one delivery")
	case known && now.why == "" && (last.why != "" || last.trial):
		p.Log.Info().Str("destination", name).Msg("deliveries go again")
	}
}

// GateChanged makes RunGates look at once. It never blocks.
func (p *Pipeline) GateChanged() {
	select {
	case p.changed() <- struct{}{}:
	default:
	}
}

func (p *Pipeline) changed() chan struct{} {
	p.changedOnce.Do(func() { p.gateChanged = make(chan struct{}, 1) })
	return p.gateChanged
}

// How often RunGates looks at what.
const (
	gatesEvery  = time.Second
	divertEvery = 5 * time.Second
	clockEvery  = time.Minute
	divertPage  = 200
)

// RunGates holds the queues of deliveries whenever forwarding is off, a person has paused a destination, or a destination does not take what it
// is sent, within a second; moves what has waited too long to alternate destinations; and wakes what a clock that was set back left asleep.
func (p *Pipeline) RunGates(ctx context.Context) {
	diverted, clock := time.Now(), time.Time{}
	for {
		err := p.hold(ctx)
		if time.Since(diverted) >= divertEvery {
			diverted = time.Now()
			err = errors.Join(err, p.divert(ctx))
		}
		if time.Since(clock) >= clockEvery {
			clock = time.Now()
			n, mend := p.Queue.MendClock(ctx)
			if n > 0 {
				p.Log.Warn().Int64("jobs", n).Msg("jobs slept longer than they meant to: the clock was set back; they go on now")
			}
			err = errors.Join(err, mend)
		}
		if err != nil && ctx.Err() == nil {
			p.Log.Warn().Err(err).Msg("the deliveries' queues could not be looked after")
		}
		select {
		case <-ctx.Done():
			return
		case <-p.changed():
		case <-time.After(gatesEvery):
		}
	}
}

// divert moves deliveries that could not be handed over for so long to the alternate of their destination.
func (p *Pipeline) divert(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(p.Destinations)) {
		to := p.Destinations[name]
		if to.Alternate == "" {
			continue
		}
		state, err := p.Forwarding.State(ctx)
		if err != nil || !state.On {
			return err
		}
		paused, err := p.Paused(ctx, name)
		if err != nil {
			return err
		}
		if paused.On { // who pauses a destination wants it to wait
			continue
		}
		// A long queue before a destination that takes what it is sent is no reason: only what was tried in vain goes elsewhere then.
		tried := to.Gate.State() == delivery.GateOpen
		list, err := p.Store.Divertible(ctx, name, time.Now().Add(-to.AlternateAfter), tried, divertPage)
		if err != nil {
			return err
		}
		for _, d := range list {
			if p.Rules.Set().Opens(d.Rule, time.Now()).After(time.Now()) {
				continue // its schedule, and not the destination, keeps it
			}
			if err := p.divertOne(ctx, d, to); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Pipeline) divertOne(ctx context.Context, d store.Delivery, from delivery.Destination) error {
	items, err := p.Store.Items(ctx, d.ID)
	if err != nil {
		return err
	}
	items = slices.DeleteFunc(items, func(i store.Item) bool { return i.Dropped != "" })
	ids, err := p.itemIDs(ctx, d)
	if err != nil {
		return err
	}
	alternate, done := p.Destinations[from.Alternate], false
	detail := fmt.Sprintf("%s %s to its alternate %s, after %s without success; at last: %s", from.Name, d.ID, alternate.Name, from.AlternateAfter, orNothing(d.LastError))
	err = p.Store.Tx(ctx, func(tx *sql.Tx) error {
		left, err := p.Store.Uncovered(ctx, tx, alternate.Name, alternate.Resend, items)
		if err != nil {
			return err
		}
		if done, err = p.Store.Divert(ctx, tx, d, alternate.Name, left); err != nil || !done {
			return err
		}
		if err := p.Queue.Forget(ctx, tx, d.Job); err != nil {
			return err
		}
		event := store.Event{Stage: jobs.Deliver{}.Kind(), Job: d.Job, Outcome: "diverted", Detail: detail}
		if len(left) == 0 {
			event.Outcome = string(store.DeliveryDelivered)
			event.Detail = detail + "; which has got all of it already"
			err = p.Store.FinishDelivery(ctx, tx, d.ID, store.DeliveryDelivered, "the alternate "+alternate.Name+" gets it by another delivery")
		} else {
			var job int64
			if job, err = p.Queue.Deliver(ctx, tx, d.ID, alternate.Name, jobs.Priority(d.Priority), time.Time{}); err == nil {
				err = p.Store.SetDeliveryJob(ctx, tx, d.ID, job)
			}
		}
		return errors.Join(err, p.Store.AddEventTo(ctx, tx, ids, event))
	})
	if err == nil && done {
		p.Metrics.Diverted(from.Name, alternate.Name)
		p.Log.Warn().Str(d.Level.One(), d.ResourceID).Str("delivery", d.ID).Str("destination", from.Name).Str("alternate", alternate.Name).Msg("delivery goes to the alternate destination")
	}
	return err
}

func orNothing(text string) string {
	if text == "" {
		return "nothing was tried"
	}
	return text
}
