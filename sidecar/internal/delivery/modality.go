package delivery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"imagingrouter/sidecar/internal/orthanc"
)

// Modality is a DICOM node that receives by C-STORE (DicomModalities of the archive's configuration).
type Modality struct {
	Name   string
	Commit bool // ask for storage commitment: only what the modality commits itself to keep is delivered
}

// String implements Kind.
func (m Modality) String() string { return "modality " + m.Name }

// Check implements Kind: a C-ECHO, through the archive.
func (m Modality) Check(ctx context.Context, c *orthanc.Client) (string, error) {
	known, err := c.Modalities(ctx)
	if err != nil {
		return "", err
	}
	node, exists := known[m.Name]
	if !exists {
		return "", unknownName("modality", m.Name, "DicomModalities", keys(known))
	}
	if err := c.Echo(ctx, m.Name); err != nil {
		return "", fmt.Errorf("no answer to C-ECHO from %s: %w", node.AET, err)
	}
	return "answers C-ECHO as " + node.AET, nil
}

func (m Modality) submit(ctx context.Context, c *orthanc.Client, p Parcel) (string, error) {
	shipment := p.shipment()
	shipment.Commit = m.Commit
	return c.StoreToModality(ctx, m.Name, shipment)
}

// confirm implements Confirmer: it waits for the modality's answer to the request for storage commitment.
func (m Modality) confirm(ctx context.Context, c *orthanc.Client, job orthanc.Job) error {
	if !m.Commit {
		return nil
	}
	transaction, _ := job.Content["StorageCommitmentTransactionUID"].(string)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		report, err := c.Commitment(ctx, transaction)
		switch {
		case orthanc.IsNotFound(err):
			return fmt.Errorf("storage commitment by %s: Orthanc no longer has the report (it keeps it in memory, and was restarted)", m)
		case err != nil:
			return fmt.Errorf("storage commitment by %s: %w", m, err)
		case report.Status == orthanc.CommitmentSuccess:
			return nil
		case report.Status == orthanc.CommitmentFailure:
			return fmt.Errorf("storage commitment: %s does not keep %d of %d instances", m, len(report.Failures), len(report.Failures)+len(report.Success))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("storage commitment: %s has taken the instances and has not said whether it keeps them: %w", m, ctx.Err())
		case <-time.After(pause):
		}
	}
}

func (m Modality) recognise(ctx context.Context, c *orthanc.Client, p Parcel) (func(orthanc.Job) bool, error) {
	known, err := c.Modalities(ctx)
	aet := known[m.Name].AET
	return func(j orthanc.Job) bool {
		return j.Type == "DicomModalityStore" && aet != "" && j.Content["RemoteAet"] == aet && onlyResources(j.Content["ParentResources"], p)
	}, err
}

// unknownName says what exists instead of a name that Orthanc's configuration does not have.
func unknownName(what, name, section string, exist []string) error {
	list := "none"
	if len(exist) > 0 {
		list = strings.Join(exist, ", ")
	}
	return fmt.Errorf("Orthanc has no %s %q (%s: %s)", what, name, section, list) //nolint:staticcheck // a name
}

func keys[V any](m map[string]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}
