package jobs

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/store"
)

const instance = "11111111-11111111-11111111-11111111-11111111"

// workers answers every job with a function.
type workers struct {
	classify func(ctx context.Context, job *river.Job[Classify]) error
	gather   func(ctx context.Context, job *river.Job[Gather]) error
	deliver  func(ctx context.Context, job *river.Job[Deliver]) error
}

func (w workers) Classify(ctx context.Context, job *river.Job[Classify]) error {
	return w.classify(ctx, job)
}
func (w workers) Publish(context.Context, *river.Job[Publish]) error { return nil }
func (w workers) Gather(ctx context.Context, job *river.Job[Gather]) error {
	return w.gather(ctx, job)
}
func (w workers) Deliver(ctx context.Context, job *river.Job[Deliver]) error {
	return w.deliver(ctx, job)
}

func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "router.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newQueue(t *testing.T, s *store.Store, w Workers) *Queue {
	t.Helper()
	q, err := Open(context.Background(), s.DB(), w, Options{ClassifyWorkers: 2, Destinations: map[string]int{"pacs": 1}, MaxAttempts: 3,
		BackoffMax: 10 * time.Millisecond, StopTimeout: 300 * time.Millisecond, Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func start(t *testing.T, q *Queue) {
	t.Helper()
	if err := q.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func enqueue(t *testing.T, s *store.Store, q *Queue) (id int64) {
	t.Helper()
	err := s.Tx(context.Background(), func(tx *sql.Tx) (err error) {
		id, err = q.Classify(context.Background(), tx, instance, Live)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func row(t *testing.T, s *store.Store, id int64) (state string, attempt int) {
	t.Helper()
	if err := s.Reader().QueryRowContext(context.Background(), "SELECT state, attempt FROM river_job WHERE id = ?", id).Scan(&state, &attempt); err != nil {
		t.Fatal(err)
	}
	return state, attempt
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never came: %s", what)
}

func TestJobRunsAndCompletesInItsTransaction(t *testing.T) {
	s := newStore(t)
	q := newQueue(t, s, workers{classify: func(ctx context.Context, job *river.Job[Classify]) error {
		if job.Args.Instance != instance {
			t.Errorf("job for %q", job.Args.Instance)
		}
		return s.Tx(ctx, func(tx *sql.Tx) error { return Complete(ctx, tx, job) })
	}})
	start(t, q)
	id := enqueue(t, s, q)
	eventually(t, "completed", func() bool { state, _ := row(t, s, id); return state == "completed" })
	if err := q.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestLaterCostsNoAttemptAndFailuresDo(t *testing.T) {
	s := newStore(t)
	var calls atomic.Int64
	last := make(chan int, 1)
	q := newQueue(t, s, workers{classify: func(ctx context.Context, job *river.Job[Classify]) error {
		switch calls.Add(1) {
		case 1, 2:
			return Later(time.Millisecond)
		case 3:
			if job.Attempt != 1 {
				t.Errorf("attempt %d after two snoozes, want 1", job.Attempt)
			}
			return errors.New("broken")
		}
		if Last(job.JobRow) {
			last <- job.Attempt
			return s.Tx(ctx, func(tx *sql.Tx) error { return Complete(ctx, tx, job) })
		}
		return errors.New("broken again")
	}})
	start(t, q)
	enqueue(t, s, q)
	select {
	case attempt := <-last:
		if attempt != 3 || calls.Load() != 5 {
			t.Errorf("last attempt %d after %d calls, want 3 after 5", attempt, calls.Load())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the last attempt never came")
	}
	if err := q.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestStopGivesInterruptedJobsBack(t *testing.T) {
	s := newStore(t)
	running := make(chan struct{})
	q := newQueue(t, s, workers{classify: func(ctx context.Context, _ *river.Job[Classify]) error {
		close(running)
		<-ctx.Done()
		return ctx.Err()
	}})
	start(t, q)
	id := enqueue(t, s, q)
	<-running
	if err := q.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if state, attempt := row(t, s, id); state != "available" || attempt != 0 {
		t.Errorf("after the stop: %s, attempt %d; want available, 0", state, attempt)
	}
}

func TestRecoverTakesUpWhatACrashLeft(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	q := newQueue(t, s, workers{classify: func(ctx context.Context, job *river.Job[Classify]) error {
		return s.Tx(ctx, func(tx *sql.Tx) error { return Complete(ctx, tx, job) })
	}})
	id := enqueue(t, s, q)
	// What a kill -9 leaves: a running job, and the seat of a leader who is no more.
	for _, query := range []string{
		"UPDATE river_job SET state = 'running', attempt = 2, attempted_at = datetime('now')",
		"INSERT INTO river_leader (elected_at, expires_at, leader_id, name) VALUES (datetime('now'), datetime('now', '+1 hour'), 'dead', 'default')",
	} {
		if _, err := s.DB().ExecContext(ctx, query); err != nil {
			t.Fatal(err)
		}
	}
	n, err := q.Recover(ctx)
	if err != nil || n != 1 {
		t.Fatalf("recovered %d, %v", n, err)
	}
	if state, attempt := row(t, s, id); state != "available" || attempt != 1 {
		t.Errorf("after recovery: %s, attempt %d; want available, 1", state, attempt)
	}
	start(t, q)
	eventually(t, "completed", func() bool { state, _ := row(t, s, id); return state == "completed" })
	if err := q.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestRepairEnqueuesLostJobs(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	q := newQueue(t, s, nil)
	repair := func() (n int) {
		if err := s.Tx(ctx, func(tx *sql.Tx) (err error) { n, err = q.Repair(ctx, tx); return err }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := s.Mark(ctx, tx, instance, store.SourceHook); err != nil {
			return err
		}
		for i, state := range []store.DeliveryState{store.DeliveryPending, store.DeliveryHeld} {
			d := store.Delivery{Level: store.LevelInstance, ResourceID: instance, Destination: "pacs", State: state}
			if _, _, err := s.AddDelivery(ctx, tx, d, "", []store.Item{{InstanceID: instance, ContentMD5: string(rune('a' + i))}}); err != nil {
				return err
			}
		}
		for _, rule := range []string{"one", "another"} { // two rules wait for one study by one job
			if _, err := s.Gather(ctx, tx, store.LevelStudy, "study", "study", rule); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := repair(); n != 3 {
		t.Errorf("repaired %d, want the classification, the delivery that is not held, and the wait", n)
	}
	if n := repair(); n != 0 {
		t.Errorf("repaired %d the second time, want none", n)
	}
	if _, err := s.DB().ExecContext(ctx, "DELETE FROM river_job WHERE kind = 'classify'"); err != nil {
		t.Fatal(err)
	}
	if n := repair(); n != 1 {
		t.Errorf("repaired %d after a job was deleted, want 1", n)
	}
	depths, err := Depths(ctx, s.Reader())
	if err != nil || len(depths) != 3 || depths[0].Kind != "classify" || depths[0].N != 1 || depths[0].Oldest.IsZero() {
		t.Errorf("depths %+v, %v", depths, err)
	}
}

func TestHeldDeliveriesWait(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	var sent atomic.Int64
	q := newQueue(t, s, workers{deliver: func(ctx context.Context, job *river.Job[Deliver]) error {
		sent.Add(1)
		return s.Tx(ctx, func(tx *sql.Tx) error { return Complete(ctx, tx, job) })
	}})
	if err := q.Hold(ctx, "pacs", true); !errors.Is(err, ErrNoQueue) {
		t.Errorf("before the start: %v", err)
	}
	start(t, q)
	eventually(t, "the queue is known", func() bool {
		var n int
		err := s.Reader().QueryRowContext(ctx, "SELECT count(*) FROM river_queue WHERE name LIKE 'deliver%'").Scan(&n)
		return err == nil && n == 1
	})
	if err := q.Hold(ctx, "pacs", true); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // the producer hears of the pause by notification
	if err := s.Tx(ctx, func(tx *sql.Tx) error { _, err := q.Deliver(ctx, tx, "d", "pacs", Normal, time.Time{}); return err }); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if sent.Load() != 0 {
		t.Error("a held delivery was made")
	}
	if err := q.Hold(ctx, "pacs", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the delivery after the release", func() bool { return sent.Load() == 1 })
	if err := q.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestDeliverQueueNames(t *testing.T) {
	seen := map[string]string{}
	for _, d := range []string{"chest-ai", "chest_ai", "Chest AI", "čest", "--", strings.Repeat("x", 300), strings.Repeat("x", 301)} {
		name := deliverQueue(d)
		if other, twice := seen[name]; twice {
			t.Errorf("%q and %q share the queue %s", d, other, name)
		}
		seen[name] = d
		if len(name) > 100 || !strings.HasPrefix(name, "deliver_") {
			t.Errorf("queue of %q: %q", d, name)
		}
		if err := (Options{Destinations: map[string]int{d: 1}}).check(t); err != nil {
			t.Errorf("River refuses the queue of %q: %v", d, err)
		}
	}
}

func (o Options) check(t *testing.T) error {
	o.Logger = zerolog.Nop()
	_, err := Open(context.Background(), newStore(t).DB(), workers{}, o)
	return err
}

func TestBackoffGrowsToItsCap(t *testing.T) {
	b := backoff{max: time.Minute}
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 7: time.Minute, 31: time.Minute, 1000: time.Minute} {
		for range 20 {
			if got := b.pause(failures); got < want*8/10 || got > want*12/10 {
				t.Errorf("after %d failures: %s, want %s ± 20 %%", failures, got, want)
			}
		}
	}
}

// High goes before normal before low, and what is scheduled for later than the test lasts does not go at all.
func TestDeliveriesGoByPriorityAndAtTheirTime(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	order := make(chan string, 8)
	q := newQueue(t, s, workers{deliver: func(ctx context.Context, job *river.Job[Deliver]) error {
		order <- job.Args.Delivery
		return s.Tx(ctx, func(tx *sql.Tx) error { return Complete(ctx, tx, job) })
	}})
	err := s.Tx(ctx, func(tx *sql.Tx) (err error) {
		for _, d := range []struct {
			id       string
			priority Priority
			at       time.Time
		}{{"low", Low, time.Time{}}, {"normal", Normal, time.Time{}}, {"tonight", High, time.Now().Add(time.Hour)}, {"high", High, time.Now().Add(-time.Hour)}} {
			if _, e := q.Deliver(ctx, tx, d.id, "pacs", d.priority, d.at); e != nil {
				err = errors.Join(err, e)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	start(t, q) // one worker for each destination
	for _, want := range []string{"high", "normal", "low"} {
		select {
		case got := <-order:
			if got != want {
				t.Errorf("%s went, want %s", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s never went", want)
		}
	}
	select {
	case got := <-order:
		t.Errorf("%s went before its time", got)
	case <-time.After(500 * time.Millisecond):
	}
	if err := q.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// scheduled returns in how long a job is to begin.
func scheduled(t *testing.T, s *store.Store, id int64) time.Duration {
	t.Helper()
	var at float64
	if err := s.Reader().QueryRowContext(context.Background(), "SELECT unixepoch(scheduled_at, 'subsec') FROM river_job WHERE id = ?", id).Scan(&at); err != nil {
		t.Fatal(err)
	}
	return time.Until(time.UnixMilli(int64(at * 1000)))
}

// What sleeps for longer than any job means to is woken, since the clock was ahead; what waits for a rule's schedule is not, nor what sleeps as it should.
func TestMendClockWakesWhatSleepsTooLong(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	woken := make(chan string, 8)
	q := newQueue(t, s, workers{deliver: func(ctx context.Context, job *river.Job[Deliver]) error {
		woken <- job.Args.Delivery
		return s.Tx(ctx, func(tx *sql.Tx) error { return Complete(ctx, tx, job) })
	}})
	ids, names := map[string]int64{}, map[string]string{}
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		for name, later := range map[string]time.Duration{"asleep": 3 * time.Hour, "retried": 3 * time.Hour, "tonight": 5 * time.Hour, "a minute": time.Minute} {
			plan := store.Delivery{Level: store.LevelInstance, ResourceID: name, Destination: "pacs"}
			if name == "tonight" {
				plan.NotBefore = time.Now().Add(later)
			}
			d, _, err := s.AddDelivery(ctx, tx, plan, "", []store.Item{{InstanceID: name, ContentMD5: "x"}})
			if err != nil {
				return err
			}
			if ids[name], err = q.Deliver(ctx, tx, d.ID, "pacs", Normal, time.Now().Add(later)); err != nil {
				return err
			}
			if err := s.SetDeliveryJob(ctx, tx, d.ID, ids[name]); err != nil {
				return err
			}
			names[d.ID] = name
		}
		_, err := tx.ExecContext(ctx, "UPDATE river_job SET state = 'retryable', attempt = 1 WHERE id = ?", ids["retried"])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{2, 0} {
		if n, err := q.MendClock(ctx); n != want || err != nil {
			t.Errorf("%d jobs were woken, %v; want %d", n, err, want)
		}
	}
	for name, want := range map[string]string{"asleep": "available", "retried": "available", "tonight": "scheduled", "a minute": "scheduled"} {
		state, _ := row(t, s, ids[name])
		if in := scheduled(t, s, ids[name]); state != want || (in > 2*time.Second) != (want == "scheduled") {
			t.Errorf("%s: %s, begins in %s; want %s", name, state, in, want)
		}
	}
	start(t, q)
	got := map[string]bool{}
	for range 2 {
		select {
		case id := <-woken:
			got[names[id]] = true
		case <-time.After(20 * time.Second):
			t.Fatalf("not worked: only %v", got)
		}
	}
	if !got["asleep"] || !got["retried"] {
		t.Errorf("worked: %v", got)
	}
	if err := q.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// A destination that is back gets at once what waits for its next attempt, the oldest first; another one's deliveries wait on.
func TestHasten(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	order := make(chan string, 8)
	q := newQueue(t, s, workers{deliver: func(ctx context.Context, job *river.Job[Deliver]) error {
		order <- job.Args.Delivery
		return s.Tx(ctx, func(tx *sql.Tx) error { return Complete(ctx, tx, job) })
	}})
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		for i, name := range []string{"young", "old", "elsewhere", "tonight"} {
			to, at := "pacs", time.Time{}
			switch name {
			case "elsewhere":
				to = "another"
			case "tonight":
				at = time.Now().Add(time.Hour)
			}
			id, err := q.Deliver(ctx, tx, name, to, Normal, at)
			if err != nil {
				return err
			}
			if name == "tonight" {
				continue
			}
			if _, err := tx.ExecContext(ctx, "UPDATE river_job SET state = 'retryable', attempt = 5, created_at = datetime('now', ?), scheduled_at = datetime('now', '+1 hour') WHERE id = ?",
				[]string{"-1 minute", "-2 minutes", "-3 minutes"}[i], id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := q.Hasten(ctx, "pacs"); n != 2 || err != nil {
		t.Errorf("%d hastened, %v; want 2", n, err)
	}
	start(t, q)
	for _, want := range []string{"old", "young"} {
		select {
		case got := <-order:
			if got != want {
				t.Errorf("%s went, want %s", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s never went", want)
		}
	}
	select {
	case got := <-order:
		t.Errorf("%s was not to be hastened", got)
	case <-time.After(500 * time.Millisecond):
	}
	if err := q.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestWake(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	var looked atomic.Int64
	q := newQueue(t, s, workers{gather: func(ctx context.Context, job *river.Job[Gather]) error {
		if job.Args.Level != store.LevelStudy || job.Args.Resource != "study" {
			t.Errorf("job for %+v", job.Args)
		}
		if looked.Add(1) == 1 {
			return Later(time.Hour)
		}
		return s.Tx(ctx, func(tx *sql.Tx) error { return Complete(ctx, tx, job) })
	}})
	start(t, q)
	var id int64
	err := s.Tx(ctx, func(tx *sql.Tx) (err error) {
		id, err = q.Gather(ctx, tx, store.LevelStudy, "study")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "asleep", func() bool { state, _ := row(t, s, id); return state == "scheduled" })
	wake := func() {
		if err := s.Tx(ctx, func(tx *sql.Tx) error { return q.Wake(ctx, tx, id) }); err != nil {
			t.Fatal(err)
		}
	}
	wake()
	eventually(t, "worked at once", func() bool { state, _ := row(t, s, id); return state == "completed" })
	wake()
	if state, _ := row(t, s, id); state != "completed" {
		t.Errorf("what had ended is %s", state)
	}
	if err := q.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// A destination is tried with one delivery, the one that has failed least often, and with none while one is about to go anyway.
func TestTry(t *testing.T) {
	ctx, s := context.Background(), newStore(t)
	q := newQueue(t, s, workers{})
	ids := map[string]int64{}
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		for name, errors := range map[string]string{"refused": `[{},{},{}]`, "failed once": `[{}]`} {
			id, err := q.Deliver(ctx, tx, name, "pacs", Normal, time.Time{})
			if err != nil {
				return err
			}
			ids[name] = id
			if _, err := tx.ExecContext(ctx, "UPDATE river_job SET state = 'retryable', attempt = 3, errors = ?, created_at = datetime('now', ?), scheduled_at = datetime('now', '+1 hour') WHERE id = ?",
				errors, map[string]string{"refused": "-2 minutes", "failed once": "-1 minute"}[name], id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{1, 0} {
		if n, err := q.Try(ctx, "pacs"); n != want || err != nil {
			t.Errorf("%d woken, %v; want %d", n, err, want)
		}
	}
	if state, _ := row(t, s, ids["failed once"]); state != "available" {
		t.Errorf("what failed least often is %s", state)
	}
	if state, _ := row(t, s, ids["refused"]); state != "retryable" {
		t.Errorf("what failed often is %s", state)
	}
}
