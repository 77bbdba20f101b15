package orthanc

import (
	"context"
	"net/http"
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
