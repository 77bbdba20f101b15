// Package jobs is the durable queue: River on the router's own SQLite file, with the kinds of job that an instance passes through. It knows how jobs are stored, retried and taken up after a crash, and nothing of what they do.
package jobs

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/store"
)

// The kinds of job. Their arguments name rows of our own tables, which hold everything else.
type (
	// Classify looks at one instance: fetch, picture, network, result.
	Classify struct {
		Instance string `json:"instance"`
	}
	// Publish writes an instance's result into Orthanc and creates its deliveries.
	Publish struct {
		Instance string `json:"instance"`
	}
	// Gather waits until a series or study is complete, and asks the rules that send it whole.
	Gather struct {
		Level    store.Level `json:"level"`
		Resource string      `json:"resource"`
	}
	// Deliver brings a set of instances to one destination.
	Deliver struct {
		Delivery string `json:"delivery"`
	}
)

// Kind is River's name of the job.
func (Classify) Kind() string { return "classify" }

// Kind is River's name of the job.
func (Publish) Kind() string { return "publish" }

// Kind is River's name of the job.
func (Gather) Kind() string { return "gather" }

// Kind is River's name of the job.
func (Deliver) Kind() string { return "deliver" }

// Priority orders jobs within a queue: lower runs first.
type Priority int

// The priorities: what has just arrived goes before what is replayed. Deliveries have those of their rules: High, Normal, Low.
const (
	Live   Priority = 2
	Replay Priority = 3

	High   Priority = 1
	Normal Priority = 2
	Low    Priority = 3
)

// Workers does the work. Each method ends the job itself, with Complete in the transaction that stores its outcome, or returns an
// error: Later for "not now, and no attempt spent", any other for "failed, try again".
type Workers interface {
	Classify(ctx context.Context, job *river.Job[Classify]) error
	Publish(ctx context.Context, job *river.Job[Publish]) error
	Gather(ctx context.Context, job *river.Job[Gather]) error
	Deliver(ctx context.Context, job *river.Job[Deliver]) error
}

// Options sizes the queue.
type Options struct {
	ClassifyWorkers int
	PublishWorkers  int
	// Destinations names each destination, and says how many deliveries to it run at a time. Each has a queue of its own, so that a dead one stops no other.
	Destinations map[string]int
	MaxAttempts  int           // of classify and publish; deliveries are bounded in time instead
	BackoffMax   time.Duration // longest pause between attempts
	StopTimeout  time.Duration // how long running jobs may take to finish after Stop
	Damaged      func(error)   // hears of an error that means that the database is damaged; may be nil
	Logger       zerolog.Logger
}

// Queue inserts jobs, and works them after Start.
type Queue struct {
	client *river.Client[*sql.Tx]
	db     *sql.DB
	opts   Options
}

// deliverAttempts is River's limit for deliveries and for what waits for a whole study, which are bounded by time and not by a count.
const deliverAttempts = 30000

// gatherWorkers look at series and studies that are not complete yet, which mostly is one request.
const gatherWorkers = 2

// Open brings River's tables up to date and returns a queue on db. workers may be nil for a queue that only inserts.
func Open(ctx context.Context, db *sql.DB, workers Workers, o Options) (*Queue, error) {
	driver := riversqlite.New(db)
	// River narrates its migrations; a log line on every start helps nobody.
	quiet := slog.New(slog.DiscardHandler)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: quiet})
	if err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, fmt.Errorf("open queue: migrate: %w", err)
	}
	config := &river.Config{
		Logger: slog.New(zerolog.NewSlogHandler(o.Logger.Level(zerolog.WarnLevel))),
	}
	if workers != nil {
		config.Workers = bundle(workers, o.Damaged)
		config.Queues = o.queues()
		config.RetryPolicy = backoff{o.BackoffMax}
		config.FetchCooldown = 5 * time.Millisecond
		config.FetchPollInterval = 250 * time.Millisecond // a net under the notifications, which come within 50 ms
		config.JobTimeout = 10 * time.Minute
		config.RescueStuckJobsAfter = time.Hour // never in one process; Recover does it at once at the next start
		config.CompletedJobRetentionPeriod = time.Hour
		config.CancelledJobRetentionPeriod = 30 * 24 * time.Hour
		config.DiscardedJobRetentionPeriod = 30 * 24 * time.Hour
		config.SoftStopTimeout = o.StopTimeout
	}
	client, err := river.NewClient(driver, config)
	if err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	return &Queue{client: client, db: db, opts: o}, nil
}

