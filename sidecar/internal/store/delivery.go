package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// DeliveryState is where a delivery stands. docs/architecture.md draws the ways between them.
type DeliveryState string

// The states of a delivery. The last five are ends.
const (
	DeliveryHeld       DeliveryState = "held"       // by the volume brake: a person releases or cancels it
	DeliveryPending    DeliveryState = "pending"    // not yet handed over (or to be handed over again)
	DeliverySubmitting DeliveryState = "submitting" // being handed over: after a crash Orthanc may have a job for it
	DeliverySent       DeliveryState = "sent"       // Orthanc has a job for it
	DeliveryDelivered  DeliveryState = "delivered"  // the destination has it
	DeliveryExpired    DeliveryState = "expired"    // held back until it was older than route_max_age
	DeliveryCancelled  DeliveryState = "cancelled"  // by command, before it was handed over
	DeliveryGone       DeliveryState = "gone"       // all that it would have sent was deleted or overwritten
	DeliveryFailed     DeliveryState = "failed"     // given up after give_up_after; `deliveries retry` takes it up again
)

// DeliveryStates lists all states in the order of a delivery's life.
func DeliveryStates() []DeliveryState {
	return append(OpenDeliveries(), DeliveryDelivered, DeliveryExpired, DeliveryCancelled, DeliveryGone, DeliveryFailed)
}

// OpenDeliveries lists the states of deliveries that have not come to an end.
func OpenDeliveries() []DeliveryState {
	return []DeliveryState{DeliveryHeld, DeliveryPending, DeliverySubmitting, DeliverySent}
}

// Level is a level of the DICOM hierarchy: of a delivery, and of what is waited for. The words are those of Orthanc's URLs.
type Level string

// The levels.
const (
	LevelInstance Level = "instances"
	LevelSeries   Level = "series"
	LevelStudy    Level = "studies"
)

// One is the level's name for one resource of it: instance, series, study.
func (l Level) One() string {
	return map[Level]string{LevelInstance: "instance", LevelSeries: "series", LevelStudy: "study"}[l]
}

// Delivery is the sending of a set of instances to one destination. Its ID is stable over all attempts.
type Delivery struct {
	ID          string
	Level       Level
	ResourceID  string // of the level: of an instance, a series or a study
	StudyID     string
	Content     string // the instance's MD5, else a digest of the items
	Instances   int    // how many the set had when it was made
	Destination string // that the rule names
	Via         string // the alternate destination that it goes to instead; "" = Destination
	Rule        string
	State       DeliveryState
	OrthancJob  string
	Job         int64
	Attempts    int
	Reason      string
	LastError   string
	Priority    int       // in the destination's queue: 1 goes before 2 before 3
	NotBefore   time.Time // the rule's schedule; zero = at once
	ReceivedAt  time.Time // of the newest instance, by Orthanc
	CreatedAt   time.Time
	Since       time.Time // the creation, or when it was taken up again by command
	SubmittedAt time.Time
	FinishedAt  time.Time
}

// NormalPriority is a delivery's place in its queue where no rule says otherwise.
const NormalPriority = 2

// May returns since when the delivery may be tried: its creation, or later, when its rule's schedule opened. What is measured in time
// (give_up_after, the brake) counts from here.
func (d Delivery) May() time.Time {
	if d.NotBefore.After(d.Since) {
		return d.NotBefore
	}
	return d.Since
}

// To is the destination that the delivery goes to: the one that the rule names, or its alternate.
func (d Delivery) To() string {
	if d.Via != "" {
		return d.Via
	}
	return d.Destination
}

// Subject names what is delivered: "instance 4165…", "study 6b9e… (3 instances)".
func (d Delivery) Subject() string {
	if d.Level == LevelInstance {
		return "instance " + d.ResourceID
	}
	return fmt.Sprintf("%s %s (%d instances)", d.Level.One(), d.ResourceID, d.Instances)
}

