package faults

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// beginning is what the router's log says when it has no place in the archive's changes yet.
const beginning = "follower: first start"

// overwriteHeader: something else has written over the beginning of the database.
func (w *world) overwriteHeader(f *fault) error {
	return w.damage(f, func(file *os.File, _ int64) error {
		_, err := file.WriteAt(junk(f, 16+f.random.IntN(200)), 0)
		return err
	})
}

const pageSize = 4096 // SQLite's default

// overwritePages: the disk has lost pages of the database, wherever they are.
func (w *world) overwritePages(f *fault) error {
	return w.damage(f, func(file *os.File, size int64) error {
		for range 1 + f.random.IntN(5) {
			page := 1 + f.random.Int64N(size/pageSize-1) // the first one is the other fault's
			if _, err := file.WriteAt(junk(f, pageSize), page*pageSize); err != nil {
				return err
			}
			f.notef("page %d of %d", page+1, size/pageSize)
		}
		return nil
	})
}

// damage spoils the database of a stopped router. The router must not start with it and say what helps; that is done, and what then is to be
// expected is noted.
func (w *world) damage(f *fault, overwrite func(file *os.File, size int64) error) error {
	w.hurry(2)
	time.Sleep(f.span(0, 1000))
	if err := errors.Join(w.router.Kill(), w.settle()); err != nil {
		return err
	}
	at := time.Now()
	for sound := true; sound; sound = w.check() == "ok" { // until a page is hit that matters
		file, err := os.OpenFile(w.router.Database(), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		size, err := file.Seek(0, 2)
		if err := errors.Join(err, overwrite(file, size), file.Close()); err != nil {
			return err
		}
	}
	if err := w.refused("database repair", "database reset", w.router.Database()); err != nil {
		return err
	}
	if said, errs, status, err := w.router.Run(w.ctx, "database", "check"); err != nil || status == 0 || !strings.Contains(errs, "damaged") {
		return fmt.Errorf("database check: exit status %d, %w\n%s%s", status, err, said, errs)
	}
	b, err := w.mendDatabase(f)
	if err != nil {
		return err
	}
	before := strings.Count(w.router.Log(), beginning)
	if err := w.router.Start(w.ctx); err != nil {
		return err
	}
	// Until the follower has its place, what comes may be taken for old.
	err = w.eventually("the follower begins again", func() error {
		if n, err := w.router.Query(w.ctx, "SELECT count(*) FROM cursor WHERE seq > 0"); err != nil || n == 0 {
			return fmt.Errorf("no cursor yet (%w)", err)
		}
		return nil
	})
	to := at
	if strings.Count(w.router.Log(), beginning) > before {
		time.Sleep(2 * time.Second)
		to = time.Now()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	b.to, b.lost, b.at = to, true, at
	w.blind = append(w.blind, b)
	return err
}

// inPart finds the tables of which "database repair" says that it could not read all.
var inPart = regexp.MustCompile(`(?m)^(\S+)\s+\d+\s+in part`)

// mendDatabase repairs the database, or begins a new one where the seed or the damage wants it, and says what was forgotten.
func (w *world) mendDatabase(f *fault) (b blindness, err error) {
	if f.random.IntN(3) > 0 {
		said, errs, status, err := w.router.Run(w.ctx, "database", "repair")
		if err != nil || status == 0 {
			f.notef("repaired: %s", strings.Join(strings.Fields(said), " "))
			for _, table := range inPart.FindAllStringSubmatch(said, -1) {
				b.deliveries = b.deliveries || table[1] == "delivery"
				b.items = b.items || table[1] == "delivery_item"
			}
			return b, err
		}
		if !strings.Contains(errs, "database reset") {
			return b, fmt.Errorf("database repair: exit status %d\n%s%s", status, said, errs)
		}
		f.notef("beyond repair: %s", strings.TrimSpace(errs))
	}
	said, errs, status, err := w.router.Run(w.ctx, "database", "reset", "--yes")
	if err != nil || status != 0 {
		return b, fmt.Errorf("database reset: exit status %d, %w\n%s%s", status, err, said, errs)
	}
	f.notef("begun anew")
	return blindness{reset: true}, nil
}

// settle brings the journal of a killed router into the file, so that damage to the file is damage to what counts.
func (w *world) settle() error {
	db, err := sql.Open("sqlite", w.router.Database())
	if err != nil {
		return err
	}
	_, err = db.ExecContext(w.ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	return errors.Join(err, db.Close())
}

// check says what SQLite itself makes of the file.
func (w *world) check() string {
	rows, err := w.router.Rows(w.ctx, "PRAGMA quick_check(1)")
	if err != nil {
		return err.Error()
	}
	return rows[0][0]
}
