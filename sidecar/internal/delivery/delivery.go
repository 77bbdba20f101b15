// Package delivery hands instances to their destinations through Orthanc. It submits, finds again and follows Orthanc's jobs; when
// to send, how often and what it means, the pipeline decides.
package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// Destination is a place that rules name.
type Destination struct {
	Name          string
	Peer          string        // the name in Orthanc's configuration (OrthancPeers)
	FromUsernames []string      // HttpUsername of instances that came from there: they are not sent back
	FromAETs      []string      // RemoteAET of instances that came from there
	Timeout       time.Duration // of one Orthanc job; a job that takes longer is cancelled
}

// SentIt says whether the instance came from this destination.
func (d Destination) SentIt(i orthanc.Instance) bool {
	username, aet := i.Metadata["HttpUsername"], i.Metadata["RemoteAET"]
	return username != "" && slices.Contains(d.FromUsernames, username) || aet != "" && slices.Contains(d.FromAETs, aet)
}

// ErrUncertain says that a submission failed in a way that leaves open whether Orthanc has taken it. The next attempt must look for
// the job before it submits again.
var ErrUncertain = errors.New("Orthanc may have taken the job") //nolint:staticcheck // a name

// userDataKey marks Orthanc's jobs with the delivery that they carry (Orthanc 1.12.9 and newer keep it).
const userDataKey = "imaging-router-delivery"

// Peers sends to Orthanc peers, as asynchronous jobs of the archive.
type Peers struct{ Orthanc *orthanc.Client }

// Submit hands a delivery to Orthanc and returns the job's id. ErrUncertain when no answer came.
func (p *Peers) Submit(ctx context.Context, d store.Delivery, to Destination) (string, error) {
	job, err := p.Orthanc.StoreToPeer(ctx, to.Peer, []string{d.InstanceID}, 0, map[string]string{userDataKey: d.ID})
	var refused *orthanc.Error
	switch {
	case err == nil:
		return job, nil
	case errors.As(err, &refused) && !orthanc.IsUnreachable(err):
		return "", fmt.Errorf("submit instance %s to peer %s: %w", d.InstanceID, to.Peer, err)
	default:
		return "", fmt.Errorf("submit instance %s to peer %s: %w: %w", d.InstanceID, to.Peer, ErrUncertain, err)
	}
}

// clockSlack allows Orthanc's clock to be behind the router's when a job is recognised by its time.
const clockSlack = 5 * time.Second

// Find looks for the job of a delivery that was being submitted when the router stopped. Orthanc keeps our delivery's id with the job
// from 1.12.9 on; before, the job is recognised by peer, instance and time.
func (p *Peers) Find(ctx context.Context, d store.Delivery, to Destination) (job string, found bool, err error) {
	all, err := p.Orthanc.Jobs(ctx)
	if err != nil {
		return "", false, fmt.Errorf("look for the job of delivery %s: %w", d.ID, err)
	}
	peers, err := p.Orthanc.Peers(ctx)
	if err != nil {
		return "", false, fmt.Errorf("look for the job of delivery %s: %w", d.ID, err)
	}
	for _, j := range all {
		if id, marked := j.UserData[userDataKey]; marked {
			if id == d.ID && j.State != orthanc.JobFailure && !before(j, d.SubmittedAt) {
				return j.ID, true, nil
			}
			continue
		}
		if j.Type == "OrthancPeerStore" && j.State != orthanc.JobFailure && sendsTo(j, peers[to.Peer].URL) && carries(j, d.InstanceID) && !before(j, d.SubmittedAt) {
			return j.ID, true, nil
		}
	}
	return "", false, nil
}

func before(j orthanc.Job, t time.Time) bool {
	created, err := orthanc.ParseTime(j.CreationTime)
	return err == nil && created.Before(t.Add(-clockSlack))
}

func sendsTo(j orthanc.Job, url string) bool {
	peer, _ := j.Content["Peer"].([]any)
	return url != "" && len(peer) > 0 && peer[0] == url
}

func carries(j orthanc.Job, instance string) bool {
	resources, _ := j.Content["ParentResources"].([]any)
	return len(resources) == 1 && resources[0] == instance
}

// ErrJobLost says that Orthanc does not know the job any more: it restarted without saving it, or forgot it (JobsHistorySize).
var ErrJobLost = errors.New("Orthanc no longer knows the job") //nolint:staticcheck // a name

// Follow waits for the end of a job, at most timeout; then it cancels the job. nil says that the destination has the instance.
// ErrJobLost and errors for which orthanc.IsUnreachable holds leave the outcome open; any other says that it was not sent.
func (p *Peers) Follow(ctx context.Context, id string, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for pause := 10 * time.Millisecond; ; pause = min(pause*3/2, time.Second) {
		job, err := p.Orthanc.Job(ctx, id)
		switch {
		case orthanc.IsNotFound(err):
			return fmt.Errorf("job %s: %w", id, ErrJobLost)
		case err != nil:
			return fmt.Errorf("follow job %s: %w", id, err)
		case job.State == orthanc.JobSuccess && job.FailedInstances() == 0:
			return nil
		case job.State == orthanc.JobSuccess:
			return fmt.Errorf("job %s: ended, but %d instances were not sent", id, job.FailedInstances())
		case job.State == orthanc.JobFailure:
			return fmt.Errorf("job %s failed: error %d, %s", id, job.ErrorCode, job.ErrorDescription)
		case time.Now().After(deadline):
			return p.cancel(ctx, job, timeout)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// cancel ends a job that took too long. If it succeeded at the last moment, that counts.
func (p *Peers) cancel(ctx context.Context, job orthanc.Job, timeout time.Duration) error {
	if err := p.Orthanc.CancelJob(ctx, job.ID); err != nil {
		return fmt.Errorf("cancel job %s, which did not end within %s: %w", job.ID, timeout, err)
	}
	after, err := p.Orthanc.Job(ctx, job.ID)
	if err == nil && after.State == orthanc.JobSuccess && after.FailedInstances() == 0 {
		return nil
	}
	return fmt.Errorf("job %s did not end within %s (state %s) and was cancelled", job.ID, timeout, job.State)
}
