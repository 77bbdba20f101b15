package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// tables are ours, in the order of their worth. River's are not among them: the next start makes the jobs of open work anew.
var tables = []struct{ name, key string }{
	{"setting", "name"}, {"cursor", "name"}, {"anchor", "seq"}, {"label", "level, resource_id, label"}, {"instance", "id"},
	{"result", "instance_id, content_md5, model"}, {"delivery", "id"}, {"delivery_item", "delivery_id, instance_id, destination"},
	{"gathering", "level, resource_id, rule"}, {"event", "id"},
}

// Salvaged says what became of one table.
type Salvaged struct {
	Table string
	Rows  int64
	Lost  error // nil: all of it could be read; else why not all
}

// Salvage reads what can be read of the damaged file at path into a new one that takes its place, and returns what that was, table by
// table, and where the damaged file is now. The follower reads Orthanc's changes from the beginning afterwards: what the
// file has lost is labelled again, and nothing of it is forwarded. ErrLocked while a router works on the file.
func Salvage(ctx context.Context, path string) (tables []Salvaged, aside string, err error) {
	lock, err := lockFile(path)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	fresh := path + ".new"
	if err := removeFiles(fresh); err != nil {
		return nil, "", err
	}
	s, err := Open(ctx, fresh)
	if err != nil {
		return nil, "", err
	}
	if tables, err = s.salvage(ctx, path); err != nil {
		return nil, "", errors.Join(err, s.Close(), removeFiles(fresh))
	}
	if err := errors.Join(s.Check(ctx), s.Close()); err != nil {
		return nil, "", err
	}
	aside, err = exchange(path, fresh)
	return tables, aside, err
}

