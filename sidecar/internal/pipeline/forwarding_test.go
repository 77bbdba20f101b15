package pipeline

import (
	"context"
	"path/filepath"
	"testing"

	"imagingrouter/sidecar/internal/store"
)

// TestForwardingSwitch: every command, also the one that goes back to the configuration, says since when it holds; by that time what it
// releases is found to be too old.
func TestForwardingSwitch(t *testing.T) {
	ctx := context.Background()
	s, err := store.Open(ctx, filepath.Join(t.TempDir(), "router.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, configured := range []bool{true, false} {
		f := &Forwarding{Store: s, Configured: configured}
		for _, tt := range []struct {
			command     string
			on, creates bool
		}{{"off", false, configured}, {"on", true, true}, {"", configured, configured}} {
			if err := s.SetSetting(ctx, ForwardingSetting, tt.command); err != nil {
				t.Fatal(err)
			}
			state, err := f.State(ctx)
			if err != nil || state.On != tt.on || state.Commanded != tt.command || state.Since.IsZero() {
				t.Errorf("configured %t, command %q: %+v, %v", configured, tt.command, state, err)
			}
			if creates, err := f.Creates(ctx); err != nil || creates != tt.creates {
				t.Errorf("configured %t, command %q: creates %t, %v", configured, tt.command, creates, err)
			}
		}
	}
}
