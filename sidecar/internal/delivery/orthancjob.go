package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// ErrUncertain says that a submission failed in a way that leaves open whether Orthanc has taken it. The next attempt must look for
// the job before it submits again.
var ErrUncertain = errors.New("Orthanc may have taken the job") //nolint:staticcheck // a name

// ErrJobLost says that Orthanc does not know the job any more: it restarted without saving it, or forgot it (JobsHistorySize).
var ErrJobLost = errors.New("Orthanc no longer knows the job") //nolint:staticcheck // a name

// userDataKey marks Orthanc's jobs with the delivery that they carry (Orthanc 1.12.9 and newer keep it, except for plugins' jobs).
const userDataKey = "imaging-router-delivery"

func userData(d store.Delivery) map[string]string { return map[string]string{userDataKey: d.ID} }

// Jobs submits, finds again and follows Orthanc's jobs.
type Jobs struct{ Orthanc *orthanc.Client }

// Submit hands a delivery to Orthanc and returns the job's id. ErrUncertain when no answer came.
func (j *Jobs) Submit(ctx context.Context, d store.Delivery, by Carrier) (string, error) {
	job, err := by.submit(ctx, j.Orthanc, d)
	var refused *orthanc.Error
	switch {
	case err == nil:
		return job, nil
	case errors.As(err, &refused) && !orthanc.IsUnreachable(err):
		return "", fmt.Errorf("submit instance %s to %s: %w", d.InstanceID, by, err)
	default:
		return "", fmt.Errorf("submit instance %s to %s: %w: %w", d.InstanceID, by, ErrUncertain, err)
	}
}

// clockSlack allows Orthanc's clock to be behind the router's when a job is recognised by its time.
const clockSlack = 5 * time.Second

// Find looks for the job of a delivery that was being submitted when the router stopped, or whose submission got no answer.
func (j *Jobs) Find(ctx context.Context, d store.Delivery, by Carrier) (job string, found bool, err error) {
	all, err := j.Orthanc.Jobs(ctx)
	if err != nil {
		return "", false, fmt.Errorf("look for the job of delivery %s: %w", d.ID, err)
	}
	recognised, err := by.recognise(ctx, j.Orthanc, d)
	if err != nil {
		return "", false, fmt.Errorf("look for the job of delivery %s: %w", d.ID, err)
	}
	for _, candidate := range all {
		if candidate.State == orthanc.JobFailure || before(candidate, d.SubmittedAt) {
			continue
		}
		id, marked := candidate.UserData[userDataKey]
		if marked && id == d.ID || !marked && recognised(candidate) {
			return candidate.ID, true, nil
		}
	}
	return "", false, nil
}

func before(j orthanc.Job, t time.Time) bool {
	created, err := orthanc.ParseTime(j.CreationTime)
	return err == nil && created.Before(t.Add(-clockSlack))
}

// onlyResource says whether a job sends this one instance and nothing else.
func onlyResource(list any, instance string) bool {
	resources, _ := list.([]any)
	return len(resources) == 1 && resources[0] == instance
}

// Follow waits for the end of a job, at most timeout; then it cancels the job. nil says that the destination has the instance.
// ErrJobLost and errors for which orthanc.IsUnreachable holds leave the outcome open; any other says that it was not sent.
func (j *Jobs) Follow(ctx context.Context, id string, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for pause := 10 * time.Millisecond; ; pause = min(pause*3/2, time.Second) {
		job, err := j.Orthanc.Job(ctx, id)
		switch {
		case orthanc.IsNotFound(err):
			return fmt.Errorf("job %s: %w", id, ErrJobLost)
		case err != nil:
			return fmt.Errorf("follow job %s: %w", id, err)
		case arrived(job):
			return nil
		case job.State == orthanc.JobSuccess:
			return fmt.Errorf("job %s: ended, but %d instances were not sent", id, job.FailedInstances())
		case job.State == orthanc.JobFailure:
			return fmt.Errorf("job %s failed: error %d, %s", id, job.ErrorCode, reason(job))
		case time.Now().After(deadline):
			return j.cancel(ctx, job, timeout)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func arrived(j orthanc.Job) bool { return j.State == orthanc.JobSuccess && j.FailedInstances() == 0 }

// reason prefers what a plugin says of its failed job to Orthanc's "error within the plugin engine".
func reason(j orthanc.Job) string {
	if text, ok := j.Content["FunctionErrorDescription"].(string); ok && text != "" {
		return text
	}
	return j.ErrorDescription
}

// cancel ends a job that took too long. If it succeeded at the last moment, that counts.
func (j *Jobs) cancel(ctx context.Context, job orthanc.Job, timeout time.Duration) error {
	if err := j.Orthanc.CancelJob(ctx, job.ID); err != nil {
		return fmt.Errorf("cancel job %s, which did not end within %s: %w", job.ID, timeout, err)
	}
	after, err := j.Orthanc.Job(ctx, job.ID)
	if err == nil && arrived(after) {
		return nil
	}
	return fmt.Errorf("job %s did not end within %s (state %s) and was cancelled", job.ID, timeout, job.State)
}
