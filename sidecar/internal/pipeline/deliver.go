package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"imagingrouter/sidecar/internal/delivery"
	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// Deliver brings one instance to one destination: it submits an asynchronous Orthanc job and follows it to its end. A failed one is
// tried again as a new job until GiveUpAfter.
func (p *Pipeline) Deliver(ctx context.Context, job *river.Job[jobs.Deliver]) (err error) {
	d, err := p.Store.Delivery(ctx, job.Args.Delivery)
	if err != nil {
		return err
	}
	defer func() {
		if v := recover(); v != nil {
			err = p.undelivered(ctx, job, d, fmt.Errorf("panic: %s", panicText(v)))
		}
	}()
	if !d.FinishedAt.IsZero() {
		return p.Store.Tx(ctx, func(tx *sql.Tx) error { return jobs.Complete(ctx, tx, job) })
	}
	to, configured := p.Destinations[d.Destination]
	if !configured {
		return p.finishDelivery(ctx, job, d, store.DeliveryFailed, "the configuration no longer has this destination")
	}
	if held, err := p.held(ctx, job, d); held || err != nil {
		return err
	}
	err = p.send(ctx, d, to)
	var snooze *rivertype.JobSnoozeError
	switch {
	case err == nil:
		return p.finishDelivery(ctx, job, d, store.DeliveryDelivered, "")
	case errors.As(err, &snooze) || ctx.Err() != nil:
		return err
	}
	return p.undelivered(ctx, job, d, err)
}

// held stops a delivery while the brake is on, and ends one that the brake held until it was too old to be forwarded.
func (p *Pipeline) held(ctx context.Context, job *river.Job[jobs.Deliver], d store.Delivery) (bool, error) {
	state, err := p.Forwarding.State(ctx)
	if err != nil {
		return false, err
	}
	if d.State != store.DeliveryPending { // already with Orthanc: only its end is to be noted
		return false, nil
	}
	if !state.On {
		return true, jobs.Later(jitter(heldPause))
	}
	if state.Since.After(d.CreatedAt) && time.Since(d.ReceivedAt) > p.RouteMaxAge {
		return true, p.finishDelivery(ctx, job, d, store.DeliveryExpired, fmt.Sprintf("held back until it was older than route_max_age (%s)", p.RouteMaxAge))
	}
	return false, nil
}

// heldPause is how long a delivery sleeps that the brake caught before RunBrake, which looks every second, paused its queue. It is
// also how long such a delivery may lag behind the release, so it is short: the paused queue holds it, not its sleep.
const heldPause = 2 * time.Second

// send takes the delivery from the state it is in to its arrival.
func (p *Pipeline) send(ctx context.Context, d store.Delivery, to delivery.Destination) error {
	if d.State == store.DeliverySubmitting {
		id, found, err := p.Peers.Find(ctx, d, to)
		if err != nil {
			return err
		}
		if found {
			if err := p.Store.Sent(ctx, d.ID, id); err != nil {
				return err
			}
			d.State, d.OrthancJob = store.DeliverySent, id
		}
	}
	if d.State != store.DeliverySent {
		if err := p.Store.Submitting(ctx, d.ID); err != nil {
			return err
		}
		id, err := p.Peers.Submit(ctx, d, to)
		if err != nil {
			return err
		}
		if err := p.Store.Sent(ctx, d.ID, id); err != nil {
			return err
		}
		d.OrthancJob = id
	}
	return p.Peers.Follow(ctx, d.OrthancJob, to.Timeout)
}

// undelivered gives a failed attempt its meaning. Where Orthanc did not answer, the delivery keeps its state, so that the next attempt
// looks for the job first and sends nothing twice.
func (p *Pipeline) undelivered(ctx context.Context, job *river.Job[jobs.Deliver], d store.Delivery, cause error) error {
	p.Metrics.Retry(job.Kind)
	p.trouble(ctx, job.JobRow, d.InstanceID, fmt.Errorf("delivery %s to %s: %w", d.ID, d.Destination, cause), "delivery not made yet")
	open := errors.Is(cause, delivery.ErrUncertain) || orthanc.IsUnreachable(cause)
	if !open {
		if err := p.Store.Unsent(ctx, d.ID, cause.Error()); err != nil {
			return err
		}
		_, err := p.Orthanc.Instance(ctx, d.InstanceID)
		if orthanc.IsNotFound(err) {
			err = p.missing(ctx, d.InstanceID)
			var e *ended
			if errors.As(err, &e) {
				return p.finishDelivery(ctx, job, d, store.DeliveryGone, e.reason)
			}
			return err
		}
	}
	if time.Since(d.CreatedAt) > p.GiveUpAfter {
		return p.finishDelivery(ctx, job, d, store.DeliveryFailed, fmt.Sprintf("not delivered within %s, at last: %v", p.GiveUpAfter, cause))
	}
	if open {
		return jobs.Later(jitter(p.ReconnectGap))
	}
	return cause
}

func (p *Pipeline) finishDelivery(ctx context.Context, job *river.Job[jobs.Deliver], d store.Delivery, state store.DeliveryState, reason string) error {
	took := time.Since(d.CreatedAt)
	err := p.Store.Tx(ctx, func(tx *sql.Tx) error {
		if err := p.Store.FinishDelivery(ctx, tx, d.ID, state, reason); err != nil {
			return err
		}
		if err := p.Store.AddEvent(ctx, tx, store.Event{InstanceID: d.InstanceID, Stage: job.Kind, Job: job.ID, Attempt: job.Attempt,
			Outcome: string(state), Detail: d.Destination + " " + d.ID + " " + reason, Took: took}); err != nil {
			return err
		}
		return jobs.Complete(ctx, tx, job)
	})
	if err != nil {
		return err
	}
	p.Metrics.Delivered(d.Destination, string(state), took)
	event := p.Log.Info()
	if state != store.DeliveryDelivered {
		event = p.Log.Error().Str("reason", reason)
	}
	event.Str("instance", d.InstanceID).Str("delivery", d.ID).Str("destination", d.Destination).Str("state", string(state)).
		Int64("job", job.ID).Int("attempt", job.Attempt).Dur("took", took).Msg("delivery ended")
	return nil
}
