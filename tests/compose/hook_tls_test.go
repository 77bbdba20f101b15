package compose_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// With the certificate that make-secrets.sh makes, and nothing but the hook to tell the router: Orthanc reaches it by https when it
// trusts the authority (HttpsCACertificates), and not otherwise.
func TestTheHookSpeaksHTTPS(t *testing.T) {
	secrets := filepath.Join(t.TempDir(), "secrets")
	output, err := makeSecrets(t, secrets, "--tls", "archive.example.org,192.0.2.7")
	require.NoError(t, err, output)
	orthanctest.Each(t, func(t *testing.T, version string) {
		router := routertest.New(t, routertest.Config{Version: version, Token: "t0ken-of-the-hook", Settings: routertest.Settings{
			"server": routertest.Settings{"tls_cert_file": filepath.Join(secrets, "tls_certificate.pem"), "tls_key_file": filepath.Join(secrets, "tls_key.pem")},
			"intake": routertest.Settings{"follower": false},
		}})
		env := []string{"IMAGING_ROUTER_URL=" + strings.Replace(router.URL, "http://", "https://", 1), "IMAGING_ROUTER_TOKEN=" + router.Token}
		trusting := guarded(t, version, nil, env, settings(t, filepath.Join(repository(t), "orthanc", "hook-tls.json")), authority(secrets))
		doubting := guarded(t, version, nil, env)
		router.Beside(t, trusting, "")

		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan string, 1)
		go func() {
			_, log, _, err := router.Run(ctx, "serve")
			ended <- fmt.Sprint(log, err)
		}()
		defer func() {
			stop()
			if log := <-ended; t.Failed() {
				t.Log(log)
			}
		}()
		eventually(t, "the router is healthy, by https", func() error {
			_, stderr, status, err := router.Run(t.Context(), "healthcheck")
			if err == nil && status != 0 {
				err = errors.New(stderr)
			}
			return err
		})

		_, study := stored(t, trusting)
		eventually(t, "the hook has led to a label", func() error {
			var labels []string
			err := trusting.GetJSON(t.Context(), "/studies/"+study+"/labels", &labels)
			if err == nil && len(labels) == 0 {
				err = errors.New("none yet")
			}
			return err
		})
		require.NotContains(t, trusting.Log(), "not told about")

		stored(t, doubting)
		eventually(t, "an Orthanc that does not know the authority tells nothing", func() error {
			if !strings.Contains(doubting.Log(), "not told about") {
				return errors.New("nothing in its log")
			}
			return nil
		})
	})
}

// authority is what compose mounts at the path of hook-tls.json.
func authority(secrets string) map[string]any {
	return map[string]any{"HttpsCACertificates": filepath.Join(secrets, "tls_ca.pem")}
}
