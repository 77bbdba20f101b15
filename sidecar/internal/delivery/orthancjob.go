package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"imagingrouter/sidecar/internal/orthanc"
)

// ErrUncertain says that an attempt ended in a way that leaves open whether Orthanc has the job, or what has become of it: no answer came, or one
// that says nothing about the job. The next attempt must look for the job before it submits again.
var ErrUncertain = errors.New("Orthanc may have taken the job, or have done it") //nolint:staticcheck // a name

// ErrJobLost says that Orthanc does not know the job any more: it restarted without saving it, or forgot it (JobsHistorySize).
var ErrJobLost = errors.New("Orthanc no longer knows the job") //nolint:staticcheck // a name

// userDataKey marks Orthanc's jobs with the delivery that they carry (Orthanc 1.12.9 and newer keep it, except for plugins' jobs).
const userDataKey = "imaging-router-delivery"

func (p Parcel) shipment() orthanc.Shipment {
	return orthanc.Shipment{Resources: p.Instances(), Priority: p.orthancPriority(), UserData: map[string]string{userDataKey: p.ID}}
}

// Jobs submits, finds again and follows Orthanc's jobs.
type Jobs struct {
	Orthanc *orthanc.Client
	// Concurrent is how many jobs Orthanc works on at a time; 0 asks Orthanc.
	Concurrent int

	once  sync.Mutex
	slots *semaphore.Weighted
}

// defaultConcurrentJobs is Orthanc's own default, taken where it does not say (before 1.13).
const defaultConcurrentJobs = 2

// Slot waits for its turn among Orthanc's jobs and returns how to give it back. The router never takes all of those that Orthanc works on at a
// time: people's own jobs (anonymise, archive, send) must not wait for ours.
func (j *Jobs) Slot(ctx context.Context) (release func(), err error) {
	slots, err := j.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := slots.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { slots.Release(1) }, nil
}

func (j *Jobs) open(ctx context.Context) (*semaphore.Weighted, error) {
	j.once.Lock()
	defer j.once.Unlock()
	if j.slots != nil {
		return j.slots, nil
	}
	n := j.Concurrent
	if n == 0 {
		system, err := j.Orthanc.System(ctx)
		if err != nil {
			return nil, err
		}
		if n = system.ConcurrentJobs; n == 0 {
			n = defaultConcurrentJobs
		}
	}
	j.slots = semaphore.NewWeighted(int64(max(1, n-1)))
	return j.slots, nil
}

// Submit hands a delivery to Orthanc and returns the job's id. ErrUncertain when no answer came.
func (j *Jobs) Submit(ctx context.Context, p Parcel, by Carrier) (string, error) {
	job, err := by.submit(ctx, j.Orthanc, p)
	var refused *orthanc.Error
	switch {
	case err == nil:
		return job, nil
	case errors.As(err, &refused) && !orthanc.IsUnreachable(err):
		return "", fmt.Errorf("submit %s to %s: %w", p.Subject(), by, err)
	default:
		return "", fmt.Errorf("submit %s to %s: %w: %w", p.Subject(), by, ErrUncertain, err)
	}
}

// clockSlack allows Orthanc's clock to be behind the router's when a job is recognised by its time.
const clockSlack = 5 * time.Second

// Find looks for the job of a delivery that was being submitted when the router stopped, or whose submission got no answer. others says whether a
// job is known to carry another delivery: where jobs are not marked, one of an older content of the same instance looks the same.
func (j *Jobs) Find(ctx context.Context, p Parcel, by Carrier, others func(job string) (bool, error)) (job string, found bool, err error) {
	all, err := j.Orthanc.Jobs(ctx)
	if err != nil {
		return "", false, fmt.Errorf("look for the job of delivery %s: %w: %w", p.ID, ErrUncertain, err)
	}
	recognised, err := by.recognise(ctx, j.Orthanc, p)
	if err != nil {
		return "", false, fmt.Errorf("look for the job of delivery %s: %w: %w", p.ID, ErrUncertain, err)
	}
	for _, candidate := range all {
		if candidate.State == orthanc.JobFailure {
			continue
		}
		id, marked := candidate.UserData[userDataKey]
		switch {
		case marked && id == p.ID:
			return candidate.ID, true, nil
		case marked || before(candidate, p.SubmittedAt) || !recognised(candidate):
			continue
		}
		if other, err := others(candidate.ID); err != nil || !other {
			return candidate.ID, err == nil, err
		}
	}
	return "", false, nil
}

