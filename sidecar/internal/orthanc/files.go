package orthanc

import (
	"context"
	"crypto/md5" //nolint:gosec // Orthanc's own checksum, and no secret
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// AttachmentMD5 returns what tells the instance's content apart from other content under the same identifier: the MD5 of the
// DICOM file, or, on an Orthanc that keeps none (StoreMD5ForAttachments false), "uuid:" and the attachment's UUID, which is new after every overwrite.
func (c *Client) AttachmentMD5(ctx context.Context, instance string) (string, error) {
	if err := checkID("attachment of an instance", instance); err != nil {
		return "", err
	}
	path := "/instances/" + instance + "/attachments/dicom/info"
	var info struct {
		UncompressedMD5 string
		UUID            string `json:"Uuid"`
	}
	if err := c.getJSON(ctx, path, "", &info); err != nil {
		return "", err
	}
	switch {
	case info.UncompressedMD5 != "":
		return info.UncompressedMD5, nil
	case info.UUID != "":
		return "uuid:" + info.UUID, nil
	}
	return "", fmt.Errorf("orthanc: %s: neither MD5 nor UUID in the answer", path)
}

// Matches says whether a file is the one that AttachmentMD5 has described. Where there was no MD5 to tell by, it is.
func Matches(file []byte, sum string) bool {
	if sum == "" || strings.HasPrefix(sum, "uuid:") {
		return true
	}
	got := md5.Sum(file) //nolint:gosec // Orthanc's own checksum, and no secret
	return hex.EncodeToString(got[:]) == sum
}

// File returns the DICOM file as it was stored. One that is larger than Options.MaxFile is an ErrTooLarge.
func (c *Client) File(ctx context.Context, instance string) ([]byte, error) {
	if err := checkID("file of an instance", instance); err != nil {
		return nil, err
	}
	a, err := c.do(ctx, call{method: http.MethodGet, path: "/instances/" + instance + "/file", limit: c.maxFile, repeat: true})
	return a.body, err
}

// FileTranscoded returns the DICOM file in another transfer syntax (a UID), decoded inside Orthanc. An ErrCannotTranscode says that the
// instance is there and that this Orthanc cannot. It is not repeated: it has killed an Orthanc 1.12.7 with the GDCM plugin.
func (c *Client) FileTranscoded(ctx context.Context, instance, syntax string) ([]byte, error) {
	if err := checkID("file of an instance", instance); err != nil {
		return nil, err
	}
	if syntax == "" || strings.Trim(syntax, "0123456789.") != "" {
		return nil, errors.New("orthanc: the transfer syntax is not a UID")
	}
	a, err := c.do(ctx, call{
		method: http.MethodGet, path: "/instances/" + instance + "/file", query: "transcode=" + syntax, limit: c.maxFile,
	})
	var e *Error
	if !errors.As(err, &e) {
		return a.body, err
	}
	// 1.12: 404 without a body (with one, the instance is gone). 1.13: 500. Unknown syntax: 400. Undecodable pixels: 415.
	if (e.Status == http.StatusNotFound && !e.HasBody) || e.Status == http.StatusInternalServerError ||
		e.Status == http.StatusBadRequest || e.Status == http.StatusUnsupportedMediaType {
		return nil, fmt.Errorf("%w to %s: %w", ErrCannotTranscode, syntax, err)
	}
	return nil, err
}
