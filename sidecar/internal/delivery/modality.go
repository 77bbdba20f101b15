package delivery

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// Modality is a DICOM node that receives by C-STORE (DicomModalities of the archive's configuration).
type Modality struct {
	Name   string
	Commit bool // ask for storage commitment; the report stays in Orthanc
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

func (m Modality) submit(ctx context.Context, c *orthanc.Client, d store.Delivery) (string, error) {
	return c.StoreToModality(ctx, m.Name, []string{d.InstanceID}, userData(d), m.Commit)
}

func (m Modality) recognise(ctx context.Context, c *orthanc.Client, d store.Delivery) (func(orthanc.Job) bool, error) {
	known, err := c.Modalities(ctx)
	aet := known[m.Name].AET
	return func(j orthanc.Job) bool {
		return j.Type == "DicomModalityStore" && aet != "" && j.Content["RemoteAet"] == aet && onlyResource(j.Content["ParentResources"], d.InstanceID)
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
