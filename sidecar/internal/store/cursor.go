package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

const changesCursor = "changes"

// Cursor is where the follower of Orthanc's /changes stands.
type Cursor struct {
	Seq  int64 // the last row that was taken in
	Live int64 // rows up to this one are a replay: their instances are labelled, not forwarded
}

// Anchor is a row of /changes that the follower has seen. A row with the same Seq and another id or date means that Orthanc's
// database was reset or restored.
type Anchor struct {
	Seq      int64
	ID, Date string
}

// Cursor returns the follower's position; ok is false before the first start.
func (s *Store) Cursor(ctx context.Context) (c Cursor, ok bool, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT seq, live FROM cursor WHERE name = ?", changesCursor).Scan(&c.Seq, &c.Live)
	if errors.Is(err, sql.ErrNoRows) {
		return c, false, nil
	}
	return c, err == nil, wrap(err, "read cursor")
}

// FromBeginning says whether the follower shall read Orthanc's changes from the beginning at its first start, because the database was
// begun anew after a damage.
func (s *Store) FromBeginning(ctx context.Context) (bool, error) {
	_, _, ok, err := s.Setting(ctx, SettingFromBeginning)
	return ok, err
}

// SetCursor moves the follower within tx. The anchors are added; of all, the newest keep are kept.
func (s *Store) SetCursor(ctx context.Context, tx *sql.Tx, c Cursor, anchors []Anchor, keep int) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO cursor (name, seq, live) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET seq = excluded.seq, live = excluded.live`, changesCursor, c.Seq, c.Live); err != nil {
		return fmt.Errorf("move cursor: %w", err)
	}
	for _, a := range anchors {
		if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO anchor (seq, id, date) VALUES (?, ?, ?)", a.Seq, a.ID, a.Date); err != nil {
			return fmt.Errorf("set anchor: %w", err)
		}
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM anchor WHERE seq NOT IN (SELECT seq FROM anchor ORDER BY seq DESC LIMIT ?)", keep)
	return wrap(err, "drop old anchors")
}

// ResetCursor forgets within tx all anchors and sets the position anew.
func (s *Store) ResetCursor(ctx context.Context, tx *sql.Tx, c Cursor) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM anchor"); err != nil {
		return fmt.Errorf("drop anchors: %w", err)
	}
	return s.SetCursor(ctx, tx, c, nil, 0)
}

// Anchors returns the kept anchors, newest first.
func (s *Store) Anchors(ctx context.Context) ([]Anchor, error) {
	return collect(ctx, s.read, func(sc scanner) (Anchor, error) {
		var a Anchor
		return a, sc.Scan(&a.Seq, &a.ID, &a.Date)
	}, "SELECT seq, id, date FROM anchor ORDER BY seq DESC")
}
