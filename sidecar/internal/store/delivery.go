package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// DeliveryState is where a delivery stands. docs/architecture.md draws the ways between them.
type DeliveryState string

// The states of a delivery. The last five are ends.
const (
	DeliveryPending    DeliveryState = "pending"    // not yet handed to Orthanc (or to be handed over again)
	DeliverySubmitting DeliveryState = "submitting" // being handed over: after a crash Orthanc may have a job for it
	DeliverySent       DeliveryState = "sent"       // Orthanc has a job for it
	DeliveryDelivered  DeliveryState = "delivered"  // Orthanc's job ended with success
	DeliveryExpired    DeliveryState = "expired"    // held back until the instance was older than route_max_age
	DeliveryCancelled  DeliveryState = "cancelled"  // by command, before it was handed over
	DeliveryGone       DeliveryState = "gone"       // the instance was deleted before it could be sent
	DeliveryFailed     DeliveryState = "failed"     // given up after give_up_after; `jobs retry` takes it up again
)

// DeliveryStates lists all states in the order of a delivery's life.
func DeliveryStates() []DeliveryState {
	return []DeliveryState{DeliveryPending, DeliverySubmitting, DeliverySent, DeliveryDelivered, DeliveryExpired, DeliveryCancelled, DeliveryGone, DeliveryFailed}
}

// Delivery is the sending of one content of one instance to one destination. Its ID is stable over all attempts.
type Delivery struct {
	ID          string
	InstanceID  string
	ContentMD5  string
	Destination string
	Rule        string
	State       DeliveryState
	OrthancJob  string
	Job         int64
	Attempts    int
	Reason      string
	LastError   string
	Priority    int       // in the destination's queue: 1 goes before 2 before 3
	NotBefore   time.Time // the rule's schedule; zero = at once
	ReceivedAt  time.Time
	CreatedAt   time.Time
	SubmittedAt time.Time
	FinishedAt  time.Time
}

// NormalPriority is a delivery's place in its queue where no rule says otherwise.
const NormalPriority = 2

// May returns since when the delivery may be tried: its creation, or later, when its rule's schedule opened. What is measured in time
// (give_up_after, the brake) counts from here.
func (d Delivery) May() time.Time {
	if d.NotBefore.After(d.CreatedAt) {
		return d.NotBefore
	}
	return d.CreatedAt
}

const deliveryColumns = `id, instance_id, content_md5, destination, rule, state, orthanc_job, job, attempts, reason, last_error,
	priority, not_before, received_at, created_at, submitted_at, finished_at`

func scanDelivery(row scanner) (Delivery, error) {
	var d Delivery
	var notBefore, received, created, submitted, finished int64
	err := row.Scan(&d.ID, &d.InstanceID, &d.ContentMD5, &d.Destination, &d.Rule, &d.State, &d.OrthancJob, &d.Job, &d.Attempts, &d.Reason,
		&d.LastError, &d.Priority, &notBefore, &received, &created, &submitted, &finished)
	d.NotBefore, d.ReceivedAt, d.CreatedAt, d.SubmittedAt, d.FinishedAt = fromMillis(notBefore), fromMillis(received), fromMillis(created), fromMillis(submitted), fromMillis(finished)
	return d, err
}

