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

// Deliver brings one instance to one destination: through an asynchronous Orthanc job that it follows to its end, or by itself. What
// failed is tried again, as a new job, until GiveUpAfter.
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
	to := p.Destinations[d.Destination] // only configured destinations have a queue that is worked
	if held, err := p.held(ctx, job, d); held || err != nil {
		return err
	}
	if now := time.Now(); d.State == store.DeliveryPending {
		if opens := p.Rules.Set().Opens(d.Rule, now); opens.After(now) { // a retry, or a long queue, beyond the end of the rule's window
			return jobs.Later(opens.Sub(now))
		}
	}
	if overwritten, err := p.overwritten(ctx, d); err != nil {
		return p.undelivered(ctx, job, d, err)
	} else if overwritten {
		return p.finishDelivery(ctx, job, d, store.DeliveryGone, "overwritten: the new content goes where its own class belongs")
	}
	err = p.send(ctx, d, to)
	var snooze *rivertype.JobSnoozeError
	switch {
	case err == nil:
		return p.finishDelivery(ctx, job, d, store.DeliveryDelivered, "")
	case errors.As(err, &snooze) || ctx.Err() != nil:
		return err
	case errors.Is(err, store.ErrFinished): // cancelled between the reading and the sending: nothing was sent
		return p.Store.Tx(ctx, func(tx *sql.Tx) error { return jobs.Complete(ctx, tx, job) })
	}
	return p.undelivered(ctx, job, d, err)
}

// held stops a delivery while the brake is on, and ends one that the brake held until it was too old to be forwarded.
func (p *Pipeline) held(ctx context.Context, job *river.Job[jobs.Deliver], d store.Delivery) (bool, error) {
	state, err := p.Forwarding.State(ctx)
	if err != nil {
		return false, err
	}
	if d.State == store.DeliverySent { // already with Orthanc: only its end is to be noted
		return false, nil
	}
	if !state.On {
		return true, jobs.Later(jitter(heldPause))
	}
	if d.State != store.DeliveryPending {
		return false, nil
	}
	if d.Attempts == 0 && time.Since(d.May()) > p.GiveUpAfter { // the router was stopped, or forwarding off, for that long
		return true, p.finishDelivery(ctx, job, d, store.DeliveryExpired, fmt.Sprintf("not begun within give_up_after (%s)", p.GiveUpAfter))
	}
	if state.Since.After(d.May()) && time.Since(d.ReceivedAt) > p.RouteMaxAge {
		return true, p.finishDelivery(ctx, job, d, store.DeliveryExpired, fmt.Sprintf("held back until it was older than route_max_age (%s)", p.RouteMaxAge))
	}
	return false, nil
}

// heldPause is how long a delivery sleeps that the brake caught before RunBrake, which looks every second, paused its queue. It is
// also how long such a delivery may lag behind the release, so it is short: the paused queue holds it, not its sleep.
const heldPause = 2 * time.Second

// overwritten says whether Orthanc holds another content by now than the one that the rules have decided about.
func (p *Pipeline) overwritten(ctx context.Context, d store.Delivery) (bool, error) {
	if d.State != store.DeliveryPending {
		return false, nil
	}
	md5, err := p.Orthanc.AttachmentMD5(ctx, d.InstanceID)
	return err == nil && md5 != d.ContentMD5, err
}

// send takes the delivery from the state it is in to its arrival.
func (p *Pipeline) send(ctx context.Context, d store.Delivery, to delivery.Destination) error {
	switch kind := to.Kind.(type) {
	case delivery.Carrier:
		return p.sendByOrthanc(ctx, d, to, kind)
	case delivery.Sender:
		return p.sendOurselves(ctx, d, to, kind)
	default:
		return fmt.Errorf("destination %s: nothing sends to %v", to.Name, to.Kind)
	}
}

// sendByOrthanc hands the delivery to Orthanc as a job, unless Orthanc has one for it, and follows the job to its end.
func (p *Pipeline) sendByOrthanc(ctx context.Context, d store.Delivery, to delivery.Destination, by delivery.Carrier) error {
	if d.State == store.DeliverySubmitting {
		id, found, err := p.Jobs.Find(ctx, d, by)
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
		id, err := p.Jobs.Submit(ctx, d, by)
		if err != nil {
			return err
		}
		if err := p.Store.Sent(ctx, d.ID, id); err != nil {
			return err
		}
		d.OrthancJob = id
	}
	return p.Jobs.Follow(ctx, d.OrthancJob, to.Timeout)
}

