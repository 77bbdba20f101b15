package orthanc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// System is what an Orthanc says about itself.
type System struct {
	Version            string // "1.12.7", or "mainline"
	Name, DicomAet     string
	APIVersion         int
	HasLabels          bool           // labels can be stored (not with every database)
	UserMetadata       map[string]int // registered names; the registered numbers stand in it as names too
	CheckRevisions     bool           // metadata is changed with its ETag only
	OverwriteInstances string         // Never, IfChanged or Always
	ReadOnly           bool
	ExtendedChanges    bool // /changes can be filtered by type
	ExtendedFind       bool
	ConcurrentJobs     int // 0 where Orthanc does not say (before 1.13)
	DatabaseBackend    string
}

type systemAnswer struct {
	Version                string
	Name                   string
	DicomAet               string
	APIVersion             int `json:"ApiVersion"`
	HasLabels              bool
	UserMetadata           map[string]int
	CheckRevisions         bool
	OverwriteInstances     any // a boolean up to 1.13 at least
	OverwriteInstancesMode string
	ReadOnly               bool
	DatabaseBackendPlugin  string
	Capabilities           struct{ HasExtendedChanges, HasExtendedFind bool }
	Performance            struct{ ConcurrentJobs int }
}

// System asks Orthanc what it is, and remembers the answer for the calls that depend on it.
func (c *Client) System(ctx context.Context) (System, error) {
	s, err := c.systemAt(ctx, "/system")
	if err == nil {
		c.system.Store(&s)
	}
	return s, err
}

func (c *Client) systemAt(ctx context.Context, path string) (System, error) {
	var a systemAnswer
	if err := c.getJSON(ctx, path, "", &a); err != nil {
		return System{}, err
	}
	if a.Version == "" {
		return System{}, fmt.Errorf("orthanc: %s: this is not an Orthanc (no Version in the answer)", path)
	}
	s := System{
		Version: a.Version, Name: a.Name, DicomAet: a.DicomAet, APIVersion: a.APIVersion, HasLabels: a.HasLabels,
		UserMetadata: a.UserMetadata, CheckRevisions: a.CheckRevisions, OverwriteInstances: a.OverwriteInstancesMode, ReadOnly: a.ReadOnly,
		ExtendedChanges: a.Capabilities.HasExtendedChanges, ExtendedFind: a.Capabilities.HasExtendedFind,
		ConcurrentJobs: a.Performance.ConcurrentJobs, DatabaseBackend: a.DatabaseBackendPlugin,
	}
	if s.OverwriteInstances == "" {
		switch mode := a.OverwriteInstances.(type) {
		case bool:
			s.OverwriteInstances = "Never"
			if mode {
				s.OverwriteInstances = "Always"
			}
		case string:
			s.OverwriteInstances = mode
		}
	}
	return s, nil
}

// known returns the last answer of System, and asks when there was none.
func (c *Client) known(ctx context.Context) (System, error) {
	if s := c.system.Load(); s != nil {
		return *s, nil
	}
	return c.System(ctx)
}

// AtLeast says whether the version is the given one or newer; "mainline" and what cannot be parsed count as the newest.
func (s System) AtLeast(version ...int) bool {
	parts := strings.Split(s.Version, ".")
	for i, want := range version {
		have := 0
		if i < len(parts) {
			number, err := strconv.Atoi(parts[i])
			if err != nil {
				return true
			}
			have = number
		}
		if have != want {
			return have > want
		}
	}
	return true
}

// KeepsUserData says whether jobs carry the submitter's own values (UserData), by which a job is found again. Older ones drop them silently.
func (s System) KeepsUserData() bool { return s.AtLeast(1, 12, 9) }

// ParseTime reads Orthanc's way to write a time (20260820T172407, with a fraction in jobs). It is UTC, whatever the server's time zone.
func ParseTime(s string) (time.Time, error) {
	t, err := time.ParseInLocation("20060102T150405", s, time.UTC) // accepts a fraction of a second too
	if err != nil {
		return time.Time{}, errors.New("orthanc: not a time such as 20260820T172407") // not repeated: it came from outside
	}
	return t, nil
}
