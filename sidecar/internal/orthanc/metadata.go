package orthanc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// Metadata returns the value of a metadata number, and the ETag with which alone it can be changed when CheckRevisions is on.
// found is false when the resource is there and the value is not; a resource that is not there is an error for which IsNotFound holds.
func (c *Client) Metadata(ctx context.Context, level Level, id string, number int) (value string, found bool, etag string, err error) {
	path, err := metadataPath(level, id, number)
	if err != nil {
		return "", false, "", err
	}
	a, err := c.do(ctx, call{method: http.MethodGet, path: path, repeat: true})
	var e *Error
	if errors.As(err, &e) && e.Status == http.StatusNotFound && !e.HasBody {
		return "", false, "", nil
	}
	if err != nil {
		return "", false, "", err
	}
	return string(a.body), true, a.header.Get("ETag"), nil
}

// PutMetadata writes a value. Orthanc logs an UpdatedMetadata even when it was the same before: compare first.
// With an ETag it fails (IsConflict) when somebody else has changed the value since, whether or not CheckRevisions is on; where it is on,
// changing or deleting a value without one fails too.
func (c *Client) PutMetadata(ctx context.Context, level Level, id string, number int, value, etag string) error {
	path, err := metadataPath(level, id, number)
	if err != nil {
		return err
	}
	// With an ETag it is not repeated: had the first try got through, the second would be a conflict with ourselves.
	_, err = c.do(ctx, call{method: http.MethodPut, path: path, body: value, header: ifMatch(etag), repeat: etag == ""})
	return err
}

// DeleteMetadata removes a value; one that is not there is not an error.
func (c *Client) DeleteMetadata(ctx context.Context, level Level, id string, number int, etag string) error {
	path, err := metadataPath(level, id, number)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, call{method: http.MethodDelete, path: path, header: ifMatch(etag), repeat: etag == ""})
	if IsNotFound(err) {
		// The same answer for a value and for a resource that is not there; reading tells them apart.
		_, found, _, readErr := c.Metadata(ctx, level, id, number)
		if readErr == nil && !found {
			return nil
		}
	}
	return err
}

func ifMatch(etag string) map[string]string {
	if etag == "" {
		return nil
	}
	return map[string]string{"If-Match": etag}
}

func metadataPath(level Level, id string, number int) (string, error) {
	if err := checkID("metadata of "+string(level), id); err != nil {
		return "", err
	}
	return "/" + string(level) + "/" + id + "/metadata/" + strconv.Itoa(number), nil
}

// Labels returns the labels of a resource.
func (c *Client) Labels(ctx context.Context, level Level, id string) ([]string, error) {
	if err := checkID("labels of "+string(level), id); err != nil {
		return nil, err
	}
	var labels []string
	err := c.getJSON(ctx, "/"+string(level)+"/"+id+"/labels", "", &labels)
	return labels, err
}

// PutLabel adds a label; one that is there already stays. Labels cause no change in the log of changes.
func (c *Client) PutLabel(ctx context.Context, level Level, id, label string) error {
	return c.label(ctx, http.MethodPut, level, id, label)
}

// DeleteLabel removes a label; one that is not there is not an error.
func (c *Client) DeleteLabel(ctx context.Context, level Level, id, label string) error {
	return c.label(ctx, http.MethodDelete, level, id, label)
}

func (c *Client) label(ctx context.Context, method string, level Level, id, label string) error {
	if err := checkID("label of "+string(level), id); err != nil {
		return err
	}
	if !ValidLabel(label) {
		return fmt.Errorf("orthanc: %q cannot be a label: 1 to 64 letters, digits, _ and -", label)
	}
	k := call{method: method, path: "/" + string(level) + "/" + id + "/labels/" + label, repeat: true}
	if method == http.MethodPut {
		k.body = "" // Orthanc wants a Content-Length
	}
	_, err := c.do(ctx, k)
	return err
}

// ValidLabel says whether Orthanc takes the text for a label.
func ValidLabel(label string) bool {
	if label == "" || len(label) > 64 {
		return false
	}
	for i := range len(label) {
		b := label[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
		if !letter && (b < '0' || b > '9') && b != '_' && b != '-' {
			return false
		}
	}
	return true
}