func (o Options) queues() map[string]river.QueueConfig {
	queues := map[string]river.QueueConfig{
		"classify": {MaxWorkers: max(1, o.ClassifyWorkers)},
		"publish":  {MaxWorkers: max(1, o.PublishWorkers)},
		"gather":   {MaxWorkers: gatherWorkers},
	}
	for d, workers := range o.Destinations {
		queues[deliverQueue(d)] = river.QueueConfig{MaxWorkers: max(1, workers)}
	}
	return queues
}

var notInQueueName = regexp.MustCompile(`[^a-z0-9]+`)

// deliverQueue returns the queue of a destination. River allows few characters in a name; the checksum keeps two destinations
// apart whose names differ in the others.
func deliverQueue(destination string) string {
	plain := strings.Trim(notInQueueName.ReplaceAllString(strings.ToLower(destination), "_"), "_")
	if len(plain) > 40 { // River: 64 with the rest
		plain = strings.Trim(plain[:40], "_")
	}
	return strings.Trim(fmt.Sprintf("deliver_%s", plain), "_") + fmt.Sprintf("_%08x", crc32.ChecksumIEEE([]byte(destination)))
}

// Start works jobs until Stop, or until ctx ends: then running jobs get StopTimeout to finish before they are interrupted.
func (q *Queue) Start(ctx context.Context) error {
	if err := q.client.Start(ctx); err != nil {
		return fmt.Errorf("start queue: %w", err)
	}
	return nil
}

