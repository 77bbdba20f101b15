package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"imagingrouter/sidecar/internal/orthanc"
)

// Transfers is another Orthanc, reached by the transfers accelerator, which both ends need: a set of instances goes in parallel pieces, whose
// checksums are compared, and arrives whole or not at all. The name is that of a peer without RemoteSelf: with it, the peer fetches by a job
// of its own, which nobody here could follow.
type Transfers struct{ Name string }

// String implements Kind.
func (t Transfers) String() string { return "peer " + t.Name + " (transfers accelerator)" }

// Check implements Kind: it asks the archive's plugin for the peers that have it too.
func (t Transfers) Check(ctx context.Context, c *orthanc.Client) (string, error) {
	known, err := c.TransfersPeers(ctx)
	if orthanc.IsNotFound(err) {
		return "", errors.New("Orthanc has no transfers accelerator plugin") //nolint:staticcheck // a name
	}
	if err != nil {
		return "", err
	}
	if !slices.Contains(known, t.Name) {
		slices.Sort(known)
		return "", unknownName("peer for the transfers accelerator", t.Name, "OrthancPeers", known)
	}
	system, err := c.PeerSystem(ctx, t.Name)
	if err != nil {
		return "", fmt.Errorf("Orthanc does not reach it: %w", err) //nolint:staticcheck // a name
	}
	return "answers, Orthanc " + system.Version, nil
}

func (t Transfers) submit(ctx context.Context, c *orthanc.Client, p Parcel) (string, error) {
	return c.Transfer(ctx, t.Name, p.shipment())
}

// recognise goes by the peer and the number of instances alone: the plugin's jobs name neither them nor our delivery. Of two deliveries of
// equal size that were being submitted when the router died, one may take the other's job for its own.
//
//nolint:unparam // the interface's error
func (t Transfers) recognise(_ context.Context, _ *orthanc.Client, p Parcel) (func(orthanc.Job) bool, error) {
	return func(j orthanc.Job) bool {
		n, _ := j.Content["TotalInstances"].(float64)
		return (j.Type == "PushTransfer" || j.Type == "PullTransfer") && j.Content["Peer"] == t.Name && int(n) == len(p.Parts)
	}, nil
}
