// Package store holds the router's own tables in one SQLite file: what is due, results, the ledger of labels, deliveries, and the
// story of each instance. It knows Orthanc identifiers and times only, never a patient's data, and it never calls Orthanc.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is one SQLite file. Write goes through a single connection, as SQLite has one writer anyway; reads have their own.
type Store struct {
	path  string
	write *sql.DB
	read  *sql.DB
	lock  *os.File
	now   func() time.Time
}

// ErrLocked says that another router works on the same database file.
var ErrLocked = errors.New("another imaging-router works on this database")

// Open opens or creates the file at path and brings its tables up to date. The journal is WAL with synchronous=FULL: what was
// committed survives a power cut.
func Open(ctx context.Context, path string) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	write, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	s := &Store{path: path, write: write, now: time.Now}
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, Damage(err)), write.Close())
	}
	if s.read, err = sql.Open("sqlite", dsn(path)+"&_pragma=query_only(1)"); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), write.Close())
	}
	s.read.SetMaxOpenConns(4)
	return s, nil
}

func dsn(path string) string {
	return dsnOf(path, "busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)")
}

func dsnOf(path string, pragmas ...string) string {
	q := url.Values{"_txlock": {"immediate"}, "_pragma": pragmas}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

// Lock makes this process the only one that works on the file's jobs, until Close. Commands that only look or mark (jobs,
// forwarding) do not need it. ErrLocked when another process holds it; the lock of a killed process is gone with it.
func (s *Store) Lock() error {
	f, err := lockFile(s.path)
	if err != nil {
		return err
	}
	s.lock = f
	return nil
}

// Close closes the file and gives the lock back.
func (s *Store) Close() error {
	err := errors.Join(s.read.Close(), s.write.Close())
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

// DB is the writing connection, which the queue shares so that one transaction can finish a job and change our tables.
func (s *Store) DB() *sql.DB { return s.write }

// Tx runs f in one transaction on the writing connection. Everything inside must go through tx: the connection is the only one.
// Nothing inside may call Orthanc.
func (s *Store) Tx(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // no-op after Commit
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return nil
}

// Writable proves that the file takes a write, for the readiness probe.
func (s *Store) Writable(ctx context.Context) error {
	return s.SetSetting(ctx, "ready", "1")
}

func (s *Store) migrate(ctx context.Context) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	sort.Strings(names)
	var version int
	if err := s.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if version > len(names) {
		return fmt.Errorf("the file has schema version %d, this router knows %d: it was written by a newer release", version, len(names))
	}
	for i := version; i < len(names); i++ {
		text, err := migrations.ReadFile(names[i])
		if err != nil {
			return err
		}
		err = s.Tx(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, string(text)); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", i+1))
			return err
		})
		if err != nil {
			return fmt.Errorf("migration %s: %w", names[i], err)
		}
	}
	return nil
}

// SettingHookHeard is the setting whose time of change says when Orthanc's hook was last heard, to the minute.
const SettingHookHeard = "hook_heard"

// SettingVolumeBrake is the setting that says that the volume brake holds, and why; "" after a person has released it.
const SettingVolumeBrake = "volume_brake"

// Setting returns a setting's value and when it was changed; ok is false when it was never set.
func (s *Store) Setting(ctx context.Context, name string) (value string, changed time.Time, ok bool, err error) {
	var at int64
	err = s.read.QueryRowContext(ctx, "SELECT value, changed_at FROM setting WHERE name = ?", name).Scan(&value, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return "", time.Time{}, false, nil
	}
	if err != nil {
		return "", time.Time{}, false, fmt.Errorf("read setting %s: %w", name, err)
	}
	return value, fromMillis(at), true, nil
}

// SetSetting writes a setting.
func (s *Store) SetSetting(ctx context.Context, name, value string) error {
	return s.setSetting(ctx, s.write, name, value)
}

// SetSettingIn writes a setting within tx.
func (s *Store) SetSettingIn(ctx context.Context, tx *sql.Tx, name, value string) error {
	return s.setSetting(ctx, tx, name, value)
}

func (s *Store) setSetting(ctx context.Context, to interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}, name, value string) error {
	_, err := to.ExecContext(ctx, `INSERT INTO setting (name, value, changed_at) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value, changed_at = excluded.changed_at`, name, value, s.millis())
	if err != nil {
		return fmt.Errorf("write setting %s: %w", name, err)
	}
	return nil
}

func (s *Store) millis() int64 { return s.now().UnixMilli() }

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Reader is the handle for reading, which never waits for the writing connection.
func (s *Store) Reader() *sql.DB { return s.read }
