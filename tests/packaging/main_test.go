// Package packaging tests how the product comes to a site and leaves it again: init beside an Orthanc that is there, uninstall, and
// the Debian package. It runs the real program, real Orthancs and dpkg, and sees only what an administrator sees.
package packaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

func TestMain(m *testing.M) { os.Exit(routertest.Main(m)) }

const within = 45 * time.Second

// program is the real program with an environment of its own.
type program struct {
	path string
	env  []string
	dir  string
}

// command prepares a run. Settings of the router in this process's environment do not reach it.
func (p program) command(ctx context.Context, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.path, arguments...)
	cmd.Dir = p.dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "IMAGING_ROUTER_") || strings.HasPrefix(v, "ONNXRUNTIME_LIB=") || strings.HasPrefix(v, "IMAGINGROUTER_CACHE=")
	}), p.env...)
	return cmd
}

// run runs the program to its end.
func (p program) run(t *testing.T, arguments ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	cmd := p.command(ctx, arguments...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ok is run for what must succeed.
func (p program) ok(t *testing.T, arguments ...string) string {
	t.Helper()
	stdout, stderr, status := p.run(t, arguments...)
	if status != 0 {
		t.Fatalf("%v: status %d\n%s%s", arguments, status, stdout, stderr)
	}
	return stdout
}

// dicom returns the bytes of a phantom.
func dicom(t *testing.T, o phantom.Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := phantom.Write(&b, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// eventually waits until check has nothing to object to.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
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

// stored is one uploaded instance with its parents.
type stored struct{ instance, series, study string }

func upload(t *testing.T, s *orthanctest.Server, o phantom.Options) stored {
	t.Helper()
	id, err := s.Upload(t.Context(), dicom(t, o))
	if err != nil {
		t.Fatal(err)
	}
	var instance struct{ ParentSeries string }
	var series struct{ ParentStudy string }
	get(t, s, "/instances/"+id, &instance)
	get(t, s, "/series/"+instance.ParentSeries, &series)
	return stored{id, instance.ParentSeries, series.ParentStudy}
}

func get(t *testing.T, s *orthanctest.Server, path string, v any) {
	t.Helper()
	if err := s.GetJSON(t.Context(), path, v); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, s *orthanctest.Server, path, body string) {
	t.Helper()
	if status, answer, err := s.Do(t.Context(), http.MethodPut, path, body); err != nil || status != http.StatusOK {
		t.Fatalf("PUT %s: HTTP %d %s %v", path, status, answer, err)
	}
}

func labels(t *testing.T, s *orthanctest.Server, path string) []string {
	t.Helper()
	var all []string
	get(t, s, path+"/labels", &all)
	return all
}

// user returns the user metadata of a resource by number.
func user(t *testing.T, s *orthanctest.Server, path string) map[string]string {
	t.Helper()
	var all map[string]string
	get(t, s, path+"/metadata?expand&numeric", &all)
	for number := range all {
		if len(number) < 4 {
			delete(all, number) // Orthanc's own
		}
	}
	return all
}

// labelled says whether a study carries a label of the router's.
func labelled(t *testing.T, s *orthanctest.Server, studies ...string) error {
	t.Helper()
	for _, study := range studies {
		if !slices.ContainsFunc(labels(t, s, "/studies/"+study), func(l string) bool { return strings.HasPrefix(l, "bodypart-") }) {
			return fmt.Errorf("study %s has no label", study)
		}
	}
	return nil
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
