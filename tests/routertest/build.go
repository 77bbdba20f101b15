// Package routertest runs the real imaging router for tests: the program as it is built, its configuration, its log, its metrics and its
// database file, killed and restarted at will. It sees the router from outside only and imports nothing under sidecar/internal.
package routertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"imagingrouter/tests/orthanctest"
)

var built struct {
	once   sync.Once
	folder string
	path   string
	err    error

	model    sync.Once
	modelErr error
}

// Main runs a package's tests and removes the program that they built. It is for TestMain: os.Exit(routertest.Main(m)).
func Main(m *testing.M) int {
	status := m.Run()
	if built.folder != "" {
		if err := os.RemoveAll(built.folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return max(status, 1)
		}
	}
	return status
}

// Binary builds the program, once in a test process, and returns its path. It has the race detector when the tests have it.
func Binary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() { built.path, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func build() (string, error) {
	repository, err := orthanctest.Repository()
	if err != nil {
		return "", err
	}
	if built.folder, err = os.MkdirTemp("", "imaging-router-"); err != nil {
		return "", err
	}
	path := filepath.Join(built.folder, "imaging-router")
	arguments := []string{"build", "-o", path}
	if race {
		arguments = append(arguments, "-race")
	}
	cmd := exec.CommandContext(context.Background(), "go", append(arguments, "./sidecar")...) //nolint:gosec // the go that runs the tests
	cmd.Dir = repository
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("routertest: build the router: %w\n%s", err, output)
	}
	return path, nil
}

// ONNXRuntime returns the shared library that tests use: ONNXRUNTIME_LIB, else the one that `make onnxruntime` fetched. Without one the
// test is skipped, with a line that says what to run; in continuous integration (CI=true) it fails.
func ONNXRuntime(t testing.TB) string {
	t.Helper()
	path, err := onnxRuntime()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

func onnxRuntime() (string, error) {
	if path := os.Getenv("ONNXRUNTIME_LIB"); path != "" {
		return path, nil
	}
	repository, err := orthanctest.Repository()
	if err != nil {
		return "", err
	}
	cache := cmp.Or(os.Getenv("IMAGINGROUTER_CACHE"), filepath.Join(repository, ".cache"))
	found, err := filepath.Glob(filepath.Join(cache, "onnxruntime-*", "libonnxruntime.so*"))
	if err != nil || len(found) == 0 {
		return "", errors.Join(fmt.Errorf("routertest: no ONNX Runtime in %s: run `make onnxruntime`", cache), err)
	}
	return found[len(found)-1], nil
}

// Model returns the folder of the network that the product ships: a copy, made once in a test process, so that a training that writes its
// model in the meantime does not change what the tests see.
func Model(t testing.TB) string {
	t.Helper()
	Binary(t)
	repository, err := orthanctest.Repository()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(built.folder, "model")
	built.model.Do(func() {
		built.modelErr = os.CopyFS(folder, os.DirFS(filepath.Join(repository, "models", "mobilenet-v1-160")))
	})
	if built.modelErr != nil {
		t.Fatal(built.modelErr)
	}
	return folder
}

// Hook returns the path of the Lua hook that the product ships.
func Hook(t testing.TB) string {
	t.Helper()
	repository, err := orthanctest.Repository()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(repository, "lua", "on-stored-instance.lua")
}
