package orthanc

import (
	"context"
	"errors"
	"net/http"
	"net/url"
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
// With commit Orthanc also asks for storage commitment.
func (c *Client) StoreToModality(ctx context.Context, name string, resources []string, userData map[string]string, commit bool) (string, error) {
	request := map[string]any{"Resources": resources, "Asynchronous": true, "Permissive": false, "StorageCommitment": commit}
	return c.submit(ctx, "/modalities/"+url.PathEscape(name)+"/store", resources, userData, request)
}

// DICOMwebServers returns the names of the servers that the DICOMweb plugin knows. Without the plugin: an error for which IsNotFound holds.
func (c *Client) DICOMwebServers(ctx context.Context) ([]string, error) {
	var names []string
	err := c.getJSON(ctx, "/dicom-web/servers", "", &names)
	return names, err
}

// Stow has Orthanc's DICOMweb plugin send resources to a server by STOW-RS and returns the job that does it. The job of a server that is
// not configured is made all the same, and fails.
func (c *Client) Stow(ctx context.Context, server string, resources []string) (string, error) {
	return c.submit(ctx, "/dicom-web/servers/"+url.PathEscape(server)+"/stow", resources, nil, map[string]any{"Resources": resources, "Synchronous": false})
}

// submit posts a request that makes a job, never twice.
func (c *Client) submit(ctx context.Context, path string, resources []string, userData map[string]string, request map[string]any) (string, error) {
	for _, id := range resources {
		if err := checkID("submit to "+path, id); err != nil {
			return "", err
		}
	}
	if len(userData) > 0 {
		s, err := c.known(ctx)
		if err != nil {
			return "", err
		}
		if s.KeepsUserData() {
			request["UserData"] = userData
		}
	}
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
