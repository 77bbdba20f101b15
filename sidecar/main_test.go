package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/classifier"
)

// asProgram makes the test binary behave as the program, so that commands are tested as processes: with their exit status,
// their signals, and both outputs apart.
const asProgram = "RUN_AS_IMAGING_ROUTER"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// program returns the command that runs the program with these arguments, in dir when it is not empty.
func program(ctx context.Context, dir string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, os.Args[0], args...)
	c.Dir = dir
	c.Env = append(os.Environ(), asProgram+"=1")
	return c
}

// result is what a run of the program left.
type result struct {
	status         int
	stdout, stderr string
}

// execute runs the program to its end.
func execute(t *testing.T, dir string, stdin io.Reader, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := program(ctx, dir, args...)
	var stdout, stderr bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = stdin, &stdout, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// repository returns the path of a file of the repository.
func repository(t testing.TB, path ...string) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(append([]string{root}, path...)...)
}

// requireModel skips where there is no ONNX Runtime; in CI that is a failure.
func requireModel(t testing.TB) string {
	t.Helper()
	_, library, err := classifier.Runtime("")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Setenv(classifier.LibraryEnv, library) // the program runs in folders from where it would not be found
	return repository(t, "models", "mobilenet-v1-160")
}

func TestEveryCommandHasAnExample(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if !strings.Contains(c.Example, "imaging-router") || c.Short == "" {
			t.Errorf("%s has no example or no short description", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newRootCommand())
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {}, {"classify", "--help"}, {"help", "phantom"}} {
		r := execute(t, "", nil, args...)
		if r.status != 0 || !strings.Contains(r.stdout, "Examples:") || r.stderr != "" {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

func TestWrongCommandLines(t *testing.T) {
	for want, args := range map[string][]string{
		"imaging-router: unknown command \"clasify\" for \"imaging-router\"":                {"clasify", "x"},
		"imaging-router: unknown flag: --colour":                                            {"classify", "--colour", "x"},
		"imaging-router: classify needs a file, a directory or -":                           {"classify"},
		"imaging-router: unknown format \"xml\" (known: table, json, csv)":                  {"classify", "--format", "xml", "x"},
		"imaging-router: phantom needs the directory to write to":                           {"phantom"},
		"imaging-router: --bits must be 8, 12 or 16 (got 10)":                               {"phantom", "--bits", "10", "x"},
		"imaging-router: --count must be between 1 and 100000 (got 0)":                      {"phantom", "--count", "0", "x"},
		"imaging-router: --class: unknown class \"chest\" (known: abdominal, adult_chest, ": {"phantom", "--class", "chest", "x"},
		"imaging-router: accepts at most 1 arg(s), received 2":                              {"healthcheck", "a", "b"},
	} {
		r := execute(t, t.TempDir(), nil, args...)
		if r.status != exitUsage || !strings.HasPrefix(r.stderr, want) || r.stdout != "" || !strings.Contains(r.stderr, "--help' for usage") {
			t.Errorf("%v: %+v, want %q", args, r, want)
		}
	}
}

func TestConfigurationIsFound(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("config.yaml", "local: 1\n")
	named, other := write("named.yaml", "named: 1\n"), write("other.yaml", "other: 1\n")
	for want, args := range map[string][]string{
		"config.yaml:1:1: local: unknown key":                             {"version"},
		other + ":1:1: other: unknown key":                                {"--config", other, "version"},
		"read configuration: open absent.yaml: no such file or directory": {"version", "-c", "absent.yaml"},
	} {
		r := execute(t, dir, nil, args...)
		if r.status != exitError || !strings.HasPrefix(r.stderr, "imaging-router: "+want) {
			t.Errorf("%v: %+v, want %q", args, r, want)
		}
	}
	t.Setenv("IMAGING_ROUTER_CONFIG", named)
	if r := execute(t, dir, nil, "version"); !strings.HasPrefix(r.stderr, "imaging-router: "+named+":1:1: named: unknown key") {
		t.Errorf("by environment: %+v", r)
	}
}

func TestVersion(t *testing.T) {
	r := execute(t, "..", nil, "version")
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	if r.status != 0 || r.stderr != "" || len(lines) != 3 || !strings.HasPrefix(lines[0], "imaging-router  ") ||
		!strings.HasPrefix(lines[1], "ONNX Runtime    ") || !strings.HasPrefix(lines[2], "model           mobilenet-v1-160@") {
		t.Errorf("%+v", r)
	}
	if r := execute(t, t.TempDir(), nil, "version"); r.status != 0 || !strings.Contains(r.stdout, "model           none: read model: ") {
		t.Errorf("without a model: %+v", r)
	}
}
