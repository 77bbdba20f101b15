// Package orthanctest starts real Orthancs for tests and the demo: any installed version, on free ports, with its own storage, stopped or
// killed at will. It knows Orthanc's configuration and nothing of the router, so that the router's packages can be tested with it.
package orthanctest

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Lines returns the lines of Orthanc that the router supports; every test against Orthanc runs with each of them (see Each).
func Lines() []string { return []string{"1.12", "1.13"} }

// Versions returns the installed versions, oldest first, for example ["1.12.7", "1.13.0"]. orthanc/get-orthanc.sh installs them.
func Versions() []string {
	programs, err := filepath.Glob(filepath.Join(cache(), "orthanc-*", "bin", "Orthanc"))
	if err != nil {
		return nil // only a malformed pattern
	}
	versions := make([]string, 0, len(programs))
	for _, program := range programs {
		versions = append(versions, strings.TrimPrefix(filepath.Base(filepath.Dir(filepath.Dir(program))), "orthanc-"))
	}
	slices.SortFunc(versions, compareVersions)
	return versions
}

// Find returns the newest installed version that is the given one or of the given line ("1.12" finds "1.12.7"); "" finds the oldest of all.
func Find(version string) (string, error) {
	all := Versions()
	if version == "" && len(all) > 0 {
		return all[0], nil
	}
	for _, v := range slices.Backward(all) {
		if v == version || strings.HasPrefix(v, version+".") {
			return v, nil
		}
	}
	return "", fmt.Errorf("orthanctest: Orthanc %s is not in %s: run `make orthanc`", version, cache())
}

// Tool returns the path of a program that came with a version: Orthanc, dcmsend, storescu, storescp, echoscu or gdcmconv.
func Tool(version, name string) (string, error) {
	v, err := Find(version)
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache(), "orthanc-"+v, "bin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("orthanctest: Orthanc %s came without %s: %w", v, name, err)
	}
	return path, nil
}

// Require skips the test, with a line that says what to run, when the version is not installed. In continuous integration (CI=true) it
// fails instead: there, a skipped test would look like a passed one.
func Require(t testing.TB, version string) {
	t.Helper()
	if _, err := Find(version); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// Each runs the test once for every supported line of Orthanc, as sub-tests named after them.
func Each(t *testing.T, test func(t *testing.T, version string)) {
	t.Helper()
	for _, line := range Lines() {
		t.Run(line, func(t *testing.T) {
			Require(t, line)
			test(t, line)
		})
	}
}

// Repository returns the root of the repository: the folder of this module's go.mod, looked for from the working directory upwards and
// then from this source file.
func Repository() (string, error) {
	starts := make([]string, 0, 2)
	if here, err := os.Getwd(); err == nil {
		starts = append(starts, here)
	}
	if _, file, _, ok := runtime.Caller(0); ok {
		starts = append(starts, filepath.Dir(file))
	}
	for _, folder := range starts {
		for {
			text, err := os.ReadFile(filepath.Join(folder, "go.mod"))
			if err == nil && strings.HasPrefix(string(text), "module imagingrouter\n") {
				return folder, nil
			}
			parent := filepath.Dir(folder)
			if parent == folder {
				break
			}
			folder = parent
		}
	}
	return "", errors.New("orthanctest: no go.mod of the imaging router above the working directory")
}

// cache is where orthanc/get-orthanc.sh puts what it fetches.
func cache() string {
	if folder := os.Getenv("IMAGINGROUTER_CACHE"); folder != "" {
		return folder
	}
	repository, err := Repository()
	if err != nil {
		return ".cache"
	}
	return filepath.Join(repository, ".cache")
}

func compareVersions(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		m, errM := strconv.Atoi(x[i])
		n, errN := strconv.Atoi(y[i])
		if errM != nil || errN != nil {
			return cmp.Compare(a, b)
		}
		if m != n {
			return cmp.Compare(m, n)
		}
	}
	return cmp.Compare(len(x), len(y))
}
