package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagingrouter/sidecar/internal/bodypart"
)

const many = 3000

// filled makes a database of many instances with their stories, a switch, a cursor and an open delivery, and returns its path.
func filled(t *testing.T) string {
	t.Helper()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "router.db")
	s := must(Open(ctx, path))(t)
	inTx(t, s, func(tx *sql.Tx) error {
		for i := range many {
			id := fmt.Sprintf("%08x-00000000-00000000-00000000-00000000", i*7919)
			if _, err := s.Mark(ctx, tx, id, SourceHook); err != nil {
				return err
			}
			if err := errors.Join(s.SetClassifyJob(ctx, tx, id, 5), s.AddEvent(ctx, tx, Event{InstanceID: id, Stage: "classify", Outcome: "spine 0.99"})); err != nil {
				return err
			}
		}
		_, _, err := s.AddDelivery(ctx, tx, Delivery{Level: LevelInstance, ResourceID: one, Destination: "spine-ai", Rule: "spines", Priority: 2, Content: "m"}, ResendChanged,
			[]Item{{InstanceID: one, ContentMD5: "m", FileUUID: "f"}})
		return errors.Join(err, s.SetSettingIn(ctx, tx, "forwarding", "off"), s.SetCursor(ctx, tx, Cursor{Seq: 700, Live: 20}, nil, 4))
	})
	if err := s.Check(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// overwrite puts nonsense over a part of the file, given as shares of its length.
func overwrite(t *testing.T, path string, from, to float64) {
	t.Helper()
	content := must(os.ReadFile(path))(t)
	a, b := int(from*float64(len(content))), int(to*float64(len(content)))
	copy(content[a:b], bytes.Repeat([]byte("no page of a database "), (b-a)/22+1))
	if err := os.WriteFile(path, content, 0o640); err != nil {
		t.Fatal(err)
	}
}

// checked opens and checks the file as serve does.
func checked(ctx context.Context, path string) error {
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	return errors.Join(s.Check(ctx), s.Close())
}

func TestSalvage(t *testing.T) {
	for name, part := range map[string][2]float64{"in the middle": {0.4, 0.5}, "towards the end": {0.8, 0.9}, "a third of it": {0.3, 0.63}} {
		t.Run(name, func(t *testing.T) {
			ctx, path := t.Context(), filled(t)
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
			overwrite(t, path, part[0], part[1])
			err := checked(ctx, path)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "imaging-router database repair") || !IsDamaged(err) {
				t.Fatalf("the damaged file is taken: %v", err)
			}
			tables, aside, err := Salvage(ctx, path)
			if err != nil {
				t.Fatal(err)
			}
			rows, lost := int64(0), 0
			for _, one := range tables {
				rows += one.Rows
				if one.Lost != nil {
					lost++
				}
			}
			if lost == 0 || rows < many/2 || rows >= 2*many+10 {
				t.Errorf("%d tables broken, %d rows salvaged: %v", lost, rows, tables)
			}
			if _, err := os.Stat(aside); err != nil || !strings.Contains(aside, "router.db.damaged-") {
				t.Errorf("the damaged file is not kept: %v", err)
			}
			if info := must(os.Stat(path))(t); info.Mode().Perm() != 0o640 {
				t.Errorf("the new file has mode %v", info.Mode())
			}
			if err := checked(ctx, path); err != nil {
				t.Errorf("the new file: %v", err)
			}
			s := must(Open(ctx, path))(t)
			defer func() { _ = s.Close() }()
			var jobs int
			if err := s.Reader().QueryRowContext(ctx, "SELECT (SELECT count(*) FROM instance WHERE classify_job <> 0) + (SELECT count(*) FROM delivery WHERE job <> 0)").Scan(&jobs); err != nil || jobs != 0 {
				t.Errorf("%d rows name a job that is not there: %v", jobs, err)
			}
			c, known, err := s.Cursor(ctx)
			again := must(s.FromBeginning(ctx))(t)
			if err != nil || known == again || known && (c != Cursor{Seq: 0, Live: 700}) {
				t.Errorf("cursor %+v, known %t, from the beginning %t: %v", c, known, again, err)
			}
		})
	}
}

