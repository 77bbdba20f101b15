package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// State is where an instance stands. docs/architecture.md draws the ways between them.
type State string

// The states of an instance. All but due and classified are ends; a new mark leads from every end back to due.
const (
	StateDue         State = "due"         // marked, not yet classified (or marked again)
	StateClassified  State = "classified"  // has a result that Orthanc does not show yet
	StatePublished   State = "published"   // Orthanc shows the result; deliveries, if any, are on their way
	StateSkipped     State = "skipped"     // not an object that the site wants classified (SOP class, modality)
	StateUndecodable State = "undecodable" // no decoder at hand reads its transfer syntax
	StateUnreadable  State = "unreadable"  // broken, without pixels, multi-frame, too large: the reason says which
	StateGone        State = "gone"        // deleted in Orthanc
	StateFailed      State = "failed"      // every attempt failed; `jobs retry` takes it up again
)

// States lists all states in the order of an instance's life.
func States() []State {
	return []State{StateDue, StateClassified, StatePublished, StateSkipped, StateUndecodable, StateUnreadable, StateGone, StateFailed}
}

// Source says who marked an instance as due.
type Source string

// The sources of a mark.
const (
	SourceHook     Source = "hook"     // Orthanc's Lua hook
	SourceFollower Source = "follower" // a new row of /changes
	SourceReplay   Source = "replay"   // an old row of /changes: first start from the beginning, or a reset database
	SourceSweep    Source = "sweep"    // the slow comparison with Orthanc
	SourceCommand  Source = "command"  // `jobs retry`
)

// Forwards says whether a mark of this source may lead to deliveries. A replay, a sweep or a reset labels and does not forward.
func (s Source) Forwards() bool { return s == SourceHook || s == SourceFollower }

// Instance is one row of the table instance.
type Instance struct {
	ID          string
	State       State
	Reason      string
	Due, Done   int64
	ClassifyJob int64
	PublishJob  int64
	Source      Source
	Forward     bool
	SeriesID    string
	StudyID     string
	FileUUID    string
	// LabelledUUID is the FileUUID whose result was published last.
	LabelledUUID string
	ContentMD5   string
	Model        string
	Routed       string // what the rules have decided about: see Arrival
	LastError    string
	ReceivedAt   time.Time
	FirstMarked  time.Time
	MarkedAt     time.Time
	FinishedAt   time.Time
}

// Arrival names what the rules decide about: one stored file under one model. An overwrite is a new one.
func (i Instance) Arrival() string { return i.FileUUID + " " + i.Model }

// HasResult says whether the instance's last result still holds: not when it ended in another way since.
func (i Instance) HasResult() bool {
	return i.State == StateDue || i.State == StateClassified || i.State == StatePublished
}

const instanceColumns = `id, state, reason, due, done, classify_job, publish_job, source, forward, series_id, study_id, file_uuid, labelled_uuid,
	content_md5, model, routed, last_error, received_at, first_marked, marked_at, finished_at`

type scanner interface{ Scan(...any) error }

func scanInstance(row scanner) (Instance, error) {
	var i Instance
	var received, first, marked, finished int64
	err := row.Scan(&i.ID, &i.State, &i.Reason, &i.Due, &i.Done, &i.ClassifyJob, &i.PublishJob, &i.Source, &i.Forward, &i.SeriesID,
		&i.StudyID, &i.FileUUID, &i.LabelledUUID, &i.ContentMD5, &i.Model, &i.Routed, &i.LastError, &received, &first, &marked, &finished)
	i.ReceivedAt, i.FirstMarked, i.MarkedAt, i.FinishedAt = fromMillis(received), fromMillis(first), fromMillis(marked), fromMillis(finished)
	return i, err
}

// ErrUnknown says that the database holds no such row.
var ErrUnknown = errors.New("unknown to this router")

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Instance returns the row of one instance, ErrUnknown when there is none.
func (s *Store) Instance(ctx context.Context, id string) (Instance, error) {
	return instance(ctx, s.read, id)
}