// sendOurselves hands over without Orthanc. After a crash in between it is done again: the receiver knows the delivery's id.
func (p *Pipeline) sendOurselves(ctx context.Context, d store.Delivery, to delivery.Destination, by delivery.Sender) error {
	row, err := p.Store.Instance(ctx, d.InstanceID)
	if err != nil {
		return err
	}
	result, known, err := p.Store.Result(ctx, d.InstanceID, d.ContentMD5, row.Model)
	if err != nil {
		return err
	}
	if !known {
		return fmt.Errorf("the result of instance %s for this content is no longer kept", d.InstanceID)
	}
	if err := p.Store.Submitting(ctx, d.ID); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, to.Timeout)
	defer cancel()
	return by.Send(ctx, delivery.Parcel{
		Delivery: d, StudyID: row.StudyID, SeriesID: row.SeriesID, Result: result,
		File: func(ctx context.Context) ([]byte, error) { return p.Orthanc.File(ctx, d.InstanceID) },
	})
}

// undelivered gives a failed attempt its meaning. Where Orthanc did not answer, the delivery keeps its state, so that the next attempt
// looks for the job first and sends nothing twice.
func (p *Pipeline) undelivered(ctx context.Context, job *river.Job[jobs.Deliver], d store.Delivery, cause error) error {
	p.Metrics.Retry(job.Kind)
	if d.LastError != cause.Error() { // the same trouble is told once
		p.trouble(ctx, job.JobRow, d.InstanceID, fmt.Errorf("delivery %s to %s: %w", d.ID, d.Destination, cause), "delivery not made yet")
	}
	_, carried := p.Destinations[d.Destination].Kind.(delivery.Carrier)
	open := errors.Is(cause, delivery.ErrUncertain) || carried && orthanc.IsUnreachable(cause)
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
	if time.Since(d.May()) > p.GiveUpAfter {
		return p.finishDelivery(ctx, job, d, store.DeliveryFailed, fmt.Sprintf("not delivered within %s, at last: %v", p.GiveUpAfter, cause))
	}
	if open {
		if err := p.Store.DeliveryTrouble(ctx, d.ID, cause.Error()); err != nil {
			return err
		}
		return jobs.Later(p.gap())
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

// TakeUp mends, before the queue starts, what the last run left: work whose job was lost, deliveries to destinations that are no more,
// and a brake that was pulled while the router was down.
func (p *Pipeline) TakeUp(ctx context.Context) error {
	state, err := p.Forwarding.State(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(p.dropUnknown(ctx), p.Queue.HoldDeliveries(ctx, !state.On)); err != nil {
		return err
	}
	return p.Store.Tx(ctx, func(tx *sql.Tx) error {
		_, err := p.Queue.Repair(ctx, tx)
		return err
	})
}

// dropUnknown ends the open deliveries to destinations that the configuration no longer has, and forgets their jobs: no queue would ever
// work them.
func (p *Pipeline) dropUnknown(ctx context.Context) error {
	open, err := p.Store.Deliveries(ctx, store.DeliveryFilter{States: []store.DeliveryState{store.DeliveryPending, store.DeliverySubmitting, store.DeliverySent}})
	if err != nil {
		return err
	}
	for _, d := range open {
		if _, configured := p.Destinations[d.Destination]; configured {
			continue
		}
		const reason = "the configuration no longer has this destination"
		err := p.Store.Tx(ctx, func(tx *sql.Tx) error {
			return errors.Join(p.Store.FinishDelivery(ctx, tx, d.ID, store.DeliveryFailed, reason), p.Queue.Forget(ctx, tx, d.Job),
				p.Store.AddEvent(ctx, tx, store.Event{InstanceID: d.InstanceID, Stage: jobs.Deliver{}.Kind(), Job: d.Job, Outcome: string(store.DeliveryFailed), Detail: d.Destination + " " + d.ID + " " + reason}))
		})
		if err != nil {
			return err
		}
		p.Metrics.Delivered("unknown", string(store.DeliveryFailed), 0)
		p.Log.Error().Str("instance", d.InstanceID).Str("delivery", d.ID).Str("destination", d.Destination).Str("reason", reason).Msg("delivery ended")
	}
	return nil
}
