package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// GatheringState is where a rule stands that waits for a whole series or study. docs/architecture.md draws the ways between them.
type GatheringState string

// The states of a gathering. The last three are ends, from which an instance that comes late leads back to waiting.
const (
	GatheringWaiting GatheringState = "waiting" // for the resource to be complete
	GatheringHeld    GatheringState = "held"    // for a person: the longest wait is over, or an instance is under review
	GatheringDecided GatheringState = "decided" // the rule has decided; what it sends are deliveries
	GatheringSkipped GatheringState = "skipped" // not sent: an instance was under review, or forwarding was off
	GatheringGone    GatheringState = "gone"    // deleted in Orthanc
)

// GatheringStates lists all states.
func GatheringStates() []GatheringState {
	return []GatheringState{GatheringWaiting, GatheringHeld, GatheringDecided, GatheringSkipped, GatheringGone}
}

// Gathering is what one rule waits for: a series or study that is not complete yet.
type Gathering struct {
	Level      Level
	ResourceID string
	Rule       string
	StudyID    string
	State      GatheringState
	Reason     string // what it waits for, or how it ended
	Sent       bool   // the rule has sent the resource before: what comes late follows it
	Released   bool   // by command: not to wait any longer
	Touched    int64  // counts what came
	OpenedAt   time.Time
	ChangedAt  time.Time
	DecidedAt  time.Time
	ReviewedAt time.Time // when a person's decision about results under review was first seen; what came later is not decided about by it
	Job        int64
}

// Open says whether the rule has yet to decide.
func (g Gathering) Open() bool { return g.State == GatheringWaiting || g.State == GatheringHeld }

const gatheringColumns = "level, resource_id, rule, study_id, state, reason, sent, released, touched, opened_at, changed_at, decided_at, reviewed_at, job"

func scanGathering(row scanner) (Gathering, error) {
	var g Gathering
	var opened, changed, decided, reviewed int64
	err := row.Scan(&g.Level, &g.ResourceID, &g.Rule, &g.StudyID, &g.State, &g.Reason, &g.Sent, &g.Released, &g.Touched, &opened, &changed, &decided, &reviewed, &g.Job)
	g.OpenedAt, g.ChangedAt, g.DecidedAt, g.ReviewedAt = fromMillis(opened), fromMillis(changed), fromMillis(decided), fromMillis(reviewed)
	return g, err
}

// Gather notes within tx that an instance has come which the rule may send on with its resource. It returns the job that already works on
// the resource, 0 when there is none.
func (s *Store) Gather(ctx context.Context, tx *sql.Tx, level Level, resource, study, rule string) (job int64, err error) {
	now := s.millis()
	_, err = tx.ExecContext(ctx, `INSERT INTO gathering (level, resource_id, rule, study_id, state, opened_at, changed_at) VALUES (?, ?, ?, ?, 'waiting', ?, ?)
		ON CONFLICT DO UPDATE SET touched = touched + 1, changed_at = excluded.changed_at, decided_at = 0,
			released = CASE WHEN state IN ('waiting', 'held') THEN released ELSE 0 END,
			opened_at = CASE WHEN state IN ('waiting', 'held') THEN opened_at ELSE excluded.opened_at END,
			reason = CASE WHEN state IN ('waiting', 'held') THEN reason ELSE '' END,
			state = CASE WHEN state IN ('waiting', 'held') THEN state ELSE 'waiting' END`, level, resource, rule, study, now, now)
	if err != nil {
		return 0, fmt.Errorf("gather %s %s: %w", level.One(), resource, err)
	}
	return s.gatheringJob(ctx, tx, level, resource)
}

