// Package pipeline wires the rooms together: what the jobs do, in which order, and what an error of each step means. It holds
// no logic of its own beyond that, and it never calls Orthanc inside a database transaction.
package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/classifier"
	"imagingrouter/sidecar/internal/delivery"
	"imagingrouter/sidecar/internal/intake"
	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/memory"
	"imagingrouter/sidecar/internal/metrics"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/picture"
	"imagingrouter/sidecar/internal/publish"
	"imagingrouter/sidecar/internal/rules"
	"imagingrouter/sidecar/internal/store"
)

// Pipeline does the work of the jobs. It implements jobs.Workers.
type Pipeline struct {
	Orthanc      *orthanc.Client
	Store        *store.Store
	Queue        *jobs.Queue
	Marker       *intake.Marker
	Objects      intake.Objects
	Reader       *picture.Reader
	Classifier   *classifier.Classifier
	Policy       bodypart.Policy
	Publisher    *publish.Publisher
	Rules        *rules.Current
	Jobs         *delivery.Jobs
	Destinations map[string]delivery.Destination
	Forwarding   *Forwarding
	Files        *memory.Budget // of the files that are held at a time; nil = without bound
	Metrics      *metrics.Metrics
	Log          zerolog.Logger

	RouteMaxAge  time.Duration // older instances are labelled, not forwarded
	GiveUpAfter  time.Duration // a delivery that has not succeeded by then has failed
	Quiet        time.Duration // a series or study is not complete while something came within it
	Copies       string        // what becomes of what Orthanc's modify and anonymise made: config.CopiesClassify, …
	Volume       *Volume
	GonePause    time.Duration // between two 404 answers before an instance counts as deleted
	Transcoder   bool          // let Orthanc decode what nothing here can
	DecodeTries  int           // attempts when the machine, not the file, failed to decode
	ReconnectGap time.Duration // first pause of a job while Orthanc cannot be reached; it grows with the outage

	missed sync.Map     // when an instance was first not found in Orthanc, by its identifier; until it is found, or known to be gone
	outage atomic.Int64 // since when Orthanc cannot be reached, Unix milliseconds; 0 while it can

	gates       map[string]gateState // what RunGates saw last; TakeUp and RunGates alone touch it
	gateChanged chan struct{}
	changedOnce sync.Once
}

// longestGap is the longest pause of a job while Orthanc cannot be reached.
const longestGap = time.Minute

// ended is the terminal outcome of an instance. It travels as an error so that each step can end the job.
type ended struct {
	state  store.State
	reason string
}

func (e *ended) Error() string { return string(e.state) + ": " + e.reason }

// guard runs one attempt of a job about an instance and gives every error its meaning: a panic fails the attempt, an Orthanc that
// cannot be reached costs none, the last attempt ends the instance as failed, and the rest is tried again.
func (p *Pipeline) guard(ctx context.Context, row *rivertype.JobRow, id string, work func() error, end func(*ended) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = p.failed(ctx, row, id, fmt.Errorf("panic in %s: %s", row.Kind, panicText(v)), end)
		}
	}()
	err = work()
	if err == nil {
		p.outage.Store(0)
		p.missed.Delete(id)
	}
	var e *ended
	var snooze *rivertype.JobSnoozeError
	switch {
	case err == nil || errors.As(err, &snooze) || ctx.Err() != nil:
		return err
	case errors.As(err, &e):
		return end(e)
	case orthanc.IsUnreachable(err):
		return p.wait(ctx, row, id, err, "Orthanc cannot be reached; the job waits")
	case orthanc.IsDenied(err): // a wrong password is mended by a person, and no instance is to blame
		return p.wait(ctx, row, id, err, "Orthanc refuses the router's account (orthanc.username, orthanc.password_file); the job waits")
	}
	return p.failed(ctx, row, id, err, end)
}

// wait puts a job off that Orthanc did not let begin. An outage lasts for all jobs alike: the longer it has lasted, the longer is the
// pause, and an instance's story and the log hear of the same trouble once.
func (p *Pipeline) wait(ctx context.Context, row *rivertype.JobRow, id string, err error, message string) error {
	p.Metrics.Retry(row.Kind)
	if known, readErr := p.Store.Instance(ctx, id); readErr != nil || known.LastError != err.Error() {
		p.trouble(ctx, row, id, err, message)
	}
	return jobs.Later(p.gap())
}

// gap is the pause of a job while Orthanc cannot be reached: half of how long that has been so, within bounds.
func (p *Pipeline) gap() time.Duration {
	now := time.Now()
	p.outage.CompareAndSwap(0, now.UnixMilli())
	return jitter(min(longestGap, max(p.ReconnectGap, now.Sub(time.UnixMilli(p.outage.Load()))/2)))
}

func (p *Pipeline) failed(ctx context.Context, row *rivertype.JobRow, id string, err error, end func(*ended) error) error {
	p.Metrics.Retry(row.Kind)
	p.trouble(ctx, row, id, err, "attempt failed")
	if jobs.Last(row) {
		return end(&ended{store.StateFailed, fmt.Sprintf("%s failed %d times, at last: %v", row.Kind, row.Attempt, err)})
	}
	return err
}