func before(j orthanc.Job, t time.Time) bool {
	created, err := orthanc.ParseTime(j.CreationTime)
	return err == nil && created.Before(t.Add(-clockSlack))
}

// onlyResources says whether a job sends what is in the parcel and nothing else. Orthanc names instances in an order of its own.
func onlyResources(list any, p Parcel) bool {
	resources, _ := list.([]any)
	if len(resources) != len(p.Parts) {
		return false
	}
	wanted := make(map[any]bool, len(p.Parts))
	for _, part := range p.Parts {
		wanted[part.InstanceID] = true
	}
	for _, r := range resources {
		if !wanted[r] {
			return false
		}
		delete(wanted, r)
	}
	return len(wanted) == 0
}

// Follow waits for the end of the parcel's job, at most timeout; then it cancels the job. nil says that the destination has all of it, and where
// it can confirm that (Confirmer), that it has done so.
// ErrUncertain leaves the outcome open, and so does ErrJobLost; any other error says that it was not sent.
func (j *Jobs) Follow(ctx context.Context, p Parcel, by Carrier, id string, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for pause := 10 * time.Millisecond; ; pause = min(pause*3/2, time.Second) {
		job, err := j.Orthanc.Job(ctx, id)
		switch {
		case orthanc.IsNotFound(err):
			return fmt.Errorf("job %s: %w", id, ErrJobLost)
		case err != nil:
			return fmt.Errorf("follow job %s: %w: %w", id, ErrUncertain, err)
		case job.State == orthanc.JobSuccess:
			return j.arrived(ctx, p, by, job, deadline)
		case job.State == orthanc.JobFailure:
			return fmt.Errorf("job %s failed: error %d, %s", id, job.ErrorCode, reason(job))
		case time.Now().After(deadline):
			return j.cancel(ctx, p, by, job, timeout)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// arrived compares what a job that ended with success has sent with what it should have, and asks the destination where that can say.
func (j *Jobs) arrived(ctx context.Context, p Parcel, by Carrier, job orthanc.Job, deadline time.Time) error {
	if n := job.FailedInstances(); n > 0 {
		return fmt.Errorf("job %s: ended, but %d of %d instances were not sent", job.ID, n, len(p.Parts))
	}
	if n, says := job.Instances(); says && n != len(p.Parts) {
		return fmt.Errorf("job %s: ended, but sent %d instances instead of %d", job.ID, n, len(p.Parts))
	}
	confirmer, can := by.(Confirmer)
	if !can {
		return nil
	}
	asked, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	err := confirmer.confirm(asked, j.Orthanc, job)
	if ctx.Err() != nil { // the router is stopping: nothing is decided
		return ctx.Err()
	}
	return err
}

// reason prefers what a plugin says of its failed job to Orthanc's "error within the plugin engine", and adds the details that there are.
func reason(j orthanc.Job) string {
	text := j.ErrorDescription
	if said, ok := j.Content["FunctionErrorDescription"].(string); ok && said != "" {
		text = said
	}
	if j.ErrorDetails != "" {
		text += ": " + j.ErrorDetails
	}
	return text
}

// cancelWithin is how long a cancelled job may take to end: Orthanc lets the network call that it hangs in come to its own time-out first.
const cancelWithin = 90 * time.Second

// cancel ends a job that took too long, and waits for its end: what succeeds at the last moment counts, and nothing is sent anew while the old
// job may still get through.
func (j *Jobs) cancel(ctx context.Context, p Parcel, by Carrier, job orthanc.Job, timeout time.Duration) error {
	if err := j.Orthanc.CancelJob(ctx, job.ID); err != nil {
		return fmt.Errorf("cancel job %s, which did not end within %s: %w: %w", job.ID, timeout, ErrUncertain, err)
	}
	for deadline := time.Now().Add(cancelWithin); ; {
		after, err := j.Orthanc.Job(ctx, job.ID)
		switch {
		case orthanc.IsNotFound(err):
			return fmt.Errorf("job %s: %w", job.ID, ErrJobLost)
		case err != nil:
			return fmt.Errorf("follow job %s: %w: %w", job.ID, ErrUncertain, err)
		case after.State == orthanc.JobSuccess:
			return j.arrived(ctx, p, by, after, time.Now().Add(timeout))
		case after.Ended():
			return fmt.Errorf("job %s did not end within %s (state %s) and was cancelled", job.ID, timeout, job.State)
		case time.Now().After(deadline):
			return fmt.Errorf("job %s was cancelled %s ago and hangs in a call to the destination (give the peer or modality a Timeout in Orthanc's configuration): %w", job.ID, cancelWithin, ErrUncertain)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