// Late notes within tx that something came to resources which rules have decided about: an instance that no rule may begin with, such as a
// report or a picture that cannot be read, and that goes where its study went. It returns the resources that are waited for anew.
func (s *Store) Late(ctx context.Context, tx *sql.Tx, series, study string) ([]Gathering, error) {
	now := s.millis()
	const which = "(level = 'series' AND resource_id = ? OR level = 'studies' AND resource_id = ?)"
	_, err := tx.ExecContext(ctx, `UPDATE gathering SET touched = touched + 1, changed_at = ?, decided_at = 0,
			released = CASE WHEN state IN ('waiting', 'held') THEN released ELSE 0 END,
			reason = CASE WHEN state IN ('waiting', 'held') THEN reason ELSE '' END,
			opened_at = CASE WHEN state IN ('waiting', 'held') THEN opened_at ELSE ? END,
			state = CASE WHEN state IN ('waiting', 'held') THEN state ELSE 'waiting' END
		WHERE `+which+" AND (sent OR state IN ('waiting', 'held'))", now, now, series, study)
	if err != nil {
		return nil, fmt.Errorf("note a late instance of study %s: %w", study, err)
	}
	return collect(ctx, tx, scanGathering, "SELECT "+gatheringColumns+" FROM gathering WHERE "+which+" AND state = 'waiting' AND job = 0", series, study)
}

func (s *Store) gatheringJob(ctx context.Context, q querier, level Level, resource string) (job int64, err error) {
	err = q.QueryRowContext(ctx, "SELECT max(job) FROM gathering WHERE level = ? AND resource_id = ?", level, resource).Scan(&job)
	return job, wrap(err, "read the job of %s %s", level.One(), resource)
}

// SetGatheringJob notes within tx which unfinished job works on the resource; 0 for none.
func (s *Store) SetGatheringJob(ctx context.Context, tx *sql.Tx, level Level, resource string, job int64) error {
	_, err := tx.ExecContext(ctx, "UPDATE gathering SET job = ? WHERE level = ? AND resource_id = ?", job, level, resource)
	return wrap(err, "note job of %s %s", level.One(), resource)
}

// Gatherings returns what rules wait for of one resource, and what they waited for.
func (s *Store) Gatherings(ctx context.Context, level Level, resource string) ([]Gathering, error) {
	return collect(ctx, s.read, scanGathering, "SELECT "+gatheringColumns+" FROM gathering WHERE level = ? AND resource_id = ? ORDER BY rule", level, resource)
}

// OpenGatherings returns within tx what rules still wait for of one resource.
func (s *Store) OpenGatherings(ctx context.Context, tx *sql.Tx, level Level, resource string) ([]Gathering, error) {
	return collect(ctx, tx, scanGathering, "SELECT "+gatheringColumns+" FROM gathering WHERE level = ? AND resource_id = ? AND state IN ('waiting', 'held')", level, resource)
}

// GatheringsOf returns those of a study and its series.
func (s *Store) GatheringsOf(ctx context.Context, study string) ([]Gathering, error) {
	return collect(ctx, s.read, scanGathering, "SELECT "+gatheringColumns+" FROM gathering WHERE study_id = ? ORDER BY level, resource_id, rule", study)
}

// Waiting returns what is waited for, longest first. limit 0 is all.
func (s *Store) Waiting(ctx context.Context, limit int) ([]Gathering, error) {
	query := "SELECT " + gatheringColumns + " FROM gathering WHERE state IN ('waiting', 'held') ORDER BY opened_at, resource_id, rule"
	if limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", limit)
	}
	return collect(ctx, s.read, scanGathering, query)
}

// StillGathering notes why a gathering waits on. It says whether that is news.
func (s *Store) StillGathering(ctx context.Context, g Gathering, state GatheringState, reason string) (news bool, err error) {
	if g.State == state && g.Reason == reason {
		return false, nil
	}
	_, err = s.write.ExecContext(ctx, "UPDATE gathering SET state = ?, reason = ? WHERE level = ? AND resource_id = ? AND rule = ? AND touched = ?",
		state, reason, g.Level, g.ResourceID, g.Rule, g.Touched)
	return true, wrap(err, "note what %s %s waits for", g.Level.One(), g.ResourceID)
}