// trouble logs the error once, here at the top of the job, and leaves it in the instance's story.
func (p *Pipeline) trouble(ctx context.Context, row *rivertype.JobRow, id string, err error, message string) {
	p.Log.Warn().Err(err).Str("instance", id).Str("kind", row.Kind).Int64("job", row.ID).Int("attempt", row.Attempt).Msg(message)
	noted := p.Store.Tx(ctx, func(tx *sql.Tx) error {
		return p.Store.AddEvent(ctx, tx, store.Event{InstanceID: id, Stage: row.Kind, Job: row.ID, Attempt: row.Attempt, Outcome: "error", Detail: err.Error()})
	})
	if row.Kind != (jobs.Deliver{}).Kind() { // a delivery has a row of its own for its last error
		noted = errors.Join(noted, p.Store.Trouble(ctx, id, err.Error()))
	}
	if noted != nil {
		p.Log.Error().Err(noted).Str("instance", id).Msg("the error could not be noted")
	}
}

// panicText leaves out every panic value but the Go runtime's: a library may panic with what it was reading.
func panicText(v any) string {
	var fault runtime.Error
	if err, ok := v.(error); ok && errors.As(err, &fault) {
		return fault.Error()
	}
	return "panic"
}

// jitter spreads d by ± 20 %, so that a thousand jobs that wait for Orthanc do not come back at once.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// missing answers a 404: deleted, when Orthanc itself is well and says so again after a pause. One 404 proves nothing: a restarting proxy
// can say so too. The pause is the job's and not the worker's: of an archive that was emptied, everything that waits would hold up what comes.
func (p *Pipeline) missing(ctx context.Context, id string) error {
	if _, err := p.Orthanc.System(ctx); err != nil {
		return err
	}
	_, err := p.Orthanc.Instance(ctx, id)
	switch {
	case err == nil:
		p.missed.Delete(id)
		return jobs.Later(0)
	case !orthanc.IsNotFound(err):
		return err
	}
	now := time.Now()
	since, _ := p.missed.LoadOrStore(id, now)
	first, _ := since.(time.Time)                    // nothing else is stored
	if ago := now.Sub(first); ago > 20*p.GonePause { // of another time: this is a first one
		p.missed.Store(id, now)
		return jobs.Later(p.GonePause)
	} else if ago < p.GonePause {
		return jobs.Later(p.GonePause)
	}
	if _, err := p.Orthanc.System(ctx); err != nil {
		return err
	}
	p.missed.Delete(id)
	return &ended{store.StateGone, "deleted in Orthanc"}
}

// endInstance stores a terminal outcome and completes the job. seen is the mark that the work answered. What the instance had given
// to its study's labels is taken back. inst, as far as it is known, says where it belongs: rules that have sent its study send it after.
func endInstance[T river.JobArgs](ctx context.Context, p *Pipeline, job *river.Job[T], row store.Instance, seen int64, inst orthanc.Instance, e *ended) error {
	err := p.Store.Tx(ctx, func(tx *sql.Tx) error {
		after, err := p.Store.Ended(ctx, tx, row.ID, job.Kind, seen, e.state, e.reason, inst.FileUUID)
		if err != nil {
			return err
		}
		if inst.ParentStudy != "" && e.state != store.StateGone {
			if err := p.Marker.LateIn(ctx, tx, inst.ParentSeries, inst.ParentStudy); err != nil {
				return err
			}
		}
		if err := errors.Join(p.again(ctx, tx, after), p.enqueuePublish(ctx, tx, after)); err != nil {
			return err
		}
		if err := p.Store.AddEvent(ctx, tx, store.Event{InstanceID: row.ID, Stage: job.Kind, Job: job.ID, Attempt: job.Attempt, Outcome: string(e.state), Detail: e.reason}); err != nil {
			return err
		}
		return jobs.Complete(ctx, tx, job)
	})
	if err != nil {
		return err
	}
	p.Metrics.Ended(string(e.state))
	level := zerolog.InfoLevel
	if e.state == store.StateFailed {
		level = zerolog.ErrorLevel
	}
	p.Log.WithLevel(level).Str("instance", row.ID).Str("state", string(e.state)).Str("reason", e.reason).Int64("job", job.ID).Int("attempt", job.Attempt).Msg("instance ended")
	if row.StudyID != "" {
		if err := p.Publisher.Labels(ctx, row); err != nil && !orthanc.IsNotFound(err) {
			p.Log.Warn().Err(err).Str("instance", row.ID).Msg("labels of the study could not be brought in line; the sweep will")
		}
	}
	return nil
}

// again enqueues a further classification within tx when a mark came while the job ran.
func (p *Pipeline) again(ctx context.Context, tx *sql.Tx, after store.Instance) error {
	if after.Done >= after.Due || after.ClassifyJob != 0 {
		return nil
	}
	job, err := p.Queue.Classify(ctx, tx, after.ID, jobs.Live)
	if err != nil {
		return err
	}
	return p.Store.SetClassifyJob(ctx, tx, after.ID, job)
}
