package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
)

const (
	one    = "11111111-11111111-11111111-11111111-11111111"
	two    = "22222222-22222222-22222222-22222222-22222222"
	study  = "aaaaaaaa-aaaaaaaa-aaaaaaaa-aaaaaaaa-aaaaaaaa"
	series = "bbbbbbbb-bbbbbbbb-bbbbbbbb-bbbbbbbb-bbbbbbbb"
)

func open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(context.Background(), filepath.Join(t.TempDir(), "sub", "router.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func inTx(t testing.TB, s *Store, f func(tx *sql.Tx) error) {
	t.Helper()
	if err := s.Tx(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func mark(t testing.TB, s *Store, id string, source Source) (row Instance) {
	t.Helper()
	inTx(t, s, func(tx *sql.Tx) (err error) {
		row, err = s.Mark(context.Background(), tx, id, source)
		return err
	})
	return row
}

func classified(t testing.TB, s *Store, row Instance, md5 string) (after Instance) {
	t.Helper()
	inTx(t, s, func(tx *sql.Tx) (err error) {
		after, err = s.Classified(context.Background(), tx, row.ID, row.Due, Content{SeriesID: series, StudyID: study, FileUUID: "uuid-" + md5, MD5: md5, Model: "m@1", ReceivedAt: time.Now()})
		return err
	})
	return after
}

func result(id, md5 string, class bodypart.Class) bodypart.Result {
	return bodypart.Result{
		Prediction: bodypart.Prediction{Class: class, Confidence: .97, Probabilities: map[bodypart.Class]float64{class: .97, bodypart.Others: .03}},
		InstanceID: id, ContentMD5: md5, Model: "m@1", Reasons: []bodypart.Reason{}, Tag: bodypart.TagMissing, ClassifiedAt: time.Now().UTC().Truncate(time.Millisecond),
	}
}

func TestMarkDuringWorkIsNotLost(t *testing.T) {
	s := open(t)
	row := mark(t, s, one, SourceHook)
	if row.State != StateDue || row.Due != 1 || row.Done != 0 || !row.Forward {
		t.Fatalf("after the mark: %+v", row)
	}
	mark(t, s, one, SourceFollower) // comes while the job works on row
	after := classified(t, s, row, "md5")
	if after.State != StateDue || after.Done != 1 || after.Due != 2 {
		t.Fatalf("a mark during the work was lost: %+v", after)
	}
	after = classified(t, s, after, "md5")
	if after.State != StateClassified || after.Done != after.Due {
		t.Fatalf("second round: %+v", after)
	}
}

func TestForwardOfMarks(t *testing.T) {
	tests := []struct {
		name    string
		marks   []Source
		between bool // the first mark's work ends before the second mark
		want    bool
	}{
		{"hook", []Source{SourceHook}, false, true},
		{"replay", []Source{SourceReplay}, false, false},
		{"a replay cannot take a live mark back", []Source{SourceHook, SourceReplay}, false, true},
		{"a live mark outweighs an open replay", []Source{SourceReplay, SourceFollower}, false, true},
		{"a replay of finished work labels only", []Source{SourceHook, SourceReplay}, true, false},
		{"a sweep labels only", []Source{SourceHook, SourceSweep}, true, false},
		{"a command keeps what was meant: live", []Source{SourceHook, SourceCommand}, true, true},
		{"a command keeps what was meant: replay", []Source{SourceReplay, SourceCommand}, true, false},
		{"a command alone labels only", []Source{SourceCommand}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			row := mark(t, s, one, tt.marks[0])
			for _, next := range tt.marks[1:] {
				if tt.between {
					done := classified(t, s, row, "md5").Done
					inTx(t, s, func(tx *sql.Tx) error { _, err := s.Published(context.Background(), tx, one, done); return err })
				}
				row = mark(t, s, one, next)
			}
			if row.Forward != tt.want {
				t.Errorf("forward %t, want %t", row.Forward, tt.want)
			}
		})
	}
}

func TestPublishedNoticesANewerClassification(t *testing.T) {
	ctx, s := context.Background(), open(t)
	first := classified(t, s, mark(t, s, one, SourceHook), "old")
	second := classified(t, s, mark(t, s, one, SourceHook), "new") // while first is being published
	publish := func(done int64) (p Publication) {
		inTx(t, s, func(tx *sql.Tx) (err error) {
			p, err = s.Published(ctx, tx, one, done)
			return err
		})
		return p
	}
	if p := publish(first.Done); p.Published || p.State != StateClassified || !p.FinishedAt.IsZero() {
		t.Fatalf("the old publication covered the new content: %+v", p)
	}
	if p := publish(second.Done); !p.Published || p.State != StatePublished || p.FinishedAt.IsZero() {
		t.Fatalf("the new publication: %+v", p)
	}
}

func TestEndedKeepsLaterMarks(t *testing.T) {
	ctx, s := context.Background(), open(t)
	row := mark(t, s, one, SourceHook)
	mark(t, s, one, SourceHook)
	inTx(t, s, func(tx *sql.Tx) error {
		after, err := s.Ended(ctx, tx, one, "classify", row.Due, StateUnreadable, "truncated", "u")
		if err == nil && (after.State != StateDue || after.Done != 1) {
			t.Errorf("a later mark was swallowed: %+v", after)
		}
		return err
	})
	if err := s.Tx(ctx, func(tx *sql.Tx) error { _, err := s.Ended(ctx, tx, one, "fetch", 1, StateGone, "", ""); return err }); err == nil {
		t.Error("an unknown kind of job was accepted")
	}
}

func TestAFailedPublicationLeavesALaterClassificationAlone(t *testing.T) {
	ctx, s := context.Background(), open(t)
	first := classified(t, s, mark(t, s, one, SourceHook), "old")
	second := classified(t, s, mark(t, s, one, SourceHook), "new") // while first is being published
	inTx(t, s, func(tx *sql.Tx) error {
		after, err := s.Ended(ctx, tx, one, "publish", first.Done, StateFailed, "x", "old")
		if err == nil && (after.State != StateClassified || after.Done != second.Done || after.ContentMD5 != "new" || after.PublishJob != 0) {
			t.Errorf("the later result is lost: %+v", after)
		}
		return err
	})
}

func TestResultsOfStudyAreThoseOfTheCurrentContent(t *testing.T) {
	ctx, s := context.Background(), open(t)
	put := func(r bodypart.Result) { inTx(t, s, func(tx *sql.Tx) error { return s.PutResult(ctx, tx, r) }) }
	put(result(one, "old", bodypart.Spine))
	classified(t, s, mark(t, s, one, SourceHook), "old")
	put(result(two, "x", bodypart.AdultChest))
	classified(t, s, mark(t, s, two, SourceHook), "x")
	classes := func() string {
		var words []string
		for _, r := range must(s.ResultsOf(ctx, "studies", study))(t) {
			words = append(words, string(r.Class))
		}
		return strings.Join(words, " ")
	}
	if got := classes(); got != "spine adult_chest" {
		t.Errorf("study holds %q", got)
	}
	put(result(one, "new", bodypart.Others))
	classified(t, s, mark(t, s, one, SourceHook), "new")
	if got := classes(); got != "others adult_chest" {
		t.Errorf("after an overwrite the study holds %q", got)
	}
	inTx(t, s, func(tx *sql.Tx) error { return s.Gone(ctx, tx, two, "deleted") })
	if got := classes(); got != "others" {
		t.Errorf("after a deletion the study holds %q", got)
	}
	if _, err := s.ResultsOf(ctx, "patients", study); err == nil {
		t.Error("an unknown level was accepted")
	}
	if r, ok, err := s.Result(ctx, one, "new", "m@1"); err != nil || !ok || r.Probabilities[bodypart.Others] != .97 || r.Reasons == nil {
		t.Errorf("result read back: %+v %t %v", r, ok, err)
	}
	if _, ok, err := s.Result(ctx, one, "new", "m@2"); ok || err != nil {
		t.Errorf("another model's result: %t %v", ok, err)
	}
}

func TestDeliveryIsUniqueForContentAndDestination(t *testing.T) {
	ctx, s := context.Background(), open(t)
	add := func(md5, to string) bool {
		_, created := deliver(t, s, Delivery{Destination: to, Rule: "r", ReceivedAt: time.Now()}, ResendChanged, Item{InstanceID: one, ContentMD5: md5})
		return created
	}
	for _, tt := range []struct {
		md5, to string
		want    bool
	}{{"a", "chest-ai", true}, {"a", "chest-ai", false}, {"a", "pacs", true}, {"b", "chest-ai", true}, {"b", "chest-ai", false}} {
		if got := add(tt.md5, tt.to); got != tt.want {
			t.Errorf("content %s to %s: created %t, want %t", tt.md5, tt.to, got, tt.want)
		}
	}
	for _, d := range must(s.Deliveries(ctx, DeliveryFilter{Destination: "pacs"}))(t) {
		if !must(s.CancelDelivery(ctx, d.ID, "by command"))(t) {
			t.Error("a pending delivery was not cancelled")
		}
		if must(s.CancelDelivery(ctx, d.ID, "by command"))(t) {
			t.Error("a cancelled delivery was cancelled again")
		}
		if err := s.Submitting(ctx, d); !errors.Is(err, ErrFinished) {
			t.Errorf("a cancelled delivery is sent all the same: %v", err)
		}
	}
	for _, d := range must(s.Deliveries(ctx, DeliveryFilter{Destination: "chest-ai", Limit: 1}))(t) {
		if err := s.Sent(ctx, d.ID, "job"); err != nil {
			t.Fatal(err)
		}
		if must(s.CancelDelivery(ctx, d.ID, "by command"))(t) {
			t.Error("a delivery that Orthanc has was cancelled")
		}
	}
	if n := len(must(s.Deliveries(ctx, DeliveryFilter{InstanceID: one}))(t)); n != 3 {
		t.Errorf("%d deliveries, want 3", n)
	}
}

func TestPruneForgetsOnlyWhatEnded(t *testing.T) {
	ctx, s := context.Background(), open(t)
	s.now = func() time.Time { return time.Now().Add(-time.Hour) }
	inTx(t, s, func(tx *sql.Tx) error { return s.PutResult(ctx, tx, result(one, "x", bodypart.Spine)) })
	row := classified(t, s, mark(t, s, one, SourceHook), "x")
	inTx(t, s, func(tx *sql.Tx) error { _, err := s.Published(ctx, tx, one, row.Done); return err })
	mark(t, s, two, SourceHook)
	if err := s.SetLedger(ctx, "studies", study, map[string]LabelState{"bodypart-spine": LabelWritten}); err != nil {
		t.Fatal(err)
	}
	d, _ := deliver(t, s, Delivery{Destination: "pacs"}, ResendChanged, Item{InstanceID: one, ContentMD5: "x"})
	if kept := must(s.Delivery(ctx, d.ID))(t); kept.Priority != NormalPriority || !kept.NotBefore.IsZero() || !kept.May().Equal(kept.CreatedAt) {
		t.Errorf("a delivery without a schedule: %+v", kept)
	}
	if n := must(s.Prune(ctx, time.Now()))(t); n != 0 {
		t.Fatalf("pruned %d instances while a delivery was open", n)
	}
	inTx(t, s, func(tx *sql.Tx) error { return s.FinishDelivery(ctx, tx, d.ID, DeliveryDelivered, "") })
	if n := must(s.Prune(ctx, time.Now()))(t); n != 1 {
		t.Fatalf("pruned %d instances, want the finished one", n)
	}
	if _, err := s.Instance(ctx, one); !errors.Is(err, ErrUnknown) {
		t.Errorf("the finished instance is still there: %v", err)
	}
	if _, err := s.Instance(ctx, two); err != nil {
		t.Errorf("the open instance went: %v", err)
	}
	if l := must(s.Ledger(ctx, "studies", study))(t); l["bodypart-spine"] != LabelKept {
		t.Errorf("the ledger says %v; of a study that was forgotten our labels are kept, and known as ours", l)
	}
}

func TestCursorAndAnchors(t *testing.T) {
	ctx, s := context.Background(), open(t)
	if _, ok, err := s.Cursor(ctx); ok || err != nil {
		t.Fatalf("before the first start: %t %v", ok, err)
	}
	for i := int64(1); i <= 5; i++ {
		inTx(t, s, func(tx *sql.Tx) error {
			return s.SetCursor(ctx, tx, Cursor{Seq: i * 10, Live: 3}, []Anchor{{Seq: i * 10, ID: one, Date: "d"}}, 3)
		})
	}
	if c, ok, err := s.Cursor(ctx); err != nil || !ok || c != (Cursor{Seq: 50, Live: 3}) {
		t.Errorf("cursor %+v %t %v", c, ok, err)
	}
	if a := must(s.Anchors(ctx))(t); len(a) != 3 || a[0].Seq != 50 || a[2].Seq != 30 {
		t.Errorf("anchors %+v", a)
	}
	inTx(t, s, func(tx *sql.Tx) error { return s.ResetCursor(ctx, tx, Cursor{Seq: 0, Live: 7}) })
	if a := must(s.Anchors(ctx))(t); len(a) != 0 {
		t.Errorf("anchors after a reset %+v", a)
	}
}

func TestLockKeepsASecondRouterOut(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "router.db")
	first := must(Open(ctx, path))(t)
	if err := first.Lock(); err != nil {
		t.Fatal(err)
	}
	second := must(Open(ctx, path))(t)
	if err := second.Lock(); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("second lock: %v", err)
	}
	if err := second.SetSetting(ctx, "forwarding", "off"); err != nil {
		t.Errorf("a command beside the router cannot write: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := second.Lock(); err != nil {
		t.Errorf("after the first has ended: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesWhatItCannotRead(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "router.db")
	s := must(Open(ctx, path))(t)
	if _, err := s.DB().ExecContext(ctx, "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, path); err == nil || !strings.Contains(err.Error(), "newer release") {
		t.Errorf("a newer schema: %v", err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("not a database: %v", err)
	}
}

func TestReadHandleCannotWrite(t *testing.T) {
	s := open(t)
	if _, err := s.Reader().ExecContext(context.Background(), "DELETE FROM instance"); err == nil {
		t.Error("the reading handle wrote")
	}
}

func TestPathWithOddCharacters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ä b?c#d%20e", "router.db")
	s := must(Open(context.Background(), path))(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file is elsewhere: %v", err)
	}
}

// A delivery keeps what its rule said about its turn; taken up again, it may go at once.
func TestDeliveryKeepsItsTurn(t *testing.T) {
	ctx, s := context.Background(), open(t)
	tonight := time.Now().Add(5 * time.Hour).Truncate(time.Millisecond).UTC()
	d, _ := deliver(t, s, Delivery{Destination: "pacs", Priority: 1, NotBefore: tonight}, ResendChanged, Item{InstanceID: one, ContentMD5: "x"})
	if kept := must(s.Delivery(ctx, d.ID))(t); kept.Priority != 1 || !kept.NotBefore.Equal(tonight) || !kept.May().Equal(tonight) {
		t.Errorf("%+v", kept)
	}
	inTx(t, s, func(tx *sql.Tx) error { return s.ReopenDelivery(ctx, tx, d.ID) })
	if kept := must(s.Delivery(ctx, d.ID))(t); kept.Priority != 1 || !kept.NotBefore.IsZero() {
		t.Errorf("after it was taken up: %+v", kept)
	}
}