func instance(ctx context.Context, q querier, id string) (Instance, error) {
	i, err := scanInstance(q.QueryRowContext(ctx, "SELECT "+instanceColumns+" FROM instance WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return Instance{}, fmt.Errorf("instance %s: %w", id, ErrUnknown)
	}
	if err != nil {
		return Instance{}, fmt.Errorf("read instance %s: %w", id, err)
	}
	return i, nil
}

// Mark notes within tx that an instance is due and returns its row after the mark. A mark while a job runs raises due above what
// the job has seen, so that the job's end starts it anew. A mark that forwards outweighs one that does not while both are open; a command keeps what was meant before.
func (s *Store) Mark(ctx context.Context, tx *sql.Tx, id string, source Source) (Instance, error) {
	now := s.millis()
	_, err := tx.ExecContext(ctx, `INSERT INTO instance (id, state, due, source, forward, first_marked, marked_at)
		VALUES (?, 'due', 1, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET due = due + 1, state = 'due', reason = '', source = excluded.source,
			forward = CASE WHEN excluded.source = 'command' THEN forward
				WHEN state IN ('due', 'classified') THEN max(forward, excluded.forward) ELSE excluded.forward END,
			marked_at = CASE WHEN done < due THEN marked_at ELSE excluded.marked_at END, finished_at = 0`,
		id, source, source.Forwards(), now, now)
	if err != nil {
		return Instance{}, fmt.Errorf("mark instance %s: %w", id, err)
	}
	return instance(ctx, tx, id)
}

// SetClassifyJob notes within tx which unfinished job works on the instance; 0 for none.
func (s *Store) SetClassifyJob(ctx context.Context, tx *sql.Tx, id string, job int64) error {
	_, err := tx.ExecContext(ctx, "UPDATE instance SET classify_job = ? WHERE id = ?", job, id)
	return wrap(err, "note job of instance %s", id)
}

// SetRouted notes within tx that the rules have decided about an arrival.
func (s *Store) SetRouted(ctx context.Context, tx *sql.Tx, id, arrival string) error {
	_, err := tx.ExecContext(ctx, "UPDATE instance SET routed = ? WHERE id = ?", arrival, id)
	return wrap(err, "note decision about instance %s", id)
}

// SetPublishJob notes within tx which unfinished job publishes the instance; 0 for none.
func (s *Store) SetPublishJob(ctx context.Context, tx *sql.Tx, id string, job int64) error {
	_, err := tx.ExecContext(ctx, "UPDATE instance SET publish_job = ? WHERE id = ?", job, id)
	return wrap(err, "note job of instance %s", id)
}

// Content is what a classification learnt about the stored file.
type Content struct {
	SeriesID, StudyID string
	FileUUID          string
	MD5               string
	Model             string
	ReceivedAt        time.Time
}

// Classified notes within tx that the instance has a result. seen is the value of Due when the work began: the returned row says
// by Done < Due that a further mark came in the meantime.
func (s *Store) Classified(ctx context.Context, tx *sql.Tx, id string, seen int64, c Content) (Instance, error) {
	_, err := tx.ExecContext(ctx, `UPDATE instance SET done = ?, state = CASE WHEN due > ? THEN 'due' ELSE 'classified' END, reason = '',
		series_id = ?, study_id = ?, file_uuid = ?, content_md5 = ?, model = ?, received_at = ?, last_error = '',
		classify_job = 0 WHERE id = ?`,
		seen, seen, c.SeriesID, c.StudyID, c.FileUUID, c.MD5, c.Model, toMillis(c.ReceivedAt), id)
	if err != nil {
		return Instance{}, fmt.Errorf("note result of instance %s: %w", id, err)
	}
	return instance(ctx, tx, id)
}

// Publication is what Published found.
type Publication struct {
	Instance
	Published bool // false: a newer classification came while the job ran, and is still to be published
}

// Published notes within tx that Orthanc shows the result of the classification that had seen the mark done, and that no publish job
// works on the instance any more.
func (s *Store) Published(ctx context.Context, tx *sql.Tx, id string, done int64) (Publication, error) {
	_, err := tx.ExecContext(ctx, `UPDATE instance SET publish_job = 0, last_error = '',
		labelled_uuid = CASE WHEN state = 'classified' AND done = ? THEN file_uuid ELSE labelled_uuid END,
		finished_at = CASE WHEN state = 'classified' AND done = ? THEN ? ELSE finished_at END,
		state = CASE WHEN state = 'classified' AND done = ? THEN 'published' ELSE state END WHERE id = ?`, done, done, s.millis(), done, id)
	if err != nil {
		return Publication{}, fmt.Errorf("note publication of instance %s: %w", id, err)
	}
	i, err := instance(ctx, tx, id)
	return Publication{Instance: i, Published: i.State != StateClassified}, err
}

// Ended notes within tx that the instance reached a terminal state other than published, found by the job of the given kind (classify
// or publish), which is over with it. seen is the mark that the job's work answered: a later mark keeps the instance due, and a later
// classification stands, with its own publication still to come.
func (s *Store) Ended(ctx context.Context, tx *sql.Tx, id, kind string, seen int64, state State, reason, fileUUID string) (Instance, error) {
	job := map[string]string{"classify": "classify_job", "publish": "publish_job"}[kind]
	if job == "" {
		return Instance{}, fmt.Errorf("end instance %s: unknown kind of job %q", id, kind)
	}
	if _, err := tx.ExecContext(ctx, "UPDATE instance SET "+job+" = 0 WHERE id = ?", id); err != nil {
		return Instance{}, fmt.Errorf("end instance %s: %w", id, err)
	}
	_, err := tx.ExecContext(ctx, `UPDATE instance SET done = ?, state = CASE WHEN due > ? THEN 'due' ELSE ? END, reason = ?,
		file_uuid = ?, last_error = '', finished_at = ? WHERE id = ? AND done <= ?`, seen, seen, state, reason, fileUUID, s.millis(), id, seen)
	if err != nil {
		return Instance{}, fmt.Errorf("end instance %s: %w", id, err)
	}
	return instance(ctx, tx, id)
}

// Gone notes that the instance was deleted in Orthanc after it had been published.
func (s *Store) Gone(ctx context.Context, tx *sql.Tx, id, reason string) error {
	_, err := tx.ExecContext(ctx, "UPDATE instance SET state = 'gone', reason = ?, done = due, finished_at = ? WHERE id = ?", reason, s.millis(), id)
	return wrap(err, "end instance %s", id)
}

// Trouble notes the last error of an instance that will be tried again.
func (s *Store) Trouble(ctx context.Context, id, text string) error {
	_, err := s.write.ExecContext(ctx, "UPDATE instance SET last_error = ? WHERE id = ?", text, id)
	return wrap(err, "note error of instance %s", id)
}

// Counts returns how many instances are in each state.
func (s *Store) Counts(ctx context.Context) (map[State]int64, error) {
	return counts[State](ctx, s.read, "SELECT state, count(*) FROM instance GROUP BY state")
}

func counts[K ~string](ctx context.Context, q querier, query string) (map[K]int64, error) {
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("count: %w", err)
	}
	defer func() { _ = rows.Close() }()
	out := map[K]int64{}
	for rows.Next() {
		var k K
		var n int64
		if err := rows.Scan(&k, &n); err != nil {
			return nil, fmt.Errorf("count: %w", err)
		}
		out[k] = n
	}
	return out, rows.Err()
}

