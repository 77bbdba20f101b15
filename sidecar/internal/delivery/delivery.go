// Package delivery hands instances to their destinations: through jobs of Orthanc (peer, transfers accelerator, modality, DICOMweb) or by
// itself (webhook, folder), one file for each kind. When to send, how often and what a failure means, the pipeline decides.
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
	FromOrigins   []string      // Origin of instances that came from there: Plugins, Lua …
	Timeout       time.Duration // of one attempt
	Resend        store.Resend
	// TransferSyntax is the UID of the transfer syntax in which files are sent, "" = as they are stored. Peers and folders only.
	TransferSyntax string
	Alternate      string        // the destination that takes over, "" = none
	AlternateAfter time.Duration // after so long
	Gate           *Gate
}

// SentIt says whether the instance came from this destination.
func (d Destination) SentIt(i orthanc.Instance) bool {
	username, aet := i.Metadata["HttpUsername"], i.Metadata["RemoteAET"]
	return username != "" && slices.Contains(d.FromUsernames, username) || aet != "" && slices.Contains(d.FromAETs, aet) ||
		slices.Contains(d.FromOrigins, i.Metadata["Origin"])
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
	submit(ctx context.Context, c *orthanc.Client, p Parcel) (job string, err error)
	// recognise returns a test for jobs that carry the delivery, for Orthancs and plugins that do not keep our delivery's id.
	recognise(ctx context.Context, c *orthanc.Client, p Parcel) (func(orthanc.Job) bool, error)
}

// Confirmer is a Carrier whose destination can say, after the job, whether it keeps what it got.
type Confirmer interface {
	Carrier
	// confirm waits until the destination has said so, and fails when it says the opposite, or nothing before ctx ends.
	confirm(ctx context.Context, c *orthanc.Client, job orthanc.Job) error
}

// Sender is a kind that hands over by itself. A repetition (after a crash) must do no harm, or be recognisable by the delivery's id.
type Sender interface {
	Kind
	Send(ctx context.Context, p Parcel) error
}

// Parcel is a delivery with what is in it.
type Parcel struct {
	store.Delivery
	Parts          []Part
	TransferSyntax string // in which files are sent, "" = as they are stored
	// File fetches the DICOM file of an instance from Orthanc, in TransferSyntax, and holds it while use uses it.
	File func(ctx context.Context, instance string, use func(content []byte) error) error
}

// Part is one instance of a parcel.
type Part struct {
	store.Item
	SeriesID string
	State    store.State     // "" for what the router does not look at
	Result   bodypart.Result // when Known
	Known    bool            // the router has a result for this content
}

// Instances returns the identifiers of what the parcel sends.
func (p Parcel) Instances() []string {
	ids := make([]string, len(p.Parts))
	for i, part := range p.Parts {
		ids[i] = part.InstanceID
	}
	return ids
}

// orthancPriority turns a delivery's turn into Orthanc's, in which higher numbers go first.
func (p Parcel) orthancPriority() int { return 10 * (store.NormalPriority - p.Priority) }
