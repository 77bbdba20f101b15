package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"imagingrouter/sidecar/internal/delivery"
	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// Deliver brings a set of instances to one destination: through an asynchronous Orthanc job that it follows to its end, or by itself. What
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
	if !d.FinishedAt.IsZero() || d.State == store.DeliveryHeld || d.Job != 0 && d.Job != job.ID { // nothing to do, or another job does it
		return p.Store.Tx(ctx, func(tx *sql.Tx) error { return jobs.Complete(ctx, tx, job) })
	}
	to := p.Destinations[d.To()] // only configured destinations have a queue that is worked
	if err := p.resume(ctx, &d, to); err != nil {
		return p.undelivered(ctx, job, d, unsettled(d, to, err))
	}
	if held, err := p.held(ctx, job, d); held || err != nil {
		return err
	}
	if now := time.Now(); d.State == store.DeliveryPending {
		if opens := p.Rules.Set().Opens(d.Rule, now); opens.After(now) { // a retry, or a long queue, beyond the end of the rule's window
			if err := p.Store.PostponeDelivery(ctx, d.ID, opens); err != nil {
				return err
			}
			return jobs.Later(opens.Sub(now))
		}
	}
	parcel, why, err := p.pack(ctx, d, to)
	switch {
	case err != nil:
		return p.undelivered(ctx, job, d, unsettled(d, to, err))
	case len(parcel.Parts) == 0:
		return p.finishDelivery(ctx, job, d, store.DeliveryGone, why)
	}
	send := func() error { return p.send(ctx, parcel, to) }
	if d.State == store.DeliverySent { // with Orthanc already: only its end is to be noted, whether the gate is open or not
		err = send()
	} else {
		err = to.Gate.Pass(ctx, d.ID, send)
	}
	var snooze *rivertype.JobSnoozeError
	switch {
	case err == nil:
		return p.finishDelivery(ctx, job, d, store.DeliveryDelivered, "")
	case errors.Is(err, delivery.ErrClosed):
		return jobs.Later(jitter(heldPause))
	case errors.As(err, &snooze) || ctx.Err() != nil:
		return err
	case errors.Is(err, store.ErrFinished): // cancelled or diverted between the reading and the sending: nothing was sent
		return p.Store.Tx(ctx, func(tx *sql.Tx) error { return jobs.Complete(ctx, tx, job) })
	}
	return p.undelivered(ctx, job, d, err)
}

