package delivery

import (
	"context"
	"fmt"

	"imagingrouter/sidecar/internal/orthanc"
)

// Peer is another Orthanc (OrthancPeers of the archive's configuration).
type Peer struct{ Name string }

// String implements Kind.
func (p Peer) String() string { return "peer " + p.Name }

// Check implements Kind: it asks the peer, through the archive, what it is.
func (p Peer) Check(ctx context.Context, c *orthanc.Client) (string, error) {
	known, err := c.Peers(ctx)
	if err != nil {
		return "", err
	}
	if _, exists := known[p.Name]; !exists {
		return "", unknownName("peer", p.Name, "OrthancPeers", keys(known))
	}
	system, err := c.PeerSystem(ctx, p.Name)
	if err != nil {
		return "", fmt.Errorf("Orthanc does not reach it: %w", err) //nolint:staticcheck // a name
	}
	return "answers, Orthanc " + system.Version, nil
}

func (p Peer) submit(ctx context.Context, c *orthanc.Client, parcel Parcel) (string, error) {
	shipment := parcel.shipment()
	shipment.Transcode = parcel.TransferSyntax
	return c.StoreToPeer(ctx, p.Name, shipment)
}

func (p Peer) recognise(ctx context.Context, c *orthanc.Client, parcel Parcel) (func(orthanc.Job) bool, error) {
	peers, err := c.Peers(ctx)
	address := peers[p.Name].URL
	return func(j orthanc.Job) bool {
		return j.Type == "OrthancPeerStore" && address != "" && peerAddress(j.Content["Peer"]) == address && onlyResources(j.Content["ParentResources"], parcel)
	}, err
}

// peerAddress reads a peer's address out of a job. Orthanc writes the peer in the short form of its configuration, a list that begins with the
// address, unless the peer has something that only the long form can say, such as a Timeout.
func peerAddress(peer any) any {
	switch p := peer.(type) {
	case []any:
		if len(p) > 0 {
			return p[0]
		}
	case map[string]any:
		return p["Url"]
	}
	return nil
}
