//go:build docker

package compose_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
)

const project = "imaging-router-proof"

// stack is docker-compose.yml in a clean clone, seen by a person at a shell.
type stack struct {
	*testing.T
	clone   string
	secrets string
	ports   map[string]int // by variable of .env
	files   int            // phantoms written
}

func newStack(t *testing.T) *stack {
	t.Helper()
	clone := os.Getenv("COMPOSE_TEST_CLONE")
	require.NotEmpty(t, clone, "tests/compose/run.sh makes the clone")
	s := &stack{T: t, clone: clone, secrets: filepath.Join(clone, "secrets"), ports: map[string]int{}}
	for _, name := range []string{"DICOM_PORT", "ORTHANC_PORT", "ROUTER_PORT", "HTTPS_PORT", "CHEST_AI_PORT", "SPINE_AI_PORT"} {
		port, err := orthanctest.FreePort()
		require.NoError(t, err)
		s.ports[name] = port
	}
	return s
}

// environment writes .env: the example's five lines with other values, and the ports of this test.
func (s *stack) environment(more ...string) {
	s.Helper()
	text, err := os.ReadFile(filepath.Join(s.clone, ".env.example"))
	require.NoError(s, err)
	lines := strings.NewReplacer("ORTHANC_IMAGE=orthancteam/orthanc:26.8.1", "ORTHANC_IMAGE=orthanc-proof",
		"\nROUTER_CONFIG=./sidecar/config.example.yaml", "\nROUTER_CONFIG=./orthanc/demo/router.yaml").Replace(string(text))
	require.Contains(s, lines, "orthanc-proof")
	require.Contains(s, lines, "\nROUTER_CONFIG=./orthanc/demo/")
	lines += "COMPOSE_PROJECT_NAME=" + project + "\nCOMPOSE_PROFILES=demo,tls\nROUTER_IMAGE=imaging-router-proof\n"
	for name, port := range s.ports {
		lines += name + "=" + strconv.Itoa(port) + "\n"
	}
	lines += strings.Join(more, "\n") + "\n"
	require.NoError(s, os.WriteFile(filepath.Join(s.clone, ".env"), []byte(lines), 0o600))
}

// run runs a command in the clone and returns what it printed.
func (s *stack) run(name string, arguments ...string) string {
	s.Helper()
	output, err := s.try(context.WithoutCancel(s.Context()), name, arguments...)
	if err != nil {
		lines := strings.Split(output, "\n")
		s.Fatalf("%s %s: %v\n%s", name, strings.Join(arguments, " "), err, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
	return output
}

func (s *stack) try(ctx context.Context, name string, arguments ...string) (string, error) {
	c := exec.CommandContext(ctx, name, arguments...)
	c.Dir = s.clone
	output, err := c.CombinedOutput()
	return string(output), err
}

func (s *stack) compose(arguments ...string) string {
	s.Helper()
	return s.run("docker", append([]string{"compose"}, arguments...)...)
}

// step says how long a step took.
func (s *stack) step(name string, do func(s *stack)) {
	s.Helper()
	began := time.Now()
	passed := s.Run(name, func(t *testing.T) {
		one := *s
		one.T = t
		do(&one)
		s.files = one.files
	})
	s.Logf("%5.1f s  %s", time.Since(began).Seconds(), name)
	if !passed {
		s.FailNow()
	}
}

// orthanc asks an Orthanc as "admin".
func (s *stack) orthanc(port, method, path string, body, into any) error {
	return s.ask(http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d%s", s.ports[port], path), method, body, into, func(r *http.Request) {
		r.SetBasicAuth("admin", secret(s.T, s.secrets, "admin_password"))
	})
}

func (s *stack) ask(client *http.Client, url, method string, body, into any, prepare func(*http.Request)) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(content))
	if err != nil {
		return err
	}
	prepare(request)
	request.Close = true
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // read only
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: HTTP %d: %.200s", method, url, response.StatusCode, answer)
	}
	if text, ok := into.(*string); ok {
		*text = string(answer)
		return nil
	}
	return json.Unmarshal(answer, into)
}

// metric sums the samples whose line begins with the text.
func (s *stack) metric(line string) float64 {
	s.Helper()
	var text string
	require.NoError(s, s.ask(http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.ports["ROUTER_PORT"]), "GET", nil, &text, func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+secret(s.T, s.secrets, "hook_token"))
	}))
	sum := 0.0
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, line) {
			fields := strings.Fields(l)
			value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			require.NoError(s, err)
			sum += value
		}
	}
	return sum
}

// phantoms writes files of all classes and returns their paths.
func (s *stack) phantoms(n int) []string {
	s.Helper()
	classes := []string{"adult_chest", "pediatric_chest", "spine", "abdominal", "others"}
	folder := filepath.Join(filepath.Dir(s.clone), "phantoms")
	require.NoError(s, os.MkdirAll(folder, 0o750))
	files := make([]string, 0, n)
	for range n {
		path := filepath.Join(folder, strconv.Itoa(s.files)+".dcm")
		file, err := os.Create(path)
		require.NoError(s, err)
		_, err = phantom.Write(file, phantom.Options{Class: classes[s.files%len(classes)], Seed: int64(s.files)})
		require.NoError(s, errors.Join(err, file.Close()))
		s.files++
		files = append(files, path)
	}
	return files
}

