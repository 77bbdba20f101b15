package pipeline

import (
	"context"
	"fmt"
	"time"

	"imagingrouter/sidecar/internal/store"
)

// ForwardingSetting is the name of the setting that `imaging-router forwarding` writes: "on", "off", or "" for the configuration's word.
const ForwardingSetting = "forwarding"

// Forwarding is the main switch: the configuration's word, and above it the last word of `imaging-router forwarding`, which every
// job reads, so that it works without a restart.
type Forwarding struct {
	Store      *store.Store
	Configured bool // forwarding.enabled
}

// ForwardingState is how the switch stands.
type ForwardingState struct {
	On         bool
	Commanded  string    // "on", "off" or ""
	Since      time.Time // of the last command; zero when there never was one
	Configured bool
}

// State reads the switch.
func (f *Forwarding) State(ctx context.Context) (ForwardingState, error) {
	value, since, ok, err := f.Store.Setting(ctx, ForwardingSetting)
	if err != nil {
		return ForwardingState{}, err
	}
	s := ForwardingState{On: f.Configured, Configured: f.Configured}
	if ok {
		s.Since = since // also of the command that went back to the configuration: what it releases may be old
		if value != "" {
			s.On, s.Commanded = value == "on", value
		}
	}
	return s, nil
}

// Creates says whether deliveries come into being. In pilot mode (off by configuration) they do not. Under the brake (off by command
// where the configuration says on) they do, and wait.
func (f *Forwarding) Creates(ctx context.Context) (bool, error) {
	s, err := f.State(ctx)
	return s.On || s.Configured, err
}

// String says it in words for people.
func (s ForwardingState) String() string {
	word := map[bool]string{true: "on", false: "off"}
	switch {
	case s.Commanded == "":
		return fmt.Sprintf("%s (by configuration)", word[s.On])
	case s.On == s.Configured:
		return fmt.Sprintf("%s (by command since %s; the configuration agrees)", word[s.On], s.Since.Format(time.RFC3339))
	case s.On:
		return fmt.Sprintf("on (by command since %s; the configuration says off)", s.Since.Format(time.RFC3339))
	default:
		return fmt.Sprintf("off (by command since %s; the configuration says on: deliveries wait)", s.Since.Format(time.RFC3339))
	}
}