// Item is one instance of a delivery's set.
type Item struct {
	InstanceID string
	ContentMD5 string // "" for what the router does not look at
	FileUUID   string // Orthanc's name of the stored file; "" in rows of older releases
	Dropped    string // why it is not sent after all; "" = it is sent
}

// Resend says what becomes of an instance that a destination had before.
type Resend string

// The policies. The zero value is ResendChanged.
const (
	ResendNever   Resend = "never"   // a destination gets an instance once, whatever is stored later under its identifier
	ResendChanged Resend = "changed" // again when its content has changed
	ResendAlways  Resend = "always"  // again whenever it was stored again
)

const deliveryColumns = `d.id, d.level, d.resource_id, d.study_id, d.content, d.instances, d.destination, d.via, d.rule, d.state, d.orthanc_job, d.job,
	d.attempts, d.reason, d.last_error, d.priority, d.not_before, d.received_at, d.created_at, d.since, d.submitted_at, d.finished_at`

func scanDelivery(row scanner) (Delivery, error) {
	var d Delivery
	var notBefore, received, created, since, submitted, finished int64
	err := row.Scan(&d.ID, &d.Level, &d.ResourceID, &d.StudyID, &d.Content, &d.Instances, &d.Destination, &d.Via, &d.Rule, &d.State, &d.OrthancJob, &d.Job,
		&d.Attempts, &d.Reason, &d.LastError, &d.Priority, &notBefore, &received, &created, &since, &submitted, &finished)
	d.NotBefore, d.ReceivedAt, d.CreatedAt, d.Since = fromMillis(notBefore), fromMillis(received), fromMillis(created), fromMillis(since)
	d.SubmittedAt, d.FinishedAt = fromMillis(submitted), fromMillis(finished)
	return d, err
}

// Uncovered returns within tx those of the items that the destination has not got and is not getting, by the policy.
func (s *Store) Uncovered(ctx context.Context, tx *sql.Tx, destination string, policy Resend, items []Item) ([]Item, error) {
	condition := " AND (content_md5 = ? AND content_md5 <> '' OR content_md5 = '' AND file_uuid = ?)"
	switch policy {
	case ResendNever:
		condition = " AND (true OR content_md5 = ? OR file_uuid = ?)"
	case ResendAlways:
		condition = " AND (content_md5 = ? AND file_uuid = '' OR file_uuid = ?)"
	case ResendChanged:
	}
	var left []Item
	for _, item := range items {
		var n int
		err := tx.QueryRowContext(ctx, "SELECT count(*) FROM delivery_item WHERE instance_id = ? AND destination = ? AND (dropped = '' OR dropped LIKE '%"+hasGotIt+"')"+condition,
			item.InstanceID, destination, item.ContentMD5, item.FileUUID).Scan(&n)
		if err != nil {
			return nil, fmt.Errorf("look for deliveries of instance %s to %s: %w", item.InstanceID, destination, err)
		}
		if n == 0 {
			left = append(left, item)
		}
	}
	return left, nil
}

// AddDelivery creates within tx the delivery of those items that the destination has not got yet; created is false when it has all of them.
func (s *Store) AddDelivery(ctx context.Context, tx *sql.Tx, d Delivery, policy Resend, items []Item) (_ Delivery, created bool, err error) {
	if items, err = s.Uncovered(ctx, tx, d.Destination, policy, items); err != nil || len(items) == 0 {
		return d, false, err
	}
	d.ID, d.CreatedAt = uuid.NewString(), fromMillis(s.millis())
	d.Since, d.Instances, d.Content = d.CreatedAt, len(items), digest(d.Level, items)
	if d.State == "" {
		d.State = DeliveryPending
	}
	if d.Priority == 0 {
		d.Priority = NormalPriority
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO delivery (id, level, resource_id, study_id, content, instances, destination, rule, state, reason, priority, not_before, received_at, created_at, since)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		d.ID, d.Level, d.ResourceID, d.StudyID, d.Content, d.Instances, d.Destination, d.Rule, d.State, d.Reason, d.Priority, toMillis(d.NotBefore),
		toMillis(d.ReceivedAt), toMillis(d.CreatedAt), toMillis(d.Since))
	if err != nil {
		return d, false, fmt.Errorf("create delivery of %s %s to %s: %w", d.Level.One(), d.ResourceID, d.Destination, err)
	}
	return d, true, s.addItems(ctx, tx, d.ID, d.Destination, items)
}