// store sends files to the archive by C-STORE, as a modality on this machine does.
func (s *stack) store(files ...string) error {
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	return orthanctest.Store(ctx, "1.12", "127.0.0.1", s.ports["DICOM_PORT"], "ARCHIVE", files...)
}

// archive returns the labels of each study; studies have the same identifiers in every Orthanc.
func (s *stack) archive(port string) (map[string][]string, error) {
	var studies []struct {
		ID     string
		Labels []string
	}
	err := s.orthanc(port, "POST", "/tools/find", map[string]any{"Level": "Study", "Query": map[string]any{}, "Expand": true}, &studies)
	labels := make(map[string][]string, len(studies))
	for _, study := range studies {
		slices.Sort(study.Labels)
		labels[study.ID] = study.Labels
	}
	return labels, err
}

// settled waits until the archive holds so many studies, each has one label of the router, and every destination holds exactly the
// studies that the demo's rules send there. It returns the labels.
func (s *stack) settled(studies int) map[string][]string {
	s.Helper()
	var labels map[string][]string
	eventually(s.T, "everything is labelled and delivered", func() error {
		var err error
		if labels, err = s.archive("ORTHANC_PORT"); err != nil {
			return err
		}
		if len(labels) != studies {
			return fmt.Errorf("the archive holds %d studies of %d", len(labels), studies)
		}
		want := map[string][]string{"CHEST_AI_PORT": {}, "SPINE_AI_PORT": {}}
		for id, all := range labels {
			if len(all) != 1 {
				return fmt.Errorf("study %s has the labels %v", id, all)
			}
			switch all[0] {
			case "bodypart-adult-chest", "bodypart-pediatric-chest":
				want["CHEST_AI_PORT"] = append(want["CHEST_AI_PORT"], id)
			case "bodypart-spine":
				want["SPINE_AI_PORT"] = append(want["SPINE_AI_PORT"], id)
			}
		}
		for port, ids := range want {
			there, err := s.archive(port)
			if err != nil {
				return err
			}
			if got := slices.Sorted(maps.Keys(there)); !slices.Equal(got, slices.Sorted(slices.Values(ids))) {
				return fmt.Errorf("%s holds %d studies, %d are for it", port, len(got), len(ids))
			}
		}
		return nil
	})
	return labels
}

// labelled waits until the archive holds so many studies and each has a label of the router.
func (s *stack) labelled(studies int) {
	s.Helper()
	eventually(s.T, "everything is labelled", func() error {
		labels, err := s.archive("ORTHANC_PORT")
		if err != nil {
			return err
		}
		if len(labels) != studies {
			return fmt.Errorf("the archive holds %d studies of %d", len(labels), studies)
		}
		for id, all := range labels {
			if len(all) != 1 {
				return fmt.Errorf("study %s has the labels %v", id, all)
			}
		}
		return nil
	})
}

// container is what `docker inspect` says.
type container struct {
	Name   string
	Config struct {
		User   string
		Labels map[string]string
	}
	State struct {
		Running  bool
		ExitCode int
		Health   struct{ Status string }
	}
	RestartCount int
	HostConfig   struct {
		ReadonlyRootfs bool
		CapDrop        []string
		SecurityOpt    []string
		Memory         int64
		NanoCpus       int64
		PidsLimit      int64
		RestartPolicy  struct{ Name string }
		LogConfig      struct {
			Type   string
			Config map[string]string
		}
	}
	NetworkSettings struct {
		Ports    map[string][]struct{ HostIp, HostPort string } //nolint:staticcheck // Docker's names
		Networks map[string]struct{ IPAddress string }
	}
}

func (s *stack) inspect(services ...string) (all map[string]container, text string) {
	s.Helper()
	ids := strings.Fields(s.compose(append([]string{"ps", "--all", "--quiet"}, services...)...))
	text = s.run("docker", append([]string{"inspect"}, ids...)...)
	var list []container
	require.NoError(s, json.Unmarshal([]byte(text), &list))
	all = map[string]container{}
	for _, c := range list {
		all[c.Config.Labels["com.docker.compose.service"]] = c
	}
	return all, text
}

// healthy waits until every service that stays is healthy.
func (s *stack) healthy() {
	s.Helper()
	eventually(s.T, "every service is healthy", func() error {
		all, _ := s.inspect()
		for name, c := range all {
			if name != "modality" && c.State.Health.Status != "healthy" {
				return fmt.Errorf("%s is %s", name, cmp.Or(c.State.Health.Status, "without health"))
			}
		}
		if len(all) < 2 {
			return fmt.Errorf("%d services", len(all))
		}
		return nil
	})
}