// AddDelivery creates within tx the delivery of one content to one destination, unless there already was one; created says which.
func (s *Store) AddDelivery(ctx context.Context, tx *sql.Tx, d Delivery) (_ Delivery, created bool, err error) {
	d.ID, d.State, d.CreatedAt = uuid.NewString(), DeliveryPending, fromMillis(s.millis())
	if d.Priority == 0 {
		d.Priority = NormalPriority
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO delivery (id, instance_id, content_md5, destination, rule, state, priority, not_before, received_at, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (instance_id, content_md5, destination) DO NOTHING`,
		d.ID, d.InstanceID, d.ContentMD5, d.Destination, d.Rule, d.State, d.Priority, toMillis(d.NotBefore), toMillis(d.ReceivedAt), toMillis(d.CreatedAt))
	if err != nil {
		return d, false, fmt.Errorf("create delivery of instance %s to %s: %w", d.InstanceID, d.Destination, err)
	}
	n, err := res.RowsAffected()
	return d, n == 1, wrap(err, "create delivery of instance %s to %s", d.InstanceID, d.Destination)
}

// SetDeliveryJob notes within tx which unfinished job works on the delivery; 0 for none.
func (s *Store) SetDeliveryJob(ctx context.Context, tx *sql.Tx, id string, job int64) error {
	_, err := tx.ExecContext(ctx, "UPDATE delivery SET job = ? WHERE id = ?", job, id)
	return wrap(err, "note job of delivery %s", id)
}

// Delivery returns one delivery, ErrUnknown when there is none.
func (s *Store) Delivery(ctx context.Context, id string) (Delivery, error) {
	d, err := scanDelivery(s.read.QueryRowContext(ctx, "SELECT "+deliveryColumns+" FROM delivery WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return d, fmt.Errorf("delivery %s: %w", id, ErrUnknown)
	}
	return d, wrap(err, "read delivery %s", id)
}

// Submitting notes that the delivery is about to be handed to Orthanc, and counts the attempt. It is written before the request
// leaves: whoever finds this state after a crash must look for a job in Orthanc before sending again.
func (s *Store) Submitting(ctx context.Context, id string) error {
	res, err := s.write.ExecContext(ctx, `UPDATE delivery SET state = 'submitting', orthanc_job = '', attempts = attempts + 1, submitted_at = ?
		WHERE id = ? AND finished_at = 0`, s.millis(), id)
	if err != nil {
		return fmt.Errorf("note submission of delivery %s: %w", id, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return wrap(err, "note submission of delivery %s", id)
	}
	return fmt.Errorf("delivery %s: %w", id, ErrFinished)
}

// ErrFinished says that a delivery has come to its end, by command, since it was read.
var ErrFinished = errors.New("has ended in the meantime")

// Sent notes the Orthanc job that carries the delivery.
func (s *Store) Sent(ctx context.Context, id, orthancJob string) error {
	_, err := s.write.ExecContext(ctx, "UPDATE delivery SET state = 'sent', orthanc_job = ? WHERE id = ?", orthancJob, id)
	return wrap(err, "note Orthanc job of delivery %s", id)
}

// Unsent notes that the last attempt failed and why: the delivery is pending again.
func (s *Store) Unsent(ctx context.Context, id, text string) error {
	_, err := s.write.ExecContext(ctx, "UPDATE delivery SET state = 'pending', orthanc_job = '', last_error = ? WHERE id = ?", text, id)
	return wrap(err, "note failure of delivery %s", id)
}

// DeliveryTrouble notes why a delivery waits whose outcome is open.
func (s *Store) DeliveryTrouble(ctx context.Context, id, text string) error {
	_, err := s.write.ExecContext(ctx, "UPDATE delivery SET last_error = ? WHERE id = ?", text, id)
	return wrap(err, "note trouble of delivery %s", id)
}

// FinishDelivery notes within tx the end of a delivery.
func (s *Store) FinishDelivery(ctx context.Context, tx *sql.Tx, id string, state DeliveryState, reason string) error {
	_, err := tx.ExecContext(ctx, "UPDATE delivery SET state = ?, reason = ?, job = 0, finished_at = ? WHERE id = ?", state, reason, s.millis(), id)
	return wrap(err, "finish delivery %s", id)
}

// CancelDelivery ends a delivery that was not handed over yet, and says whether it did: one that Orthanc has is not called back.
func (s *Store) CancelDelivery(ctx context.Context, id, reason string) (bool, error) {
	res, err := s.write.ExecContext(ctx, "UPDATE delivery SET state = 'cancelled', reason = ?, finished_at = ? WHERE id = ? AND state = 'pending'", reason, s.millis(), id)
	if err != nil {
		return false, fmt.Errorf("cancel delivery %s: %w", id, err)
	}
	n, err := res.RowsAffected()
	return n == 1, wrap(err, "cancel delivery %s", id)
}

// ReopenDelivery takes up within tx a delivery that had ended without success. It may go at once: its schedule, where the rule still has
// one, holds it again at its turn.
func (s *Store) ReopenDelivery(ctx context.Context, tx *sql.Tx, id string) error {
	_, err := tx.ExecContext(ctx, `UPDATE delivery SET state = 'pending', reason = '', finished_at = 0, created_at = ?, not_before = 0, orthanc_job = ''
		WHERE id = ?`, s.millis(), id)
	return wrap(err, "reopen delivery %s", id)
}

// DeliveryFilter selects deliveries for the commands.
type DeliveryFilter struct {
	States      []DeliveryState
	InstanceID  string
	Destination string
	Limit       int // 0 = all
}

// Deliveries lists deliveries, newest first.
func (s *Store) Deliveries(ctx context.Context, f DeliveryFilter) ([]Delivery, error) {
	query, args := "SELECT "+deliveryColumns+" FROM delivery WHERE true", []any{}
	if len(f.States) > 0 {
		query += " AND state IN (" + marks(len(f.States)) + ")"
		for _, st := range f.States {
			args = append(args, st)
		}
	}
	if f.InstanceID != "" {
		query, args = query+" AND instance_id = ?", append(args, f.InstanceID)
	}
	if f.Destination != "" {
		query, args = query+" AND destination = ?", append(args, f.Destination)
	}
	query += " ORDER BY created_at DESC, id"
	if f.Limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", f.Limit)
	}
	return collect(ctx, s.read, scanDelivery, query, args...)
}

// DeliveryCount is the number of deliveries of one destination in one state.
type DeliveryCount struct {
	Destination string
	State       DeliveryState
	N           int64
}

// DeliveryCounts counts the deliveries by destination and state.
func (s *Store) DeliveryCounts(ctx context.Context) ([]DeliveryCount, error) {
	return collect(ctx, s.read, func(sc scanner) (DeliveryCount, error) {
		var c DeliveryCount
		return c, sc.Scan(&c.Destination, &c.State, &c.N)
	}, "SELECT destination, state, count(*) FROM delivery GROUP BY destination, state ORDER BY destination, state")
}
