package jobs

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"imagingrouter/sidecar/internal/store"
)

// Depth is the number of unfinished jobs of one kind in one state, and since when the oldest that is ready waits.
type Depth struct {
	Kind, State string
	N           int64
	Oldest      time.Time
}

// Depths counts the unfinished jobs. db may be a read-only handle.
func Depths(ctx context.Context, db *sql.DB) ([]Depth, error) {
	rows, err := db.QueryContext(ctx, `SELECT kind, state, count(*), CAST(unixepoch(min(scheduled_at), 'subsec') * 1000 AS INTEGER) FROM river_job
		WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') GROUP BY kind, state ORDER BY kind, state`)
	if err != nil {
		return nil, fmt.Errorf("count jobs: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []Depth
	for rows.Next() {
		var d Depth
		var at sql.NullInt64
		if err := rows.Scan(&d.Kind, &d.State, &d.N, &at); err != nil {
			return nil, fmt.Errorf("count jobs: %w", err)
		}
		if at.Valid {
			d.Oldest = time.UnixMilli(at.Int64).UTC()
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

const unfinished = "('available', 'pending', 'retryable', 'running', 'scheduled')"

// Repair enqueues within tx the jobs of rows whose work is open and whose job is not in the queue: it was lost with a restored
// backup, deleted by hand, or discarded by an older release. It returns how many jobs it enqueued.
func (q *Queue) Repair(ctx context.Context, tx *sql.Tx) (int, error) {
	repairs := []struct {
		query, update string
		enqueue       func(l lost) (int64, error)
	}{
		{
			"SELECT id, '', 0, 0 FROM instance WHERE state = 'due' AND done < due AND classify_job NOT IN (SELECT id FROM river_job WHERE state IN " + unfinished + ")",
			"UPDATE instance SET classify_job = ? WHERE id = ?",
			func(l lost) (int64, error) { return q.Classify(ctx, tx, l.id, Live) },
		},
		{
			"SELECT id, '', 0, 0 FROM instance WHERE state = 'classified' AND publish_job NOT IN (SELECT id FROM river_job WHERE state IN " + unfinished + ")",
			"UPDATE instance SET publish_job = ? WHERE id = ?",
			func(l lost) (int64, error) { return q.Publish(ctx, tx, l.id, Live) },
		},
		{
			"SELECT id, CASE WHEN via = '' THEN destination ELSE via END, priority, not_before FROM delivery WHERE state IN ('pending', 'submitting', 'sent') AND job NOT IN (SELECT id FROM river_job WHERE state IN " + unfinished + ")",
			"UPDATE delivery SET job = ? WHERE id = ?",
			func(l lost) (int64, error) { return q.Deliver(ctx, tx, l.id, l.destination, l.priority, l.notBefore) },
		},
		{
			"SELECT DISTINCT resource_id, level, 0, 0 FROM gathering WHERE state IN ('waiting', 'held') AND job NOT IN (SELECT id FROM river_job WHERE state IN " + unfinished + ")",
			"UPDATE gathering SET job = ? WHERE resource_id = ?",
			func(l lost) (int64, error) { return q.Gather(ctx, tx, store.Level(l.destination), l.id) },
		},
	}
	n := 0
	for _, r := range repairs {
		rows, err := lostRows(ctx, tx, r.query)
		if err != nil {
			return n, fmt.Errorf("look for lost jobs: %w", err)
		}
		for _, row := range rows {
			job, err := r.enqueue(row)
			if err != nil {
				return n, err
			}
			if _, err := tx.ExecContext(ctx, r.update, job, row.id); err != nil {
				return n, fmt.Errorf("repair %s: %w", row.id, err)
			}
			n++
		}
	}
	return n, nil
}

// lost is a row without its job.
type lost struct {
	id, destination string // of a wait for a series or study: the resource and its level
	priority        Priority
	notBefore       time.Time
}

func lostRows(ctx context.Context, tx *sql.Tx, query string) ([]lost, error) {
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []lost
	for rows.Next() {
		var l lost
		var notBefore int64
		if err := rows.Scan(&l.id, &l.destination, &l.priority, &notBefore); err != nil {
			return nil, err
		}
		if notBefore > 0 {
			l.notBefore = time.UnixMilli(notBefore)
		}
		out = append(out, l)
	}
	return out, rows.Err()
}
