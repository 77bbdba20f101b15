package jobs

import (
	"context"
	"database/sql"
	"fmt"
	"time"
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
		enqueue       func(id, destination string) (int64, error)
	}{
		{
			"SELECT id, '' FROM instance WHERE state = 'due' AND done < due AND classify_job NOT IN (SELECT id FROM river_job WHERE state IN " + unfinished + ")",
			"UPDATE instance SET classify_job = ? WHERE id = ?",
			func(id, _ string) (int64, error) { return q.Classify(ctx, tx, id, Live) },
		},
		{
			"SELECT id, '' FROM instance WHERE state = 'classified' AND publish_job NOT IN (SELECT id FROM river_job WHERE state IN " + unfinished + ")",
			"UPDATE instance SET publish_job = ? WHERE id = ?",
			func(id, _ string) (int64, error) { return q.Publish(ctx, tx, id, Live) },
		},
		{
			"SELECT id, destination FROM delivery WHERE finished_at = 0 AND job NOT IN (SELECT id FROM river_job WHERE state IN " + unfinished + ")",
			"UPDATE delivery SET job = ? WHERE id = ?",
			func(id, destination string) (int64, error) { return q.Deliver(ctx, tx, id, destination) },
		},
	}
	n := 0
	for _, r := range repairs {
		rows, err := pairs(ctx, tx, r.query)
		if err != nil {
			return n, fmt.Errorf("look for lost jobs: %w", err)
		}
		for _, row := range rows {
			job, err := r.enqueue(row[0], row[1])
			if err != nil {
				return n, err
			}
			if _, err := tx.ExecContext(ctx, r.update, job, row[0]); err != nil {
				return n, fmt.Errorf("repair %s: %w", row[0], err)
			}
			n++
		}
	}
	return n, nil
}

func pairs(ctx context.Context, tx *sql.Tx, query string) ([][2]string, error) {
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out [][2]string
	for rows.Next() {
		var p [2]string
		if err := rows.Scan(&p[0], &p[1]); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}
