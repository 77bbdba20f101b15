package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
)

const resultColumns = `r.instance_id, r.content_md5, r.model, r.class, r.confidence, r.probabilities, r.review, r.reasons, r.tag, r.classified_at`

func scanResult(row scanner) (bodypart.Result, error) {
	var r bodypart.Result
	var probabilities, reasons string
	var at int64
	if err := row.Scan(&r.InstanceID, &r.ContentMD5, &r.Model, &r.Class, &r.Confidence, &probabilities, &r.Review, &reasons, &r.Tag, &at); err != nil {
		return r, err
	}
	r.ClassifiedAt = fromMillis(at)
	return r, errors.Join(json.Unmarshal([]byte(probabilities), &r.Probabilities), json.Unmarshal([]byte(reasons), &r.Reasons))
}

// PutResult stores a result within tx. There is one for each (instance, content, model); storing it again changes nothing.
func (s *Store) PutResult(ctx context.Context, tx *sql.Tx, r bodypart.Result) error {
	probabilities, err := json.Marshal(r.Probabilities)
	if err != nil {
		return fmt.Errorf("store result of instance %s: %w", r.InstanceID, err)
	}
	reasons, err := json.Marshal(r.Reasons)
	if err != nil {
		return fmt.Errorf("store result of instance %s: %w", r.InstanceID, err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO result (instance_id, content_md5, model, class, confidence, probabilities, review, reasons, tag, classified_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		r.InstanceID, r.ContentMD5, r.Model, r.Class, r.Confidence, string(probabilities), r.Review, string(reasons), r.Tag, toMillis(r.ClassifiedAt))
	return wrap(err, "store result of instance %s", r.InstanceID)
}

// Result returns the result of one content of an instance under one model; ok is false when there is none.
func (s *Store) Result(ctx context.Context, instanceID, md5, model string) (r bodypart.Result, ok bool, err error) {
	r, err = scanResult(s.read.QueryRowContext(ctx, "SELECT "+resultColumns+` FROM result r
		WHERE instance_id = ? AND content_md5 = ? AND model = ?`, instanceID, md5, model))
	if errors.Is(err, sql.ErrNoRows) {
		return r, false, nil
	}
	return r, err == nil, wrap(err, "read result of instance %s", instanceID)
}

// ResultsOf returns the valid result of every instance of a series (level "series") or a study ("studies"), or of the one instance
// ("instances"). Deleted and unreadable instances have none.
func (s *Store) ResultsOf(ctx context.Context, level, resource string) ([]bodypart.Result, error) {
	column, ok := map[string]string{"instances": "id", "series": "series_id", "studies": "study_id"}[level]
	if !ok {
		return nil, fmt.Errorf("results of level %q: unknown level", level)
	}
	return collect(ctx, s.read, scanResult, "SELECT "+resultColumns+` FROM instance i
		JOIN result r ON r.instance_id = i.id AND r.content_md5 = i.content_md5 AND r.model = i.model
		WHERE i.`+column+` = ? AND i.state IN ('due', 'classified', 'published') ORDER BY i.id`, resource)
}

// StudyInstances returns, for a page of studies after the given one that had an instance finished since, their live instances.
func (s *Store) StudyInstances(ctx context.Context, after string, since time.Time, limit int) ([]Instance, error) {
	return collect(ctx, s.read, scanInstance, "SELECT "+instanceColumns+` FROM instance WHERE state = 'published' AND study_id IN (
		SELECT DISTINCT study_id FROM instance WHERE study_id > ? AND finished_at >= ? AND state = 'published' ORDER BY study_id LIMIT ?)
		ORDER BY study_id, series_id, id`, after, toMillis(since), limit)
}

// LabelState says how a label of the ledger stands.
type LabelState string

// The states of a label in the ledger.
const (
	LabelIntended        LabelState = "intended"          // about to be written; after a crash: perhaps written
	LabelWritten         LabelState = "written"           // ours, and confirmed by Orthanc
	LabelRemovedByPerson LabelState = "removed_by_person" // was ours; somebody took it away, and it stays away
	LabelKept            LabelState = "kept"              // ours, of a study whose results were forgotten by age: it stands
)

// Ledger returns the states of the labels that the router ever gave to a resource.
func (s *Store) Ledger(ctx context.Context, level, resource string) (map[string]LabelState, error) {
	type row struct {
		label string
		state LabelState
	}
	rows, err := collect(ctx, s.read, func(sc scanner) (row, error) {
		var r row
		return r, sc.Scan(&r.label, &r.state)
	}, "SELECT label, state FROM label WHERE level = ? AND resource_id = ?", level, resource)
	if err != nil {
		return nil, fmt.Errorf("read ledger of %s %s: %w", level, resource, err)
	}
	out := make(map[string]LabelState, len(rows))
	for _, r := range rows {
		out[r.label] = r.state
	}
	return out, nil
}

// SetLedger writes states into the ledger; the empty state removes a row.
func (s *Store) SetLedger(ctx context.Context, level, resource string, states map[string]LabelState) error {
	if len(states) == 0 {
		return nil
	}
	return s.Tx(ctx, func(tx *sql.Tx) error {
		for label, state := range states {
			var err error
			if state == "" {
				_, err = tx.ExecContext(ctx, "DELETE FROM label WHERE level = ? AND resource_id = ? AND label = ?", level, resource, label)
			} else {
				_, err = tx.ExecContext(ctx, `INSERT INTO label (level, resource_id, label, state, changed_at) VALUES (?, ?, ?, ?, ?)
					ON CONFLICT DO UPDATE SET state = excluded.state, changed_at = excluded.changed_at`, level, resource, label, state, s.millis())
			}
			if err != nil {
				return fmt.Errorf("write ledger of %s %s: %w", level, resource, err)
			}
		}
		return nil
	})
}

// Event is one line of an instance's story.
type Event struct {
	InstanceID string
	At         time.Time
	Stage      string
	Job        int64
	Attempt    int
	Outcome    string
	Detail     string
	Took       time.Duration
}

// AddEvent adds a line to an instance's story within tx.
func (s *Store) AddEvent(ctx context.Context, tx *sql.Tx, e Event) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO event (instance_id, at, stage, job, attempt, outcome, detail, took_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		e.InstanceID, s.millis(), e.Stage, e.Job, e.Attempt, e.Outcome, e.Detail, e.Took.Milliseconds())
	return wrap(err, "note event of instance %s", e.InstanceID)
}

// Events returns the story of an instance, oldest first.
func (s *Store) Events(ctx context.Context, id string) ([]Event, error) {
	return s.LastEvents(ctx, id, -1)
}

// LastEvents returns the last n lines of an instance's story, oldest first.
func (s *Store) LastEvents(ctx context.Context, id string, n int) ([]Event, error) {
	return collect(ctx, s.read, func(sc scanner) (Event, error) {
		var e Event
		var at, took int64
		err := sc.Scan(&e.InstanceID, &at, &e.Stage, &e.Job, &e.Attempt, &e.Outcome, &e.Detail, &took)
		e.At, e.Took = fromMillis(at), time.Duration(took)*time.Millisecond
		return e, err
	}, `SELECT instance_id, at, stage, job, attempt, outcome, detail, took_ms FROM
		(SELECT * FROM event WHERE instance_id = ? ORDER BY id DESC LIMIT ?) ORDER BY id`, id, n)
}

// Prune forgets the stories, results and rows of studies all of whose instances ended before the given time, and their finished
// deliveries. A study is forgotten as a whole: its labels are the union of its instances' results. The ledger stays, and says from then on
// that such a study's labels are kept: nobody knows any more what they rest on, so they are not taken away.
func (s *Store) Prune(ctx context.Context, before time.Time) (int64, error) {
	var n int64
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		const forgotten = "CREATE TEMP TABLE IF NOT EXISTS forgotten (id TEXT PRIMARY KEY, series_id TEXT, study_id TEXT)"
		const choose = `INSERT INTO forgotten SELECT id, series_id, study_id FROM instance i WHERE finished_at > 0 AND finished_at < ? AND done = due
			AND NOT EXISTS (SELECT 1 FROM delivery_item t JOIN delivery d ON d.id = t.delivery_id WHERE t.instance_id = i.id AND d.finished_at = 0)
			AND (study_id = '' OR NOT EXISTS (SELECT 1 FROM gathering g WHERE g.study_id = i.study_id AND g.state IN ('waiting', 'held')))
			AND (study_id = '' OR NOT EXISTS (SELECT 1 FROM instance o WHERE o.study_id = i.study_id
				AND (o.finished_at = 0 OR o.finished_at >= ? OR o.done < o.due
					OR EXISTS (SELECT 1 FROM delivery_item t JOIN delivery d ON d.id = t.delivery_id WHERE t.instance_id = o.id AND d.finished_at = 0))))`
		steps := []struct {
			query string
			args  []any
		}{
			{forgotten, nil}, {"DELETE FROM forgotten", nil}, {choose, []any{toMillis(before), toMillis(before)}},
			{`UPDATE label SET state = 'kept' WHERE state IN ('intended', 'written') AND (level = 'studies' AND resource_id IN (SELECT study_id FROM forgotten)
				OR level = 'series' AND resource_id IN (SELECT series_id FROM forgotten) OR level = 'instances' AND resource_id IN (SELECT id FROM forgotten))`, nil},
			{"DELETE FROM event WHERE instance_id IN (SELECT id FROM forgotten)", nil},
			{"DELETE FROM result WHERE instance_id IN (SELECT id FROM forgotten)", nil},
			// A delivery goes when none of the instances that it holds is known any more; what a study held beside X-rays goes with it.
			{`CREATE TEMP TABLE IF NOT EXISTS forgotten_delivery (id TEXT PRIMARY KEY)`, nil}, {"DELETE FROM forgotten_delivery", nil},
			{`INSERT INTO forgotten_delivery SELECT DISTINCT t.delivery_id FROM delivery_item t JOIN forgotten f ON f.id = t.instance_id
				WHERE NOT EXISTS (SELECT 1 FROM delivery_item o JOIN instance i ON i.id = o.instance_id
					WHERE o.delivery_id = t.delivery_id AND i.id NOT IN (SELECT id FROM forgotten))`, nil},
			{"DELETE FROM delivery_item WHERE delivery_id IN (SELECT id FROM forgotten_delivery)", nil},
			{"DELETE FROM delivery WHERE id IN (SELECT id FROM forgotten_delivery)", nil},
			{"DELETE FROM gathering WHERE study_id IN (SELECT study_id FROM forgotten WHERE study_id <> '')", nil},
		}
		for _, step := range steps {
			if _, err := tx.ExecContext(ctx, step.query, step.args...); err != nil {
				return fmt.Errorf("prune: %w", err)
			}
		}
		res, err := tx.ExecContext(ctx, "DELETE FROM instance WHERE id IN (SELECT id FROM forgotten)")
		if err != nil {
			return fmt.Errorf("prune: %w", err)
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}
