package delivery

import (
	"context"
	"errors"
	"slices"

	"imagingrouter/sidecar/internal/orthanc"
)

// DICOMweb is a server that receives by STOW-RS (DicomWeb.Servers of the archive's configuration; needs the DICOMweb plugin).
type DICOMweb struct{ Name string }

// String implements Kind.
func (s DICOMweb) String() string { return "DICOMweb server " + s.Name }

// Check implements Kind. Whether the server answers shows only when something is sent: the standard has no question for it.
func (s DICOMweb) Check(ctx context.Context, c *orthanc.Client) (string, error) {
	known, err := c.DICOMwebServers(ctx)
	if orthanc.IsNotFound(err) {
		return "", errors.New("Orthanc has no DICOMweb plugin") //nolint:staticcheck // a name
	}
	if err != nil {
		return "", err
	}
	if !slices.Contains(known, s.Name) {
		slices.Sort(known)
		return "", unknownName("DICOMweb server", s.Name, "DicomWeb.Servers", known)
	}
	return "configured in Orthanc (not asked: that would send)", nil
}

func (s DICOMweb) submit(ctx context.Context, c *orthanc.Client, p Parcel) (string, error) {
	return c.Stow(ctx, s.Name, p.shipment())
}

func (s DICOMweb) recognise(_ context.Context, _ *orthanc.Client, p Parcel) (func(orthanc.Job) bool, error) {
	return func(j orthanc.Job) bool {
		resources, _ := j.Content["Resources"].(map[string]any)
		return j.Type == "DicomWebStowClient" && j.Content["Server"] == s.Name && onlyResources(resources["Instances"], p)
	}, nil
}
