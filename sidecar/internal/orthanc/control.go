package orthanc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// CancelJob asks Orthanc to end a job that has not ended. Its outcome stands in Job afterwards: it may have come first.
func (c *Client) CancelJob(ctx context.Context, id string) error {
	if _, err := c.Job(ctx, id); err != nil {
		return err
	}
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/jobs/" + id + "/cancel", body: ""})
	return err
}

// Plugins returns the names of the plugins that Orthanc has loaded ("gdcm", "dicom-web", "orthanc-explorer-2" …).
func (c *Client) Plugins(ctx context.Context) ([]string, error) {
	var names []string
	err := c.getJSON(ctx, "/plugins", "", &names)
	return names, err
}

// Echo asks a modality by C-ECHO, through Orthanc, whether it is there. It waits 5 s at most.
func (c *Client) Echo(ctx context.Context, name string) error {
	_, err := c.do(ctx, call{method: http.MethodPost, path: "/modalities/" + url.PathEscape(name) + "/echo", body: map[string]any{"Timeout": 5}})
	return err
}

// StoreToModality has Orthanc send resources to a modality by C-STORE and returns the job that does it; see StoreToPeer.
func (c *Client) StoreToModality(ctx context.Context, name string, s Shipment) (string, error) {
	return c.submit(ctx, "/modalities/"+url.PathEscape(name)+"/store", s, map[string]any{"Permissive": false, "StorageCommitment": s.Commit})
}

// Commitment is what a modality has answered to a request for storage commitment.
type Commitment struct {
	Status   string           // Pending, Success or Failure
	Success  []map[string]any // the instances that it keeps
	Failures []map[string]any // those that it does not
}

// The states of a storage commitment.
const (
	CommitmentPending = "Pending"
	CommitmentSuccess = "Success"
	CommitmentFailure = "Failure"
)

// Commitment returns the report of a storage commitment by the transaction that the sending job names. Orthanc keeps the last hundred of
// them in memory: an error for which IsNotFound holds says that it has forgotten this one.
func (c *Client) Commitment(ctx context.Context, transaction string) (Commitment, error) {
	if transaction == "" || len(transaction) > 64 || strings.Trim(transaction, "0123456789.") != "" {
		return Commitment{}, fmt.Errorf("storage commitment: %w", ErrInvalidID)
	}
	var report Commitment
	err := c.getJSON(ctx, "/storage-commitment/"+transaction, "", &report)
	return report, err
}

// DICOMwebServers returns the names of the servers that the DICOMweb plugin knows. Without the plugin: an error for which IsNotFound holds.
func (c *Client) DICOMwebServers(ctx context.Context) ([]string, error) {
	var names []string
	err := c.getJSON(ctx, "/dicom-web/servers", "", &names)
	return names, err
}

// Stow has Orthanc's DICOMweb plugin send resources to a server by STOW-RS and returns the job that does it. The job of a server that is
// not configured is made all the same, and fails.
func (c *Client) Stow(ctx context.Context, server string, s Shipment) (string, error) {
	return c.submit(ctx, "/dicom-web/servers/"+url.PathEscape(server)+"/stow", Shipment{Resources: s.Resources, Priority: s.Priority}, map[string]any{"Synchronous": false})
}

// TransfersPeers returns the peers to which the transfers accelerator can send. Without the plugin: an error for which IsNotFound holds.
func (c *Client) TransfersPeers(ctx context.Context) ([]string, error) {
	var peers map[string]any
	err := c.getJSON(ctx, "/transfers/peers", "", &peers)
	names := make([]string, 0, len(peers))
	for name := range peers {
		names = append(names, name)
	}
	return names, err
}

// Transfer has the transfers accelerator send instances to a peer that has the plugin as well, and returns the job that does it.
func (c *Client) Transfer(ctx context.Context, peer string, s Shipment) (string, error) {
	type resource struct{ Level, ID string }
	list := make([]resource, 0, len(s.Resources))
	for _, id := range s.Resources {
		if err := checkID("submit to /transfers/send", id); err != nil {
			return "", err
		}
		list = append(list, resource{"Instance", id})
	}
	// A peer with RemoteSelf fetches by a job of its own, which this Orthanc does not know: the answer names none, and that is an error.
	return c.makeJob(ctx, "/transfers/send", map[string]any{"Resources": list, "Compression": "gzip", "Peer": peer, "Priority": s.Priority})
}

// submit posts a request that makes a sending job, never twice.
func (c *Client) submit(ctx context.Context, path string, s Shipment, request map[string]any) (string, error) {
	for _, id := range s.Resources {
		if err := checkID("submit to "+path, id); err != nil {
			return "", err
		}
	}
	request["Resources"], request["Asynchronous"], request["Priority"] = s.Resources, true, s.Priority
	if len(s.UserData) > 0 {
		system, err := c.known(ctx)
		if err != nil {
			return "", err
		}
		if system.KeepsUserData() {
			request["UserData"] = s.UserData
		}
	}
	return c.makeJob(ctx, path, request)
}

func (c *Client) makeJob(ctx context.Context, path string, request map[string]any) (string, error) {
	a, err := c.do(ctx, call{method: http.MethodPost, path: path, body: request})
	if err != nil {
		return "", err
	}
	var job struct{ ID string }
	if err := a.decode(path, &job); err != nil {
		return "", err
	}
	if job.ID == "" {
		return "", errors.New("orthanc: " + path + ": the answer names no job")
	}
	return job.ID, nil
}
