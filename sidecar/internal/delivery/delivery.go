// Package delivery hands instances to their destinations: through jobs of Orthanc (peer, modality, DICOMweb) or by itself (webhook,
// folder), one file for each kind. When to send, how often and what a failure means, the pipeline decides.
package delivery

import (
	"context"
	"slices"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// Destination is a place that rules name.
type Destination struct {
	Name          string
	Kind          Kind
	FromUsernames []string      // HttpUsername of instances that came from there: they are not sent back
	FromAETs      []string      // RemoteAET of instances that came from there
	Timeout       time.Duration // of one attempt
}

// SentIt says whether the instance came from this destination.
func (d Destination) SentIt(i orthanc.Instance) bool {
	username, aet := i.Metadata["HttpUsername"], i.Metadata["RemoteAET"]
	return username != "" && slices.Contains(d.FromUsernames, username) || aet != "" && slices.Contains(d.FromAETs, aet)
}

// Kind is how a destination is reached: a Carrier or a Sender.
type Kind interface {
	// String names the kind and its target, for people.
	String() string
	// Check says what was found at the destination, without sending anything. Its error says what is wrong.
	Check(ctx context.Context, c *orthanc.Client) (found string, err error)
}

// Carrier is a kind that goes through a job of Orthanc's.
type Carrier interface {
	Kind
	// submit makes the job. It is called once for each attempt.
	submit(ctx context.Context, c *orthanc.Client, d store.Delivery) (job string, err error)
	// recognise returns a test for jobs that carry the delivery, for Orthancs and plugins that do not keep our delivery's id.
	recognise(ctx context.Context, c *orthanc.Client, d store.Delivery) (func(orthanc.Job) bool, error)
}

// Sender is a kind that hands over by itself. A repetition (after a crash) must do no harm, or be recognisable by the delivery's id.
type Sender interface {
	Kind
	Send(ctx context.Context, p Parcel) error
}

// Parcel is what a Sender may need of an instance.
type Parcel struct {
	store.Delivery
	StudyID, SeriesID string
	Result            bodypart.Result
	// File fetches the DICOM file from Orthanc.
	File func(ctx context.Context) ([]byte, error)
}