// held stops a delivery while the brake is on or its destination is paused, and ends one that the brake held until it was too old to be forwarded.
func (p *Pipeline) held(ctx context.Context, job *river.Job[jobs.Deliver], d store.Delivery) (bool, error) {
	if d.State == store.DeliverySent { // already with Orthanc: only its end is to be noted
		return false, nil
	}
	state, err := p.Forwarding.State(ctx)
	if err != nil {
		return false, err
	}
	paused, err := p.Paused(ctx, d.To())
	if err != nil {
		return false, err
	}
	if !state.On || paused.On {
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

// heldPause is how long a delivery sleeps that the brake caught before RunGates, which looks every second, paused its queue. It is
// also how long such a delivery may lag behind the release, so it is short: the paused queue holds it, not its sleep.
const heldPause = 2 * time.Second

// pack returns the delivery with what it sends. What is no longer what the rules decided about is left out for good: an instance that was
// deleted, or overwritten by another content, which goes where its own class belongs. why says so when nothing is left.
func (p *Pipeline) pack(ctx context.Context, d store.Delivery, to delivery.Destination) (parcel delivery.Parcel, why string, err error) {
	parcel = delivery.Parcel{Delivery: d, TransferSyntax: to.TransferSyntax, File: p.file(to)}
	items, err := p.Store.Items(ctx, d.ID)
	if err != nil {
		return parcel, "", err
	}
	why = "nothing is left of it"
	if d.State == store.DeliveryPending {
		if items, why, err = p.stillThere(ctx, d, items); err != nil {
			return parcel, "", err
		}
	}
	for _, item := range items {
		if item.Dropped != "" {
			why = item.Dropped
			continue
		}
		part, err := p.part(ctx, d, item)
		if err != nil {
			return parcel, "", err
		}
		parcel.Parts = append(parcel.Parts, part)
	}
	if _, ourselves := to.Kind.(delivery.Sender); ourselves {
		err = p.nameSeries(ctx, parcel.Parts)
	}
	return parcel, why, err
}

// nameSeries asks Orthanc for the series of what the router does not look at, for files that are named after it.
func (p *Pipeline) nameSeries(ctx context.Context, parts []delivery.Part) error {
	var ids []string
	for _, part := range parts {
		if part.SeriesID == "" {
			ids = append(ids, part.InstanceID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	present, err := p.presentIDs(ctx, ids)
	for i := range parts {
		if inst, there := present[parts[i].InstanceID]; there && parts[i].SeriesID == "" {
			parts[i].SeriesID = inst.ParentSeries
		}
	}
	return err
}

func (p *Pipeline) part(ctx context.Context, d store.Delivery, item store.Item) (delivery.Part, error) {
	part := delivery.Part{Item: item}
	row, err := p.Store.Instance(ctx, item.InstanceID)
	if errors.Is(err, store.ErrUnknown) { // a report, a CT: it goes with its study
		return part, nil
	}
	if err != nil {
		return part, err
	}
	part.SeriesID, part.State = row.SeriesID, row.State
	part.Result, part.Known, err = p.Store.Result(ctx, item.InstanceID, item.ContentMD5, row.Model)
	if err == nil && !part.Known && d.Level == store.LevelInstance {
		err = fmt.Errorf("the result of instance %s for this content is no longer kept", item.InstanceID)
	}
	return part, err
}

// The reasons why an instance of a delivery is not sent after all.
const (
	whyDeleted     = "deleted in Orthanc"
	whyOverwritten = "overwritten: the new content goes where its own class belongs"
)

// stillThere compares what the delivery shall send with what Orthanc holds now, and drops what has changed.
func (p *Pipeline) stillThere(ctx context.Context, d store.Delivery, items []store.Item) (left []store.Item, why string, err error) {
	drop := func(item store.Item, reason string) error {
		why = reason
		return p.Store.DropItem(ctx, d.ID, item.InstanceID, reason)
	}
	var ids []string
	for _, item := range items {
		if item.Dropped == "" {
			ids = append(ids, item.InstanceID)
		}
	}
	if len(items) == 1 && len(ids) == 1 && items[0].ContentMD5 != "" { // the usual case, in one request
		if md5, err := p.Orthanc.AttachmentMD5(ctx, ids[0]); err == nil && md5 == items[0].ContentMD5 {
			return items, "", nil
		} else if err != nil && !orthanc.IsNotFound(err) {
			return nil, "", err
		}
	}
	present, err := p.there(ctx, ids)
	if err != nil {
		return nil, "", err
	}
	for _, item := range items {
		inst, there := present[item.InstanceID]
		switch {
		case item.Dropped != "":
			why = item.Dropped
			continue
		case !there:
			err = drop(item, whyDeleted)
		case inst.FileUUID == item.FileUUID:
			left = append(left, item)
		case item.ContentMD5 == "":
			err = drop(item, whyOverwritten)
		default: // stored again: perhaps the same
			md5, asked := p.Orthanc.AttachmentMD5(ctx, item.InstanceID)
			switch {
			case asked != nil:
				err = asked
			case md5 != item.ContentMD5:
				err = drop(item, whyOverwritten)
			default:
				left = append(left, item)
			}
		}
		if err != nil {
			return nil, "", err
		}
	}
	return left, why, nil
}

// there returns what Orthanc holds of the instances; what it leaves out is asked for again after a pause, since one miss proves nothing.
func (p *Pipeline) there(ctx context.Context, ids []string) (map[string]orthanc.Instance, error) {
	present, err := p.presentIDs(ctx, ids)
	if err != nil || len(present) == len(ids) {
		return present, err
	}
	if _, err := p.Orthanc.System(ctx); err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(p.GonePause):
	}
	return p.presentIDs(ctx, ids)
}

// file returns how a destination's files are fetched: as they are stored, or in its transfer syntax, decoded by Orthanc.
func (p *Pipeline) file(to delivery.Destination) func(ctx context.Context, instance string, use func([]byte) error) error {
	return func(ctx context.Context, instance string, use func([]byte) error) error {
		inst, err := p.Orthanc.Instance(ctx, instance)
		if err != nil {
			return err
		}
		size := inst.FileSize
		if to.TransferSyntax != "" {
			size = p.Files.Size() // not known before it is there: nobody else holds one meanwhile
		}
		giveBack, err := p.Files.Take(ctx, size)
		if err != nil {
			return err
		}
		defer giveBack()
		var content []byte
		if to.TransferSyntax == "" {
			content, err = p.Orthanc.File(ctx, instance)
		} else {
			content, err = p.Orthanc.FileTranscoded(ctx, instance, to.TransferSyntax)
		}
		if err != nil {
			return err
		}
		return use(content)
	}
}

// send takes the delivery from the state it is in to its arrival.
func (p *Pipeline) send(ctx context.Context, parcel delivery.Parcel, to delivery.Destination) error {
	if err := p.mayTranscode(ctx, parcel); err != nil {
		return err
	}
	switch kind := to.Kind.(type) {
	case delivery.Carrier:
		return p.sendByOrthanc(ctx, parcel, to, kind)
	case delivery.Sender:
		return p.sendOurselves(ctx, parcel, to, kind)
	default:
		return fmt.Errorf("destination %s: nothing sends to %v", to.Name, to.Kind)
	}
}

// mayTranscode keeps a request from Orthanc that is known to kill it.
func (p *Pipeline) mayTranscode(ctx context.Context, parcel delivery.Parcel) error {
	if parcel.TransferSyntax == "" || parcel.State == store.DeliverySent {
		return nil
	}
	list, err := p.Orthanc.Instances(ctx, parcel.Instances())
	if err != nil {
		return err
	}
	for _, i := range list {
		stored := i.Metadata["TransferSyntax"]
		if stored == parcel.TransferSyntax {
			continue
		}
		if deadly, err := p.transcodingKills(ctx, stored); err != nil || deadly {
			if err == nil {
				err = fmt.Errorf("instance %s is JPEG 2000 (%s): this Orthanc's GDCM plugin is known to die from decoding it, so it is not asked to; use Orthanc 1.13 or leave transfer_syntax out", i.ID, stored)
			}
			return err
		}
	}
	return nil
}

// sendOurselves hands over without Orthanc. After a crash in between it is done again: the receiver knows the delivery's id.
func (p *Pipeline) sendOurselves(ctx context.Context, parcel delivery.Parcel, to delivery.Destination, by delivery.Sender) error {
	if err := p.Store.Submitting(ctx, parcel.Delivery); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, to.Timeout)
	defer cancel()
	return by.Send(ctx, parcel)
}

// undelivered gives a failed attempt its meaning. Where it is open what became of Orthanc's job, the delivery keeps its state, so that the next
// attempt looks for the job first and sends nothing twice.
func (p *Pipeline) undelivered(ctx context.Context, job *river.Job[jobs.Deliver], d store.Delivery, cause error) error {
	p.Metrics.Retry(job.Kind)
	if !sameTrouble(d.LastError, cause.Error()) { // the same trouble is told once
		p.Log.Warn().Err(cause).Str(d.Level.One(), d.ResourceID).Str("delivery", d.ID).Str("destination", d.To()).Int64("job", job.ID).Int("attempt", job.Attempt).Msg("delivery not made yet")
		if err := p.tell(ctx, d, store.Event{Stage: job.Kind, Job: job.ID, Attempt: job.Attempt, Outcome: "error", Detail: fmt.Sprintf("%s %s %v", d.To(), d.ID, cause)}); err != nil {
			return err
		}
	}
	_, carried := p.Destinations[d.To()].Kind.(delivery.Carrier)
	open := errors.Is(cause, delivery.ErrUncertain) || carried && orthanc.IsUnreachable(cause)
	if !open {
		if err := p.Store.Unsent(ctx, d.ID, cause.Error()); err != nil {
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
		if !orthanc.IsUnreachable(cause) { // a cancelled job that still hangs: Orthanc itself is well
			return jobs.Later(jitter(heldPause))
		}
		return jobs.Later(p.gap())
	}
	return cause
}

// jobID matches the identifiers of Orthanc's jobs: each attempt has another one.
var jobID = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

func sameTrouble(a, b string) bool {
	return jobID.ReplaceAllString(a, "") == jobID.ReplaceAllString(b, "")
}

// Excused says of a failed attempt that it is not the destination's fault, for its gate.
func (p *Pipeline) Excused(kind delivery.Kind) func(error) bool {
	_, posts := kind.(*delivery.Webhook) // the one kind whose own errors look like those of an Orthanc that does not answer
	return func(err error) bool {
		return errors.Is(err, context.Canceled) || errors.Is(err, store.ErrFinished) || errors.Is(err, delivery.ErrUncertain) ||
			errors.Is(err, delivery.ErrJobLost) || !posts && orthanc.IsUnreachable(err)
	}
}

// tell adds a line to the story of every instance of a delivery.
func (p *Pipeline) tell(ctx context.Context, d store.Delivery, e store.Event) error {
	ids, err := p.itemIDs(ctx, d)
	if err != nil {
		return err
	}
	return p.Store.Tx(ctx, func(tx *sql.Tx) error { return p.Store.AddEventTo(ctx, tx, ids, e) })
}

func (p *Pipeline) itemIDs(ctx context.Context, d store.Delivery) ([]string, error) {
	items, err := p.Store.Items(ctx, d.ID)
	ids := make([]string, len(items))
	for i, item := range items {
		ids[i] = item.InstanceID
	}
	return ids, err
}

func (p *Pipeline) finishDelivery(ctx context.Context, job *river.Job[jobs.Deliver], d store.Delivery, state store.DeliveryState, reason string) error {
	took := time.Since(d.CreatedAt)
	ids, err := p.itemIDs(ctx, d)
	if err != nil {
		return err
	}
	detail := d.To() + " " + d.ID
	if d.Level != store.LevelInstance {
		detail += " with its " + d.Level.One()
	}
	if reason != "" {
		detail += " " + reason
	}
	err = p.Store.Tx(ctx, func(tx *sql.Tx) error {
		if err := p.Store.FinishDelivery(ctx, tx, d.ID, state, reason); err != nil {
			return err
		}
		if err := p.Store.AddEventTo(ctx, tx, ids, store.Event{Stage: job.Kind, Job: job.ID, Attempt: job.Attempt, Outcome: string(state), Detail: detail, Took: took}); err != nil {
			return err
		}
		return jobs.Complete(ctx, tx, job)
	})
	if err != nil {
		return err
	}
	p.Metrics.Delivered(d.To(), string(state), took)
	event := p.Log.Info()
	if state != store.DeliveryDelivered {
		event = p.Log.Error().Str("reason", reason)
	}
	event.Str(d.Level.One(), d.ResourceID).Int("instances", len(ids)).Str("delivery", d.ID).Str("destination", d.To()).Str("state", string(state)).
		Int64("job", job.ID).Int("attempt", job.Attempt).Dur("took", took).Msg("delivery ended")
	return nil
}

// TakeUp mends, before the queue starts, what the last run left: work whose job was lost, deliveries to destinations that are no more,
// and queues that have to be held from the first moment on.
func (p *Pipeline) TakeUp(ctx context.Context) error {
	if err := errors.Join(p.dropUnknown(ctx), p.hold(ctx), p.Volume.TakeUp(ctx)); err != nil {
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
	open, err := p.Store.Deliveries(ctx, store.DeliveryFilter{States: store.OpenDeliveries()})
	if err != nil {
		return err
	}
	for _, d := range open {
		if _, configured := p.Destinations[d.To()]; configured {
			continue
		}
		ids, err := p.itemIDs(ctx, d)
		if err != nil {
			return err
		}
		const reason = "the configuration no longer has this destination"
		err = p.Store.Tx(ctx, func(tx *sql.Tx) error {
			return errors.Join(p.Store.FinishDelivery(ctx, tx, d.ID, store.DeliveryFailed, reason), p.Queue.Forget(ctx, tx, d.Job),
				p.Store.AddEventTo(ctx, tx, ids, store.Event{Stage: jobs.Deliver{}.Kind(), Job: d.Job, Outcome: string(store.DeliveryFailed), Detail: d.To() + " " + d.ID + " " + reason}))
		})
		if err != nil {
			return err
		}
		p.Metrics.Delivered("unknown", string(store.DeliveryFailed), 0)
		p.Log.Error().Str(d.Level.One(), d.ResourceID).Str("delivery", d.ID).Str("destination", d.To()).Str("reason", reason).Msg("delivery ended")
	}
	return nil
}
