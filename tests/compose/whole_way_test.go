package compose_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// The router does all that it does with an account that may do nothing else: hook, classification, metadata, labels, rules that ask for
// tags and study, a peer, and the commands of an operator. Not a single request of it is refused.
func TestTheRouterWorksWithItsRights(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		destination := orthanctest.New(t, orthanctest.Config{Version: version, Name: "destination"})
		router := routertest.New(t, routertest.Config{Version: version, Token: "t0ken-of-the-hook", Settings: routertest.Settings{
			"intake":       routertest.Settings{"poll_interval": "200ms"},
			"model":        routertest.Settings{"thresholds": map[string]float64{"abdominal": 0, "adult_chest": 0, "pediatric_chest": 0, "spine": 0, "others": 0}},
			"publish":      routertest.Settings{"label_levels": []string{"study", "series", "instance"}},
			"forwarding":   routertest.Settings{"enabled": true},
			"destinations": []any{map[string]any{"name": "destination", "peer": "destination"}},
			"rules":        []any{map[string]any{"name": "everything", "when": `(confidence >= 0.0 || review) && tags["Modality"] == "DX" && study.instances == 1`, "to": []string{"destination"}}},
		}})
		archive := guarded(t, version, nil, []string{"IMAGING_ROUTER_URL=" + router.URL, "IMAGING_ROUTER_TOKEN=" + router.Token},
			map[string]any{"OrthancPeers": map[string]any{"destination": destination.AsPeer()}})
		archive.Username = routerUser
		router.Beside(t, archive, "")
		archive.Username = adminUser
		require.NoError(t, router.Start(t.Context()))

		var file bytes.Buffer
		_, err := phantom.Write(&file, phantom.Options{Class: "adult_chest", PatientAge: "054Y"})
		require.NoError(t, err)
		instance, err := archive.Upload(t.Context(), file.Bytes())
		require.NoError(t, err)
		eventually(t, "the phantom is at the destination", func() error {
			status, _, err := destination.Do(t.Context(), "GET", "/instances/"+instance, nil)
			if err == nil && status != 200 {
				err = fmt.Errorf("HTTP %d", status)
			}
			return err
		})
		var study struct{ Labels []string }
		require.NoError(t, archive.GetJSON(t.Context(), "/instances/"+instance+"/study", &study))
		require.Len(t, study.Labels, 1)
		eventually(t, "the router has seen its delivery's end", func() error {
			if !strings.Contains(router.Log(), "delivery ended") {
				return errors.New("not yet")
			}
			return nil
		})
		require.Contains(t, router.Log(), "hook: marked as due") // the follower alone is no proof of the hook

		stdout, stderr, status, err := router.Run(t.Context(), "check")
		require.NoError(t, err)
		require.Zero(t, status, "%s%s", stdout, stderr)
		require.NoError(t, router.Stop())
		stdout, stderr, status, err = router.Run(t.Context(), "uninstall", "--yes")
		require.NoError(t, err)
		require.Zero(t, status, "%s%s", stdout, stderr)
		study.Labels = nil
		require.NoError(t, archive.GetJSON(t.Context(), "/instances/"+instance+"/study", &study))
		require.Empty(t, study.Labels)

		require.NotContains(t, archive.Log(), "refused to the account")
	})
}

// eventually waits until check returns nil; no test measures time, so the limit only bounds a failure.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