// Reviewed notes that a person's decision about the resource's results under review was seen, and returns when it was seen first.
func (s *Store) Reviewed(ctx context.Context, g Gathering) (time.Time, error) {
	if !g.ReviewedAt.IsZero() {
		return g.ReviewedAt, nil
	}
	now := s.millis()
	_, err := s.write.ExecContext(ctx, "UPDATE gathering SET reviewed_at = ? WHERE level = ? AND resource_id = ? AND rule = ?", now, g.Level, g.ResourceID, g.Rule)
	return fromMillis(now), wrap(err, "note the review of %s %s", g.Level.One(), g.ResourceID)
}

// EndGathering notes within tx how a gathering ended. When something came since it was read it stays open, and ended is false.
func (s *Store) EndGathering(ctx context.Context, tx *sql.Tx, g Gathering, state GatheringState, sent bool, reason string) (ended bool, err error) {
	res, err := tx.ExecContext(ctx, `UPDATE gathering SET sent = max(sent, ?),
			state = CASE WHEN touched = ? THEN ? ELSE state END, reason = CASE WHEN touched = ? THEN ? ELSE reason END,
			decided_at = CASE WHEN touched = ? THEN ? ELSE 0 END, released = 0
		WHERE level = ? AND resource_id = ? AND rule = ?`,
		sent, g.Touched, state, g.Touched, reason, g.Touched, s.millis(), g.Level, g.ResourceID, g.Rule)
	if err != nil {
		return false, fmt.Errorf("end the wait for %s %s: %w", g.Level.One(), g.ResourceID, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return false, errors.Join(err, fmt.Errorf("the wait for %s %s: %w", g.Level.One(), g.ResourceID, ErrUnknown))
	}
	var touched int64
	err = tx.QueryRowContext(ctx, "SELECT touched FROM gathering WHERE level = ? AND resource_id = ? AND rule = ?", g.Level, g.ResourceID, g.Rule).Scan(&touched)
	return touched == g.Touched, wrap(err, "end the wait for %s %s", g.Level.One(), g.ResourceID)
}

// ReleaseGatherings makes what waits of a study (or one of its series) decide at its next look, complete or not. It returns how many do.
func (s *Store) ReleaseGatherings(ctx context.Context, resource string) (int64, error) {
	res, err := s.write.ExecContext(ctx, "UPDATE gathering SET released = 1 WHERE (study_id = ? OR resource_id = ?) AND state IN ('waiting', 'held')", resource, resource)
	if err != nil {
		return 0, fmt.Errorf("release %s: %w", resource, err)
	}
	return res.RowsAffected()
}

// CancelGatherings ends what waits of a study (or one of its series) without sending anything. It returns how many ended.
func (s *Store) CancelGatherings(ctx context.Context, resource, reason string) (int64, error) {
	res, err := s.write.ExecContext(ctx, `UPDATE gathering SET state = 'skipped', reason = ?, decided_at = ?, touched = touched + 1
		WHERE (study_id = ? OR resource_id = ?) AND state IN ('waiting', 'held')`, reason, s.millis(), resource, resource)
	if err != nil {
		return 0, fmt.Errorf("cancel the wait for %s: %w", resource, err)
	}
	return res.RowsAffected()
}

// GatheringCounts counts the gatherings by state, with the time since which the oldest open one waits.
func (s *Store) GatheringCounts(ctx context.Context) (counted map[GatheringState]int64, oldest time.Time, err error) {
	if counted, err = counts[GatheringState](ctx, s.read, "SELECT state, count(*) FROM gathering GROUP BY state"); err != nil {
		return nil, oldest, err
	}
	var at sql.NullInt64
	err = s.read.QueryRowContext(ctx, "SELECT min(opened_at) FROM gathering WHERE state IN ('waiting', 'held')").Scan(&at)
	return counted, fromMillis(at.Int64), wrap(err, "read oldest wait")
}