// openDamaged opens a file that may be broken anywhere, for reading only: no pragma that writes, and above all no journal_mode, which alone
// fails on some damaged files.
func openDamaged(path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsnOf(path, "busy_timeout(10000)", "query_only(1)", "cell_size_check(0)"))
	if err != nil {
		return nil, fmt.Errorf("open damaged database %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// salvage fills the empty database from the damaged one.
func (s *Store) salvage(ctx context.Context, path string) ([]Salvaged, error) {
	damaged, err := openDamaged(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = damaged.Close() }()
	var version, known int
	if err := damaged.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return nil, fmt.Errorf(`nothing can be read of %s (%w): "imaging-router database reset" begins anew`, path, err)
	}
	if err := s.read.QueryRowContext(ctx, "PRAGMA user_version").Scan(&known); err != nil {
		return nil, err
	}
	if version != known {
		return nil, fmt.Errorf("the damaged file says schema version %d, this release writes %d: repair it with the release that wrote it, or begin anew with \"imaging-router database reset\"", version, known)
	}
	var all []Salvaged
	rows := int64(0)
	for _, t := range tables {
		one, err := s.salvageTable(ctx, damaged, t.name, t.key)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
		rows += one.Rows
	}
	if rows == 0 {
		return nil, fmt.Errorf(`nothing can be read of %s (%w): "imaging-router database reset" begins anew`, path, all[0].Lost)
	}
	return all, s.Tx(ctx, func(tx *sql.Tx) error { return s.mend(ctx, tx) })
}

// salvageTable copies a table's rows from the front, and when a broken page ends that, from the back.
func (s *Store) salvageTable(ctx context.Context, damaged *sql.DB, name, key string) (Salvaged, error) {
	one := Salvaged{Table: name}
	columns, err := collect(ctx, s.read, scanText, "SELECT name FROM pragma_table_info(?)", name) // of ours: what stands in the damaged file is anything
	if err != nil {
		return one, err
	}
	forwards := "SELECT " + strings.Join(columns, ", ") + " FROM " + name
	backwards := forwards + " ORDER BY " + strings.ReplaceAll(key, ",", " DESC,") + " DESC"
	insert := "INSERT OR IGNORE INTO " + name + " (" + strings.Join(columns, ", ") + ") VALUES (" + marks(len(columns)) + ")"
	for _, query := range []string{forwards, backwards} {
		n, broken, err := s.copyRows(ctx, damaged, query, insert, len(columns))
		if err != nil {
			return one, err
		}
		one.Rows += n
		if one.Lost = errors.Join(one.Lost, broken); broken == nil {
			break
		}
	}
	return one, nil
}

// copyRows inserts what a query over the damaged file yields until it ends or breaks, and counts what is new. broken says why it broke; err is
// trouble with the new file.
func (s *Store) copyRows(ctx context.Context, damaged *sql.DB, query, insert string, columns int) (n int64, broken, err error) {
	rows, broken := damaged.QueryContext(ctx, query)
	if broken != nil {
		return 0, broken, ctx.Err()
	}
	defer func() { _ = rows.Close() }()
	values, into := make([]any, columns), make([]any, columns)
	for i := range values {
		into[i] = &values[i]
	}
	err = s.Tx(ctx, func(tx *sql.Tx) error {
		for broken == nil && rows.Next() {
			if broken = rows.Scan(into...); broken == nil {
				added, err := rowsAffected(tx.ExecContext(ctx, insert, values...))
				if err != nil {
					return fmt.Errorf("write a salvaged row: %w", err)
				}
				n += added
			}
		}
		broken = errors.Join(broken, rows.Err())
		return ctx.Err()
	})
	return n, broken, err
}

func rowsAffected(res sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// mend makes the salvaged rows fit together: no job exists any more, a state that no release knows is forgotten with its row, and the
// follower begins again, with everything up to where it stood as a replay.
func (s *Store) mend(ctx context.Context, tx *sql.Tx) error {
	var states, deliveries, gatherings []any
	for _, st := range States() {
		states = append(states, st)
	}
	for _, st := range DeliveryStates() {
		deliveries = append(deliveries, st)
	}
	for _, st := range GatheringStates() {
		gatherings = append(gatherings, st)
	}
	for _, step := range []struct {
		statement string
		args      []any
	}{
		{"DELETE FROM instance WHERE state NOT IN (" + marks(len(states)) + ")", states},
		{"DELETE FROM delivery WHERE state NOT IN (" + marks(len(deliveries)) + ")", deliveries},
		{"DELETE FROM gathering WHERE state NOT IN (" + marks(len(gatherings)) + ")", gatherings},
		// Without its result an instance would count as one of no class: it is looked at again. What the rules have decided about it stands.
		{`UPDATE instance SET state = 'due', due = due + 1, finished_at = 0 WHERE state IN ('classified', 'published')
			AND NOT EXISTS (SELECT 1 FROM result r WHERE r.instance_id = instance.id AND r.content_md5 = instance.content_md5 AND r.model = instance.model)`, nil},
		{"UPDATE instance SET classify_job = 0, publish_job = 0", nil},
		{"UPDATE delivery SET job = 0", nil},
		{"UPDATE gathering SET job = 0", nil},
		// What a delivery of one instance holds stands in its own row too: without it the instance would count as never sent.
		{`INSERT OR IGNORE INTO delivery_item (delivery_id, instance_id, destination, content_md5, file_uuid)
			SELECT id, resource_id, destination, content, '' FROM delivery WHERE level = 'instances' AND id NOT IN (SELECT delivery_id FROM delivery_item)
			UNION ALL SELECT id, resource_id, via, content, '' FROM delivery WHERE level = 'instances' AND via <> '' AND id NOT IN (SELECT delivery_id FROM delivery_item)`, nil},
		{`UPDATE delivery SET state = 'failed', reason = 'its instances were lost with the damaged database file', finished_at = ? WHERE finished_at = 0
			AND id NOT IN (SELECT delivery_id FROM delivery_item)`, []any{s.millis()}},
		{"UPDATE cursor SET live = max(live, seq), seq = 0", nil},
		{"INSERT OR REPLACE INTO setting (name, value, changed_at) SELECT ?, '1', ? WHERE NOT EXISTS (SELECT 1 FROM cursor)", []any{SettingFromBeginning, s.millis()}},
	} {
		if _, err := tx.ExecContext(ctx, step.statement, step.args...); err != nil {
			return fmt.Errorf("mend salvaged rows: %w", err)
		}
	}
	return nil
}
