//go:build docker

package compose_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The way of a new installation, from a clean clone to its end. The steps build on each other.
func TestOnDocker(t *testing.T) {
	s := newStack(t)
	t.Cleanup(func() {
		s.T = t
		if t.Failed() {
			lines := strings.Split(s.compose("logs", "--no-color", "--tail", "40"), "\n")
			t.Logf("the end of the logs:\n%s", strings.Join(lines, "\n"))
		}
		s.compose("down", "--volumes", "--timeout", "5")
	})

	s.step("five lines of .env, and the secrets", func(s *stack) {
		s.environment()
		s.run("orthanc/make-secrets.sh", "--demo", "--tls", "localhost")
		require.NotContains(s, s.run("git", "-C", s.clone, "status", "--porcelain", "--ignored=no"), "secrets")
	})
	s.step("images from the Dockerfiles", func(s *stack) {
		s.run("docker", "build", "--file", "orthanc/Dockerfile", "--build-arg", "BASE_IMAGE="+os.Getenv("BASE_IMAGE"), "--tag", "orthanc-proof", ".")
		s.compose("build")
	})
	s.step("up: the demo sends, and what it sent is labelled and delivered", func(s *stack) {
		s.compose("up", "--detach")
		s.healthy()
		labels := s.settled(10)
		seen := map[string]bool{}
		for _, all := range labels {
			seen[all[0]] = true
		}
		require.GreaterOrEqual(s, len(seen), 3, "the drawings have %v", seen)
		require.True(s, seen["bodypart-spine"] && (seen["bodypart-adult-chest"] || seen["bodypart-pediatric-chest"]), "no drawing goes to both destinations: %v", seen)
		all, _ := s.inspect("modality")
		require.False(s, all["modality"].State.Running)
		require.Zero(s, all["modality"].State.ExitCode)
	})
	studies := 10
	s.step("the hook, not the follower, told the router", func(s *stack) {
		require.NoError(s, s.store(s.phantoms(1)...))
		studies++
		s.settled(studies)
		require.Positive(s, s.metric(`imaging_router_instances_marked_total{source="hook"}`))
		logs := s.compose("logs", "--no-color", "orthanc")
		require.NotContains(s, logs, "not told about")
		require.NotContains(s, logs, "refused to the account")
	})
	s.step("the label is in Orthanc's page and list", func(s *stack) {
		var page string
		require.NoError(s, s.orthanc("ORTHANC_PORT", "GET", "/app/explorer.html", nil, &page))
		var labels []string
		require.NoError(s, s.orthanc("ORTHANC_PORT", "GET", "/tools/labels", nil, &labels))
		require.Contains(s, labels, "bodypart-spine")
	})
	s.step("the router's own check", func(s *stack) {
		s.compose("exec", "-T", "imaging-router", "imaging-router", "check", "--config", "/etc/imaging-router/config.yaml")
	})
	s.step("limits and rights of the containers", limits)
	s.step("ports: what is documented, on loopback", ports)
	s.step("https before page and router", proxied)
	s.step("a router that hangs does not hold up Orthanc", func(s *stack) {
		s.compose("pause", "imaging-router")
		for _, file := range s.phantoms(3) {
			began := time.Now()
			require.NoError(s, s.store(file))
			require.Less(s, time.Since(began), 30*time.Second)
		}
		time.Sleep(13 * time.Second) // two rounds of the health check
		all, _ := s.inspect("orthanc")
		require.Equal(s, "healthy", all["orthanc"].State.Health.Status)
		require.Zero(s, all["orthanc"].RestartCount)
		s.compose("unpause", "imaging-router")
		studies += 3
		s.settled(studies)
	})
	s.step("docker compose restart in mid-flow loses nothing", func(s *stack) {
		const n = 24
		files := s.phantoms(n)
		var sending sync.WaitGroup
		begun := make(chan struct{})
		sending.Go(func() {
			for i, file := range files {
				if i == n/3 {
					close(begun)
				}
				for try := 0; s.store(file) != nil && try < 200; try++ { // a modality sends again what was not taken
					time.Sleep(500 * time.Millisecond)
				}
			}
		})
		<-begun
		s.compose("restart", "--timeout", "20", "orthanc", "imaging-router", "chest-ai", "spine-ai")
		sending.Wait()
		studies += n
		s.settled(studies)
	})
	s.step("an update over the volumes of the earlier state", func(s *stack) {
		before := s.settled(studies)
		delivered := s.metric(`imaging_router_deliveries{`)
		s.compose("down")
		s.environment("VERSION=9.8.7")
		s.compose("build", "imaging-router")
		s.compose("up", "--detach", "orthanc", "imaging-router", "chest-ai", "spine-ai", "proxy")
		s.healthy()
		require.Contains(s, s.compose("exec", "-T", "imaging-router", "imaging-router", "version"), "9.8.7")
		require.Equal(s, before, s.settled(studies))
		require.InDelta(s, delivered, s.metric(`imaging_router_deliveries{`), 0, "the update has delivered again")
		require.NoError(s, s.store(s.phantoms(1)...))
		studies++
		s.settled(studies)
	})
	s.step("https between the hook and the router", func(s *stack) {
		s.environment("COMPOSE_FILE=docker-compose.yml:docker-compose.hook-tls.yml", "VERSION=9.8.7")
		s.compose("up", "--detach", "orthanc", "imaging-router", "chest-ai", "spine-ai", "proxy")
		s.healthy()
		require.NoError(s, s.store(s.phantoms(1)...))
		studies++
		s.settled(studies)
		require.NotContains(s, s.compose("logs", "--no-color", "orthanc"), "not told about") // the container is new, and so is its log
		proxied(s)
	})
	s.step("secrets are in no image, log, environment and inspection", secretsStaySecret)
	s.step("down: nothing stays", func(s *stack) {
		s.compose("down", "--volumes", "--timeout", "20")
		require.Empty(s, strings.TrimSpace(s.run("docker", "ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project="+project)))
		require.Empty(s, strings.TrimSpace(s.run("docker", "volume", "ls", "--quiet", "--filter", "label=com.docker.compose.project="+project)))
	})
	s.step("docs/deployment.md from top to bottom", document)
}