// Stop lets running jobs finish, at most StopTimeout, and returns when all have ended.
func (q *Queue) Stop(ctx context.Context) error {
	err := q.client.Stop(ctx)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Stopped is closed when all work has ended.
func (q *Queue) Stopped() <-chan struct{} { return q.client.Stopped() }

// ErrNoQueue says that a destination's queue has not begun yet: it comes with Start.
var ErrNoQueue = errors.New("the queue has not begun")

// Hold pauses or resumes the queue of one destination. What runs is not interrupted. ErrNoQueue before the first start with that destination.
func (q *Queue) Hold(ctx context.Context, destination string, hold bool) error {
	change := q.client.QueueResume
	if hold {
		change = q.client.QueuePause
	}
	err := change(ctx, deliverQueue(destination), nil)
	switch {
	case errors.Is(err, rivertype.ErrNotFound):
		return fmt.Errorf("hold deliveries to %s: %w", destination, ErrNoQueue)
	case err != nil:
		return fmt.Errorf("hold deliveries to %s: %w", destination, err)
	}
	return nil
}

// riverNow is the present in the form in which River keeps times on SQLite.
const riverNow = "strftime('%Y-%m-%d %H:%M:%f', 'now')"

// failedOften is how often a delivery may fail before the others go before it when its destination is back: perhaps it is the delivery, and
// not the destination.
const failedOften = 3

// Hasten lets the deliveries to a destination that wait for their next attempt be tried at once, because the destination is back. They keep
// their order: the oldest goes first, and last what has failed often.
func (q *Queue) Hasten(ctx context.Context, destination string) (int64, error) {
	res, err := q.db.ExecContext(ctx, "UPDATE river_job SET state = 'available', scheduled_at = CASE WHEN coalesce(json_array_length(errors), 0) > ? THEN "+riverNow+
		" ELSE created_at END WHERE state = 'retryable' AND queue = ?", failedOften, deliverQueue(destination))
	if err != nil {
		return 0, fmt.Errorf("hasten deliveries to %s: %w", destination, err)
	}
	return res.RowsAffected()
}

// Try wakes one delivery to a destination, to find out whether the destination is back, unless one is about to go anyway. It is the one that has
// failed least often: what a destination never takes must not be all that it is tried with.
func (q *Queue) Try(ctx context.Context, destination string) (int64, error) {
	queue := deliverQueue(destination)
	res, err := q.db.ExecContext(ctx, `UPDATE river_job SET state = 'available', scheduled_at = created_at WHERE id = (
			SELECT id FROM river_job WHERE state = 'retryable' AND queue = ? ORDER BY coalesce(json_array_length(errors), 0), priority, created_at, id LIMIT 1)
		AND NOT EXISTS (SELECT 1 FROM river_job WHERE state IN ('available', 'running') AND queue = ?)`, queue, queue)
	if err != nil {
		return 0, fmt.Errorf("try a delivery to %s: %w", destination, err)
	}
	return res.RowsAffected()
}

// Wake lets a job that sleeps or waits for its next attempt begin at once.
func (q *Queue) Wake(ctx context.Context, tx *sql.Tx, job int64) error {
	_, err := tx.ExecContext(ctx, "UPDATE river_job SET state = 'available', scheduled_at = "+riverNow+" WHERE id = ? AND state IN ('retryable', 'scheduled')", job)
	if err != nil {
		return fmt.Errorf("wake job %d: %w", job, err)
	}
	return nil
}

// MendClock wakes jobs that sleep longer than any job puts itself to sleep: the clock was ahead when they did, and has been set back since.
// So do those that were about to begin: River takes none before its time. What waits for a rule's schedule is left alone.
func (q *Queue) MendClock(ctx context.Context) (int64, error) {
	longest := time.Now().UTC().Add(2*max(q.opts.BackoffMax, time.Minute) + time.Minute).Format("2006-01-02 15:04:05.000")
	res, err := q.db.ExecContext(ctx, "UPDATE river_job SET state = 'available', scheduled_at = "+riverNow+` WHERE state IN ('available', 'retryable', 'scheduled') AND scheduled_at > ?
		AND id NOT IN (SELECT job FROM delivery WHERE not_before > ?)`, longest, time.Now().UnixMilli())
	if err != nil {
		return 0, fmt.Errorf("wake jobs that sleep too long: %w", err)
	}
	return res.RowsAffected()
}

// Recover takes up what a crash left behind, before Start: jobs that were running go back to the queue without costing an attempt,
// and the seat of the leader (who wakes sleeping jobs) is free at once. The caller holds the store's lock, so no other process
// works these jobs.
func (q *Queue) Recover(ctx context.Context) (int64, error) {
	res, err := q.db.ExecContext(ctx, `UPDATE river_job SET state = 'available', attempt = max(0, attempt - 1) WHERE state = 'running'`)
	if err != nil {
		return 0, fmt.Errorf("take up interrupted jobs: %w", err)
	}
	if _, err := q.db.ExecContext(ctx, "DELETE FROM river_leader"); err != nil {
		return 0, fmt.Errorf("take up interrupted jobs: %w", err)
	}
	return res.RowsAffected()
}

// Forget removes within tx an unfinished job that nobody will work.
func (q *Queue) Forget(ctx context.Context, tx *sql.Tx, job int64) error {
	_, err := tx.ExecContext(ctx, "DELETE FROM river_job WHERE id = ? AND state <> 'running'", job)
	if err != nil {
		return fmt.Errorf("forget job %d: %w", job, err)
	}
	return nil
}

// Classify enqueues the classification of an instance within tx and returns the job's number.
func (q *Queue) Classify(ctx context.Context, tx *sql.Tx, instance string, p Priority) (int64, error) {
	return q.insert(ctx, tx, Classify{Instance: instance}, &river.InsertOpts{Queue: "classify", Priority: int(p), MaxAttempts: q.opts.attempts()})
}

// Publish enqueues the publication of an instance within tx and returns the job's number.
func (q *Queue) Publish(ctx context.Context, tx *sql.Tx, instance string, p Priority) (int64, error) {
	return q.insert(ctx, tx, Publish{Instance: instance}, &river.InsertOpts{Queue: "publish", Priority: int(p), MaxAttempts: q.opts.attempts()})
}

// Gather enqueues within tx the wait for a whole series or study and returns the job's number.
func (q *Queue) Gather(ctx context.Context, tx *sql.Tx, level store.Level, resource string) (int64, error) {
	return q.insert(ctx, tx, Gather{Level: level, Resource: resource}, &river.InsertOpts{Queue: "gather", MaxAttempts: deliverAttempts})
}

// Deliver enqueues a delivery within tx and returns the job's number. It does not begin before the given time; zero is at once.
func (q *Queue) Deliver(ctx context.Context, tx *sql.Tx, delivery, destination string, p Priority, notBefore time.Time) (int64, error) {
	if !notBefore.After(time.Now()) {
		notBefore = time.Time{} // River lets a job sleep that has a time, even a past one, until it next looks
	}
	return q.insert(ctx, tx, Deliver{Delivery: delivery}, &river.InsertOpts{Queue: deliverQueue(destination), Priority: int(p), ScheduledAt: notBefore, MaxAttempts: deliverAttempts})
}

func (o Options) attempts() int {
	if o.MaxAttempts > 0 {
		return o.MaxAttempts
	}
	return 20
}

func (q *Queue) insert(ctx context.Context, tx *sql.Tx, args river.JobArgs, o *river.InsertOpts) (int64, error) {
	res, err := q.client.InsertTx(ctx, tx, args, o)
	if err != nil {
		return 0, fmt.Errorf("enqueue %s: %w", args.Kind(), err)
	}
	return res.Job.ID, nil
}

// Complete ends a job within tx, the one that stores its outcome.
func Complete[T river.JobArgs](ctx context.Context, tx *sql.Tx, job *river.Job[T]) error {
	if _, err := river.JobCompleteTx[*riversqlite.Driver](ctx, tx, job); err != nil {
		return fmt.Errorf("complete %s job %d: %w", job.Kind, job.ID, err)
	}
	return nil
}

// Later says: not now; try again after d, and do not count this attempt.
func Later(d time.Duration) error { return river.JobSnooze(d) }

// Last says whether this attempt is the last that the job has.
func Last(row *rivertype.JobRow) bool { return row.Attempt >= row.MaxAttempts }

// backoff spaces the attempts of a failing job: 1 s, 2 s, 4 s … up to max, each ± 20 % so that a thousand instances that failed
// together do not come back together.
type backoff struct{ max time.Duration }

// NextRetry implements river.ClientRetryPolicy.
func (b backoff) NextRetry(job *rivertype.JobRow) time.Time {
	return time.Now().UTC().Add(b.pause(len(job.Errors) + 1))
}

func (b backoff) pause(failures int) time.Duration {
	d := b.max
	if failures < 30 {
		d = min(b.max, time.Second<<(failures-1))
	}
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

type worker[T river.JobArgs] struct {
	river.WorkerDefaults[T]
	work    func(context.Context, *river.Job[T]) error
	damaged func(error)
}

// Timeout implements river.Worker. A delivery has its destination's own time-out, which ends the attempt in order; River's would come first.
func (w *worker[T]) Timeout(*river.Job[T]) time.Duration {
	var args T
	if args.Kind() == (Deliver{}).Kind() {
		return -1
	}
	return 0 // the queue's
}

// Work implements river.Worker. A job that the shutdown interrupted goes back to the queue as if it had not begun.
func (w *worker[T]) Work(ctx context.Context, job *river.Job[T]) error {
	err := w.work(ctx, job)
	if store.IsDamaged(err) && w.damaged != nil {
		w.damaged(err)
		return river.JobSnooze(time.Minute) // no attempt's fault, and nothing can be noted any more
	}
	if err != nil && errors.Is(context.Cause(ctx), rivertype.ErrJobCancelledRemotely) {
		return err
	}
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return river.JobSnooze(0)
	}
	return err
}

func bundle(w Workers, damaged func(error)) *river.Workers {
	b := river.NewWorkers()
	river.AddWorker(b, &worker[Classify]{work: w.Classify, damaged: damaged})
	river.AddWorker(b, &worker[Publish]{work: w.Publish, damaged: damaged})
	river.AddWorker(b, &worker[Gather]{work: w.Gather, damaged: damaged})
	river.AddWorker(b, &worker[Deliver]{work: w.Deliver, damaged: damaged})
	return b
}
