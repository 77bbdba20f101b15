package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrDamaged says that the file is no sound database any more: something else wrote into it, or the disk lost a part of it.
var ErrDamaged = errors.New(`the database file is damaged: "imaging-router database repair" salvages what can be read, ` +
	`"imaging-router database reset" begins anew; both keep the damaged file`)

// IsDamaged says whether an error of any reading or writing means that the file is damaged.
func IsDamaged(err error) bool {
	if errors.Is(err, ErrDamaged) {
		return true
	}
	var fault *sqlite.Error
	if !errors.As(err, &fault) {
		return false
	}
	code := fault.Code() & 0xFF // without the extension
	return code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB
}

// Damage adds ErrDamaged to an error that means it.
func Damage(err error) error {
	if err == nil || errors.Is(err, ErrDamaged) || !IsDamaged(err) {
		return err
	}
	return fmt.Errorf("%w (%w)", ErrDamaged, err)
}

// Check goes through the whole file and returns ErrDamaged, with the first fault found, when its structure is broken. A value that
// changed without breaking the structure is not noticed: SQLite keeps no checksums.
func (s *Store) Check(ctx context.Context) error {
	var verdict string
	err := s.read.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict)
	switch {
	case err != nil:
		return fmt.Errorf("check database %s: %w", s.path, Damage(err))
	case verdict != "ok":
		return fmt.Errorf("check database %s: %w (%s)", s.path, ErrDamaged, verdict)
	default:
		return nil
	}
}

// SettingFromBeginning is the setting that lets the follower read Orthanc's changes from the beginning at its next first start, whatever
// intake.from says: what is there gets labels again, and is not forwarded.
const SettingFromBeginning = "from_beginning"

// Reset moves the file at path aside and leaves an empty database there, which knows that the archive has to be read from the
// beginning. The switches that people have set (forwarding off, a paused destination) go over, where they can be read: kept says so.
// aside is where the old file is now. ErrLocked while a router works on it.
func Reset(ctx context.Context, path string) (kept bool, aside string, err error) {
	lock, err := lockFile(path)
	if err != nil {
		return false, "", err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	fresh := path + ".new"
	if err := removeFiles(fresh); err != nil {
		return false, "", err
	}
	s, err := Open(ctx, fresh)
	if err != nil {
		return false, "", err
	}
	if old, err := openDamaged(path); err == nil {
		settings, err := s.salvageTable(ctx, old, "setting", "name")
		kept = err == nil && settings.Lost == nil
		_ = old.Close()
	}
	if err := errors.Join(s.SetSetting(ctx, SettingFromBeginning, "1"), s.Close()); err != nil {
		return kept, "", err
	}
	aside, err = exchange(path, fresh)
	return kept, aside, err
}

// exchange moves the file at path aside and puts another one in its place. Whatever stops it in between, the next start finds either file,
// or none and then says so.
func exchange(path, fresh string) (aside string, err error) {
	aside = path + ".damaged-" + time.Now().UTC().Format("20060102T150405Z")
	if _, err := os.Stat(aside); err == nil {
		return "", fmt.Errorf("move the damaged database aside: %s is there already", aside)
	}
	if err := inherit(path, fresh); err != nil {
		return "", err
	}
	for _, suffix := range []string{"-wal", "-shm", ""} { // the journal first: it must never lie beside another file
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("move the damaged database aside: %w", err)
		}
	}
	if err := os.Rename(fresh, path); err != nil {
		return aside, fmt.Errorf("put the new database in its place: %w", err)
	}
	return aside, nil
}

// inherit gives the new file the old one's owner and mode: root repairs it, and the service's user has to open it.
func inherit(path, fresh string) error {
	old, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.Chmod(fresh, old.Mode().Perm())
	}
	if owner, is := old.Sys().(*syscall.Stat_t); err == nil && is && os.Geteuid() == 0 {
		err = os.Chown(fresh, int(owner.Uid), int(owner.Gid))
	}
	if err != nil {
		return fmt.Errorf("give the new database the old one's owner: %w", err)
	}
	return nil
}

// removeFiles removes what an interrupted run has left.
func removeFiles(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	return nil
}

// lockFile takes the lock that keeps two processes from working on the same database.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock database: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (%s)", ErrLocked, path)
		}
		return nil, fmt.Errorf("lock database: %w", err)
	}
	return f, nil
}