func (s *Store) addItems(ctx context.Context, tx *sql.Tx, delivery, destination string, items []Item) error {
	for _, item := range items {
		_, err := tx.ExecContext(ctx, "INSERT INTO delivery_item (delivery_id, instance_id, destination, content_md5, file_uuid) VALUES (?, ?, ?, ?, ?)",
			delivery, item.InstanceID, destination, item.ContentMD5, item.FileUUID)
		if err != nil {
			return fmt.Errorf("note instance %s of delivery %s: %w", item.InstanceID, delivery, err)
		}
	}
	return nil
}

// digest names a set's content: of an instance its MD5, as Orthanc has it.
func digest(level Level, items []Item) string {
	if level == LevelInstance && len(items) == 1 {
		return items[0].ContentMD5
	}
	lines := make([]string, len(items))
	for i, item := range items {
		lines[i] = item.InstanceID + " " + item.ContentMD5 + " " + item.FileUUID
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:16])
}

// Items returns what the delivery sends, and what it no longer does. Each instance is named once, also of a delivery that goes to an alternate.
func (s *Store) Items(ctx context.Context, id string) ([]Item, error) {
	return collect(ctx, s.read, func(sc scanner) (Item, error) {
		var i Item
		err := sc.Scan(&i.InstanceID, &i.ContentMD5, &i.FileUUID, &i.Dropped)
		return i, err
	}, `SELECT i.instance_id, i.content_md5, i.file_uuid, i.dropped FROM delivery_item i JOIN delivery d ON d.id = i.delivery_id AND d.destination = i.destination
		WHERE i.delivery_id = ? ORDER BY i.instance_id`, id)
}

// DropItem notes that an instance is not sent after all, and why.
func (s *Store) DropItem(ctx context.Context, id, instance, why string) error {
	_, err := s.write.ExecContext(ctx, "UPDATE delivery_item SET dropped = ? WHERE delivery_id = ? AND instance_id = ?", why, id, instance)
	return wrap(err, "drop instance %s from delivery %s", instance, id)
}

// SetDeliveryJob notes within tx which unfinished job works on the delivery; 0 for none.
func (s *Store) SetDeliveryJob(ctx context.Context, tx *sql.Tx, id string, job int64) error {
	_, err := tx.ExecContext(ctx, "UPDATE delivery SET job = ? WHERE id = ?", job, id)
	return wrap(err, "note job of delivery %s", id)
}

