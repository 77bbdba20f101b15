package pipeline

import (
	"context"
	"fmt"

	"imagingrouter/sidecar/internal/delivery"
	"imagingrouter/sidecar/internal/store"
)

// resume finds out what has become of a delivery that was being submitted when the last attempt ended: Orthanc has a job for it, or it is pending, and
// what it sends is compared with what Orthanc holds now before it goes.
func (p *Pipeline) resume(ctx context.Context, d *store.Delivery, to delivery.Destination) error {
	by, carried := to.Kind.(delivery.Carrier)
	if !carried || d.State != store.DeliverySubmitting {
		return nil
	}
	parcel, _, err := p.pack(ctx, *d, to)
	if err != nil {
		return err
	}
	id, found, err := p.Jobs.Find(ctx, parcel, by, func(job string) (bool, error) { return p.Store.CarriesOther(ctx, job, d.ID) })
	if err != nil {
		return err
	}
	if !found {
		d.State = store.DeliveryPending
		return p.Store.Unsent(ctx, d.ID, d.LastError)
	}
	d.State, d.OrthancJob = store.DeliverySent, id
	return p.Store.Sent(ctx, d.ID, id)
}

// unsettled says of an error that came before Orthanc could be asked that Orthanc may have the delivery all the same.
func unsettled(d store.Delivery, to delivery.Destination, err error) error {
	if _, carried := to.Kind.(delivery.Carrier); !carried || d.State == store.DeliveryPending {
		return err
	}
	return fmt.Errorf("%w: %w", delivery.ErrUncertain, err)
}

// sendByOrthanc hands the delivery to Orthanc as a job, unless Orthanc has one for it, and follows the job to its end.
func (p *Pipeline) sendByOrthanc(ctx context.Context, parcel delivery.Parcel, to delivery.Destination, by delivery.Carrier) error {
	release, err := p.Jobs.Slot(ctx)
	if err != nil {
		return unsettled(parcel.Delivery, to, err)
	}
	defer release()
	if parcel.State != store.DeliverySent {
		if err := p.Store.Submitting(ctx, parcel.Delivery); err != nil {
			return err
		}
		id, err := p.Jobs.Submit(ctx, parcel, by)
		if err != nil {
			return err
		}
		if err := p.Store.Sent(ctx, parcel.ID, id); err != nil {
			return fmt.Errorf("%w: %w", delivery.ErrUncertain, err)
		}
		parcel.OrthancJob = id
	}
	return p.Jobs.Follow(ctx, parcel, by, parcel.OrthancJob, to.Timeout)
}