// OldestDue returns since when the oldest unfinished instance waits; the zero time when nothing waits.
func (s *Store) OldestDue(ctx context.Context) (time.Time, error) {
	var at sql.NullInt64
	err := s.read.QueryRowContext(ctx, "SELECT min(marked_at) FROM instance WHERE state IN ('due', 'classified')").Scan(&at)
	return fromMillis(at.Int64), wrap(err, "read oldest due instance")
}

// Filter selects instances for the commands.
type Filter struct {
	States []State
	Reason string // part of the reason or of the last error, or the state
	Study  string
	// HasResult leaves out instances whose content has no result (yet).
	HasResult bool
	Limit     int // 0 = all
}

// Instances lists instances, newest mark first.
func (s *Store) Instances(ctx context.Context, f Filter) ([]Instance, error) {
	query, args := "SELECT "+instanceColumns+" FROM instance WHERE true", []any{}
	if len(f.States) > 0 {
		query += " AND state IN (" + marks(len(f.States)) + ")"
		for _, st := range f.States {
			args = append(args, st)
		}
	}
	if f.Reason != "" {
		query += " AND (state = ? OR instr(reason, ?) > 0 OR instr(last_error, ?) > 0)"
		args = append(args, f.Reason, f.Reason, f.Reason)
	}
	if f.Study != "" {
		query += " AND study_id = ?"
		args = append(args, f.Study)
	}
	if f.HasResult {
		query += " AND (id, content_md5, model) IN (SELECT instance_id, content_md5, model FROM result)"
	}
	query += " ORDER BY marked_at DESC, id"
	if f.Limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", f.Limit)
	}
	return collect(ctx, s.read, scanInstance, query, args...)
}

// InstancesByID returns those of the instances that the router knows.
func (s *Store) InstancesByID(ctx context.Context, ids []string) (map[string]Instance, error) {
	out := make(map[string]Instance, len(ids))
	for start := 0; start < len(ids); start += 500 {
		part := ids[start:min(start+500, len(ids))]
		args := make([]any, len(part))
		for i, id := range part {
			args[i] = id
		}
		list, err := collect(ctx, s.read, scanInstance, "SELECT "+instanceColumns+" FROM instance WHERE id IN ("+marks(len(part))+")", args...)
		if err != nil {
			return nil, err
		}
		for _, i := range list {
			out[i.ID] = i
		}
	}
	return out, nil
}
