package orthanc

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
)

// Peer is another Orthanc to which this one can send. Its password never leaves Orthanc.
type Peer struct {
	URL      string `json:"Url"`
	Username string
	Timeout  int // seconds for one instance; 0 = Orthanc's HttpTimeout
}

// Peers returns the peers of Orthanc's configuration by name.
func (c *Client) Peers(ctx context.Context) (map[string]Peer, error) {
	var peers map[string]Peer
	err := c.getJSON(ctx, "/peers", "expand", &peers)
	return peers, err
}

// PeerSystem asks a peer, through Orthanc, what it is: the proof that Orthanc reaches it and that its credentials hold.
// IsUnknownPeer tells a name that is not configured; a peer that does not answer is an *Error of status 500.
func (c *Client) PeerSystem(ctx context.Context, name string) (System, error) {
	return c.systemAt(ctx, "/peers/"+url.PathEscape(name)+"/system")
}

// Shipment is what a job of Orthanc's shall send.
type Shipment struct {
	Resources []string          // instances, series or studies
	Priority  int               // among Orthanc's jobs: higher goes first
	UserData  map[string]string // comes back in the job where Orthanc keeps it (System.KeepsUserData)
	Transcode string            // UID of a transfer syntax, "" = as stored; peers only
	Commit    bool              // ask for storage commitment; modalities only
}

// StoreToPeer has Orthanc send resources to a peer and returns the job that does it, which Job follows to its end.
// It is never repeated here: every success is one more job.
//
// A resource that is gone is a 404 up to Orthanc 1.12 and a 500 ("Internal error") since 1.13: ask for the instance to know.
func (c *Client) StoreToPeer(ctx context.Context, peer string, s Shipment) (string, error) {
	request := map[string]any{"Permissive": false}
	if s.Transcode != "" {
		request["Transcode"] = s.Transcode
	}
	return c.submit(ctx, "/peers/"+url.PathEscape(peer)+"/store", s, request)
}

// The states of a job. Pending and Running go on by themselves; Paused waits for a person.
const (
	JobPending = "Pending"
	JobRunning = "Running"
	JobSuccess = "Success"
	JobFailure = "Failure"
	JobPaused  = "Paused"
	JobRetry   = "Retry"
)

// Job is one of Orthanc's jobs. Only the last JobsHistorySize finished ones are kept, so a 404 means unknown, not failed.
type Job struct {
	ID               string
	Type             string
	State            string
	ErrorCode        int // 0 success, 9 network protocol; Orthanc's enumeration
	ErrorDescription string
	ErrorDetails     string
	Progress         int // percent
	Priority         int
	CreationTime     string            // UTC, see ParseTime
	CompletionTime   string            // empty until the end
	UserData         map[string]string // what the submitter gave; empty when it was not an object of strings
	Content          map[string]any
}

// Instances returns how many instances a sending job says it has to send; ok is false where it does not say.
func (j Job) Instances() (n int, ok bool) {
	switch v := j.Content["InstancesCount"].(type) {
	case float64:
		return int(v), true
	case string: // the DICOMweb plugin's way
		n, err := strconv.Atoi(v)
		return n, err == nil
	default:
		return 0, false
	}
}

// Ended says whether the job has come to its end, good or bad.
func (j Job) Ended() bool { return j.State == JobSuccess || j.State == JobFailure }

// FailedInstances returns how many instances a sending job says it could not send; a job that succeeded should say 0.
func (j Job) FailedInstances() int {
	n, ok := j.Content["FailedInstancesCount"].(float64)
	if !ok {
		return 0
	}
	return int(n)
}

// UnmarshalJSON takes UserData of any kind, since other programs submit jobs too.
func (j *Job) UnmarshalJSON(text []byte) error {
	type plain Job
	var a struct {
		plain

		UserData json.RawMessage
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return err
	}
	*j = Job(a.plain)
	if json.Unmarshal(a.UserData, &j.UserData) != nil {
		j.UserData = nil
	}
	return nil
}

// Job returns one job.
func (c *Client) Job(ctx context.Context, id string) (Job, error) {
	if len(id) != 36 || strings.Trim(id, "0123456789abcdef-") != "" {
		return Job{}, checkID("job", "")
	}
	var job Job
	err := c.getJSON(ctx, "/jobs/"+id, "", &job)
	return job, err
}

// Jobs returns all jobs that Orthanc still knows.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	var jobs []Job
	err := c.getJSON(ctx, "/jobs", "expand", &jobs)
	return jobs, err
}