// A sound file loses nothing by a repair.
func TestSalvageOfASoundFile(t *testing.T) {
	ctx, path := t.Context(), filled(t)
	tables, _, err := Salvage(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, one := range tables {
		if one.Lost != nil {
			t.Errorf("%s: %v", one.Table, one.Lost)
		}
		got[one.Table] = one.Rows
	}
	if got["instance"] != many || got["event"] != many || got["delivery"] != 1 || got["delivery_item"] != 1 || got["cursor"] != 1 || got["setting"] != 1 {
		t.Errorf("%v", got)
	}
	s := must(Open(ctx, path))(t)
	defer func() { _ = s.Close() }()
	if value, _, _, err := s.Setting(ctx, "forwarding"); err != nil || value != "off" {
		t.Errorf("forwarding %q, %v", value, err)
	}
}

// The list of what deliveries hold is lost, and the deliveries are not: an instance that was delivered by itself still counts as delivered.
func TestSalvageWithoutItems(t *testing.T) {
	ctx, path := t.Context(), filled(t)
	s := must(Open(ctx, path))(t)
	must(s.write.ExecContext(ctx, "DELETE FROM delivery_item"))(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Salvage(ctx, path); err != nil {
		t.Fatal(err)
	}
	s = must(Open(ctx, path))(t)
	defer func() { _ = s.Close() }()
	inTx(t, s, func(tx *sql.Tx) error {
		left, err := s.Uncovered(ctx, tx, "spine-ai", ResendChanged, []Item{{InstanceID: one, ContentMD5: "m", FileUUID: "f"}})
		if err == nil && len(left) != 0 {
			t.Errorf("would be sent again: %+v", left)
		}
		return err
	})
	var state string
	if err := s.read.QueryRowContext(ctx, "SELECT state FROM delivery").Scan(&state); err != nil || state != "pending" {
		t.Errorf("the delivery is %s: %v", state, err)
	}
}

// A result is lost, and its instance is not: it is looked at again.
func TestSalvageWithoutResults(t *testing.T) {
	ctx, path := t.Context(), filled(t)
	s := must(Open(ctx, path))(t)
	inTx(t, s, func(tx *sql.Tx) error {
		for _, id := range []string{one, two} {
			if _, err := s.Mark(ctx, tx, id, SourceHook); err != nil {
				return err
			}
			if _, err := s.Classified(ctx, tx, id, 1, Content{StudyID: study, SeriesID: series, FileUUID: "f", MD5: "m", Model: "net@1"}); err != nil {
				return err
			}
			if _, err := s.Published(ctx, tx, id, 1); err != nil {
				return err
			}
		}
		return s.PutResult(ctx, tx, bodypart.Result{Prediction: bodypart.Prediction{Class: bodypart.Spine}, InstanceID: two, ContentMD5: "m", Model: "net@1"})
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Salvage(ctx, path); err != nil {
		t.Fatal(err)
	}
	s = must(Open(ctx, path))(t)
	defer func() { _ = s.Close() }()
	if i := must(s.Instance(ctx, one))(t); i.State != StateDue || i.Done >= i.Due {
		t.Errorf("without a result: %s, %d of %d", i.State, i.Done, i.Due)
	}
	if i := must(s.Instance(ctx, two))(t); i.State != StatePublished || i.Done != i.Due {
		t.Errorf("with a result: %s, %d of %d", i.State, i.Done, i.Due)
	}
}

// Every table of the schema is salvaged; a new one must not be forgotten.
func TestSalvageKnowsEveryTable(t *testing.T) {
	s := open(t)
	names := must(collect(t.Context(), s.read, scanText, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"))(t)
	for _, name := range names {
		if !slices.ContainsFunc(tables, func(known struct{ name, key string }) bool { return known.name == name }) {
			t.Errorf("table %s is not salvaged", name)
		}
	}
}

func TestReset(t *testing.T) {
	for name, part := range map[string][2]float64{"header": {0, 0.02}, "behind the switches": {0.5, 0.6}} {
		t.Run(name, func(t *testing.T) {
			ctx, path := t.Context(), filled(t)
			overwrite(t, path, part[0], part[1])
			if err := checked(ctx, path); !errors.Is(err, ErrDamaged) {
				t.Fatalf("the damaged file is taken: %v", err)
			}
			if name == "header" {
				if _, _, err := Salvage(ctx, path); err == nil || !strings.Contains(err.Error(), "imaging-router database reset") {
					t.Fatalf("salvaged without a header: %v", err)
				}
			}
			kept, aside, err := Reset(ctx, path)
			if err != nil || kept == (name == "header") {
				t.Fatalf("kept %t, %v", kept, err)
			}
			if _, err := os.Stat(aside); err != nil {
				t.Errorf("the damaged file is not kept: %v", err)
			}
			s := must(Open(ctx, path))(t)
			defer func() { _ = s.Close() }()
			value, _, _, err := s.Setting(ctx, "forwarding")
			if again := must(s.FromBeginning(ctx))(t); !again || err != nil || (value == "off") != kept {
				t.Errorf("from the beginning %t, forwarding %q, %v", again, value, err)
			}
			if n := must(s.Counts(ctx))(t); len(n) != 0 {
				t.Errorf("instances: %v", n)
			}
		})
	}
}

// While a router works on the file, nobody exchanges it.
func TestDamagedFileInUse(t *testing.T) {
	ctx, path := t.Context(), filled(t)
	s := must(Open(ctx, path))(t)
	defer func() { _ = s.Close() }()
	if err := s.Lock(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Salvage(ctx, path); !errors.Is(err, ErrLocked) {
		t.Errorf("salvage: %v", err)
	}
	if _, _, err := Reset(ctx, path); !errors.Is(err, ErrLocked) {
		t.Errorf("reset: %v", err)
	}
}