// Delivery returns one delivery, ErrUnknown when there is none.
func (s *Store) Delivery(ctx context.Context, id string) (Delivery, error) {
	d, err := scanDelivery(s.read.QueryRowContext(ctx, "SELECT "+deliveryColumns+" FROM delivery d WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return d, fmt.Errorf("delivery %s: %w", id, ErrUnknown)
	}
	return d, wrap(err, "read delivery %s", id)
}

// Submitting notes that the delivery is about to be handed over, and counts the attempt. It is written before the request
// leaves: whoever finds this state after a crash must look for a job in Orthanc before sending again. ErrFinished when it has ended, or
// goes to another destination, since it was read.
func (s *Store) Submitting(ctx context.Context, d Delivery) error {
	res, err := s.write.ExecContext(ctx, `UPDATE delivery SET state = 'submitting', orthanc_job = '', attempts = attempts + 1, submitted_at = ?
		WHERE id = ? AND via = ? AND state IN ('pending', 'submitting', 'sent')`, s.millis(), d.ID, d.Via)
	if err != nil {
		return fmt.Errorf("note submission of delivery %s: %w", d.ID, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return wrap(err, "note submission of delivery %s", d.ID)
	}
	return fmt.Errorf("delivery %s: %w", d.ID, ErrFinished)
}

// ErrFinished says that a delivery has come to its end, by command, since it was read.
var ErrFinished = errors.New("has ended in the meantime")

// Sent notes the Orthanc job that carries the delivery.
func (s *Store) Sent(ctx context.Context, id, orthancJob string) error {
	_, err := s.write.ExecContext(ctx, "UPDATE delivery SET state = 'sent', orthanc_job = ? WHERE id = ?", orthancJob, id)
	return wrap(err, "note Orthanc job of delivery %s", id)
}

// CarriesOther says whether one of Orthanc's jobs is known to carry another delivery.
func (s *Store) CarriesOther(ctx context.Context, orthancJob, delivery string) (bool, error) {
	var n int
	err := s.read.QueryRowContext(ctx, "SELECT count(*) FROM delivery WHERE orthanc_job = ? AND id <> ?", orthancJob, delivery).Scan(&n)
	return n > 0, wrap(err, "look for the delivery of Orthanc's job %s", orthancJob)
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

// PostponeDelivery notes that the schedule of the delivery's rule keeps it until the given time.
func (s *Store) PostponeDelivery(ctx context.Context, id string, until time.Time) error {
	_, err := s.write.ExecContext(ctx, "UPDATE delivery SET not_before = ? WHERE id = ?", toMillis(until), id)
	return wrap(err, "postpone delivery %s", id)
}

// FinishDelivery notes within tx the end of a delivery.
func (s *Store) FinishDelivery(ctx context.Context, tx *sql.Tx, id string, state DeliveryState, reason string) error {
	_, err := tx.ExecContext(ctx, "UPDATE delivery SET state = ?, reason = ?, job = 0, finished_at = ? WHERE id = ?", state, reason, s.millis(), id)
	return wrap(err, "finish delivery %s", id)
}

// hasGotIt ends the reason why an instance is left out of a diverted delivery. It counts as delivered, where the alternate stands in.
const hasGotIt = " has got it"

// Divert turns within tx a delivery that has not been handed over to another destination. left is what that one has not got anyway: the rest
// is dropped. diverted is false when the delivery is no longer pending.
func (s *Store) Divert(ctx context.Context, tx *sql.Tx, d Delivery, to string, left []Item) (diverted bool, err error) {
	res, err := tx.ExecContext(ctx, "UPDATE delivery SET via = ?, job = 0 WHERE id = ? AND state = 'pending' AND via = ''", to, d.ID)
	if err != nil {
		return false, fmt.Errorf("divert delivery %s: %w", d.ID, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return false, wrap(err, "divert delivery %s", d.ID)
	}
	if err := s.addItems(ctx, tx, d.ID, to, left); err != nil {
		return true, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE delivery_item SET dropped = ? WHERE delivery_id = ? AND destination = ? AND dropped = ''
		AND instance_id NOT IN (SELECT instance_id FROM delivery_item WHERE delivery_id = ? AND destination = ?)`, to+hasGotIt, d.ID, d.Destination, d.ID, to)
	return true, wrap(err, "divert delivery %s", d.ID)
}

// SentBy returns the instances that a rule has put into deliveries of a series or study.
func (s *Store) SentBy(ctx context.Context, rule, resource string) (map[string]bool, error) {
	ids, err := collect(ctx, s.read, scanText, `SELECT DISTINCT i.instance_id FROM delivery_item i JOIN delivery d ON d.id = i.delivery_id
		WHERE d.rule = ? AND d.resource_id = ? AND i.dropped = '' `, rule, resource)
	out := make(map[string]bool, len(ids))
	for _, id := range ids {
		out[id] = true
	}
	return out, err
}

// Divertible lists the pending deliveries to a destination that may go since before the given time, oldest first; with tried only those of
// which an attempt has failed.
func (s *Store) Divertible(ctx context.Context, destination string, before time.Time, tried bool, limit int) ([]Delivery, error) {
	return collect(ctx, s.read, scanDelivery, "SELECT "+deliveryColumns+` FROM delivery d WHERE destination = ? AND state = 'pending' AND via = ''
		AND max(since, not_before) < ? AND (NOT ? OR last_error <> '') ORDER BY priority, since LIMIT ?`, destination, toMillis(before), tried, limit)
}

// CancelDelivery ends a delivery that was not handed over yet, and says whether it did: one that Orthanc has is not called back.
func (s *Store) CancelDelivery(ctx context.Context, id, reason string) (bool, error) {
	res, err := s.write.ExecContext(ctx, "UPDATE delivery SET state = 'cancelled', reason = ?, finished_at = ? WHERE id = ? AND state IN ('pending', 'held')", reason, s.millis(), id)
	if err != nil {
		return false, fmt.Errorf("cancel delivery %s: %w", id, err)
	}
	n, err := res.RowsAffected()
	return n == 1, wrap(err, "cancel delivery %s", id)
}

// ReopenDelivery takes up within tx a delivery that had ended without success. It may go at once: its schedule, where the rule still has
// one, holds it again at its turn.
func (s *Store) ReopenDelivery(ctx context.Context, tx *sql.Tx, id string) error {
	_, err := tx.ExecContext(ctx, `UPDATE delivery SET state = 'pending', reason = '', finished_at = 0, since = ?, not_before = 0, orthanc_job = ''
		WHERE id = ?`, s.millis(), id)
	return wrap(err, "reopen delivery %s", id)
}

// ReleaseDelivery lets within tx a delivery go that the volume brake holds; released is false when it was not held.
func (s *Store) ReleaseDelivery(ctx context.Context, tx *sql.Tx, id string) (released bool, err error) {
	res, err := tx.ExecContext(ctx, "UPDATE delivery SET state = 'pending', reason = '', since = ? WHERE id = ? AND state = 'held'", s.millis(), id)
	if err != nil {
		return false, fmt.Errorf("release delivery %s: %w", id, err)
	}
	n, err := res.RowsAffected()
	return n == 1, wrap(err, "release delivery %s", id)
}

// DeliveryFilter selects deliveries for the commands.
type DeliveryFilter struct {
	States      []DeliveryState
	InstanceID  string // that is in the set
	ResourceID  string // instance, series or study
	Destination string // that the rule names, or that it goes to
	Rule        string
	Reason      string // part of the reason or of the last error
	OldestFirst bool
	Limit       int // 0 = all
}

// Deliveries lists deliveries, newest first unless the filter says otherwise.
func (s *Store) Deliveries(ctx context.Context, f DeliveryFilter) ([]Delivery, error) {
	query, args := "SELECT "+deliveryColumns+" FROM delivery d WHERE true", []any{}
	add := func(condition string, values ...any) { query, args = query+" AND "+condition, append(args, values...) }
	if len(f.States) > 0 {
		states := make([]any, len(f.States))
		for i, st := range f.States {
			states[i] = st
		}
		add("state IN ("+marks(len(states))+")", states...)
	}
	if f.InstanceID != "" {
		add("id IN (SELECT delivery_id FROM delivery_item WHERE instance_id = ?)", f.InstanceID)
	}
	if f.ResourceID != "" {
		add("(resource_id = ? OR study_id = ? OR id IN (SELECT delivery_id FROM delivery_item WHERE instance_id = ?))", f.ResourceID, f.ResourceID, f.ResourceID)
	}
	if f.Destination != "" {
		add("(destination = ? OR via = ?)", f.Destination, f.Destination)
	}
	if f.Rule != "" {
		add("rule = ?", f.Rule)
	}
	if f.Reason != "" {
		add("(instr(reason, ?) > 0 OR instr(last_error, ?) > 0)", f.Reason, f.Reason)
	}
	query += map[bool]string{true: " ORDER BY created_at, id", false: " ORDER BY created_at DESC, id"}[f.OldestFirst]
	if f.Limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", f.Limit)
	}
	return collect(ctx, s.read, scanDelivery, query, args...)
}

// DeliveryCount is the number of deliveries to one destination in one state, and, where they are open, since when the oldest of them may go.
type DeliveryCount struct {
	Destination string
	State       DeliveryState
	N           int64
	Oldest      time.Time // zero where they have ended
}

// DeliveryCounts counts the deliveries by the destination that they go to and by state. Prometheus asks for it all the time: what has ended
// is counted in the index alone.
func (s *Store) DeliveryCounts(ctx context.Context) ([]DeliveryCount, error) {
	const to = "CASE WHEN via = '' THEN destination ELSE via END"
	scan := func(sc scanner) (DeliveryCount, error) {
		var c DeliveryCount
		var oldest int64
		err := sc.Scan(&c.Destination, &c.State, &c.N, &oldest)
		c.Oldest = fromMillis(oldest)
		return c, err
	}
	counted, err := collect(ctx, s.read, scan, "SELECT "+to+" AS goes_to, state, count(*), 0 FROM delivery GROUP BY goes_to, state ORDER BY goes_to, state")
	if err != nil {
		return nil, err
	}
	open, err := collect(ctx, s.read, scan, "SELECT "+to+` AS goes_to, state, count(*), min(max(since, not_before)) FROM delivery
		WHERE state IN ('held', 'pending', 'submitting', 'sent') GROUP BY goes_to, state`)
	for i, c := range counted {
		for _, o := range open {
			if o.Destination == c.Destination && o.State == c.State {
				counted[i].Oldest = o.Oldest
			}
		}
	}
	return counted, err
}

// CreatedSince counts within tx the deliveries that came into being after the given time.
func (s *Store) CreatedSince(ctx context.Context, tx *sql.Tx, since time.Time) (n int, err error) {
	err = tx.QueryRowContext(ctx, "SELECT count(*) FROM delivery WHERE created_at > ?", toMillis(since)).Scan(&n)
	return n, wrap(err, "count deliveries")
}

// HourlyDeliveries returns how many deliveries came into being in each hour between the two times that had any.
func (s *Store) HourlyDeliveries(ctx context.Context, from, to time.Time) ([]int, error) {
	return collect(ctx, s.read, func(sc scanner) (int, error) {
		var n int
		err := sc.Scan(&n)
		return n, err
	}, "SELECT count(*) FROM delivery WHERE created_at >= ? AND created_at < ? GROUP BY created_at / 3600000", toMillis(from), toMillis(to))
}

// AddEventTo adds a line within tx to the stories of those of the instances that the router knows.
func (s *Store) AddEventTo(ctx context.Context, tx *sql.Tx, ids []string, e Event) error {
	for part := range slices.Chunk(ids, 500) {
		args := []any{s.millis(), e.Stage, e.Job, e.Attempt, e.Outcome, e.Detail, e.Took.Milliseconds()}
		for _, id := range part {
			args = append(args, id)
		}
		query := "INSERT INTO event (instance_id, at, stage, job, attempt, outcome, detail, took_ms) SELECT id, ?, ?, ?, ?, ?, ?, ? FROM instance WHERE id IN (" + marks(len(part)) + ")" //nolint:gosec // placeholders only
		_, err := tx.ExecContext(ctx, query, args...)
		if err != nil {
			return fmt.Errorf("note event of %d instances: %w", len(ids), err)
		}
	}
	return nil
}