// proxied asks through the proxy, trusting nobody but the authority that make-secrets.sh has made.
func proxied(s *stack) {
	s.Helper()
	pem, err := os.ReadFile(filepath.Join(s.secrets, "tls_ca.pem"))
	require.NoError(s, err)
	roots := x509.NewCertPool()
	require.True(s, roots.AppendCertsFromPEM(pem))
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	status := func(method, path string, prepare func(*http.Request)) int {
		s.Helper()
		request, err := http.NewRequestWithContext(s.Context(), method, fmt.Sprintf("https://localhost:%d%s", s.ports["HTTPS_PORT"], path), nil)
		require.NoError(s, err)
		if prepare != nil {
			prepare(request)
		}
		response, err := client.Do(request)
		require.NoError(s, err)
		require.NoError(s, response.Body.Close())
		return response.StatusCode
	}
	token := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret(s.T, s.secrets, "hook_token")) }
	admin := func(r *http.Request) { r.SetBasicAuth("admin", secret(s.T, s.secrets, "admin_password")) }
	eventually(s.T, "the router is ready, through the proxy", func() error {
		if got := status("GET", "/router/-/ready", nil); got != http.StatusOK {
			return errors.New(http.StatusText(got))
		}
		return nil
	})
	require.Equal(s, 401, status("GET", "/system", nil))
	require.Equal(s, 200, status("GET", "/system", admin))
	require.Equal(s, 200, status("GET", "/app/explorer.html", admin))
	require.Equal(s, 401, status("GET", "/router/metrics", nil))
	require.Equal(s, 200, status("GET", "/router/metrics", token))
	for _, hook := range []string{"/router/hooks/stored-instance", "/router//hooks/stored-instance", "/router/-/healthy/../../hooks/stored-instance", "/router/metrics%2f..%2fhooks%2fstored-instance"} {
		require.Contains(s, []int{403, 404, 400}, status("POST", hook, token), hook)
	}
	require.Contains(s, []int{401, 404}, status("POST", "/hooks/stored-instance", token)) // Orthanc, which has no such thing
}
