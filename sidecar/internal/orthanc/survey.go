package orthanc

import (
	"context"
	"net/http"
	"net/url"
)

// Modality is a DICOM modality that Orthanc knows (DicomModalities).
type Modality struct {
	AET  string
	Host string
	Port int
	// Timeout is how many seconds Orthanc waits for it; 0 = DicomScuTimeout.
	Timeout int
}

// Modalities returns the modalities of Orthanc's configuration by name.
func (c *Client) Modalities(ctx context.Context) (map[string]Modality, error) {
	var modalities map[string]Modality
	err := c.getJSON(ctx, "/modalities", "expand", &modalities)
	return modalities, err
}

// PluginVersion returns the version of a loaded plugin, as the plugin gives it ("1.20", or "mainline").
func (c *Client) PluginVersion(ctx context.Context, name string) (string, error) {
	var plugin struct{ Version string }
	err := c.getJSON(ctx, "/plugins/"+url.PathEscape(name), "", &plugin)
	return plugin.Version, err
}

// Storage is what /system says about how Orthanc keeps files.
type Storage struct {
	// StoreMD5ForAttachments is nil where Orthanc does not say (before 1.13).
	StoreMD5ForAttachments *bool
	MaximumStorageSize     int64 // MB; 0 = unlimited
	MaximumPatientCount    int64 // 0 = unlimited
	MaximumStorageMode     string
}

// Storage asks how Orthanc keeps files, and when it throws them away by itself.
func (c *Client) Storage(ctx context.Context) (Storage, error) {
	var s Storage
	err := c.getJSON(ctx, "/system", "", &s)
	return s, err
}

// RunLua runs a Lua script inside Orthanc and returns what it printed. Orthanc refuses it (IsDenied) unless ExecuteLuaEnabled is on.
func (c *Client) RunLua(ctx context.Context, script string) (string, error) {
	a, err := c.do(ctx, call{method: http.MethodPost, path: "/tools/execute-script", body: script, limit: 1 << 20})
	return string(a.body), err
}
