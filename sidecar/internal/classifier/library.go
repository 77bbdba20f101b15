package classifier

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	ort "github.com/yalue/onnxruntime_go"
)

// LibraryEnv names the environment variable that says which ONNX Runtime to use.
const LibraryEnv = "ONNXRUNTIME_LIB"

// ErrNoLibrary says that no ONNX Runtime was found on this machine.
var ErrNoLibrary = errors.New("ONNX Runtime not found: run `make onnxruntime`, or name a libonnxruntime.so of version 1.24 or newer " +
	"in model.onnxruntime or " + LibraryEnv)

// A process loads one ONNX Runtime and keeps it.
var (
	libraryMutex  sync.Mutex
	loadedLibrary string
)

// openLibrary loads ONNX Runtime once in a process and returns the path of what is loaded.
func openLibrary(wanted string) (string, error) {
	libraryMutex.Lock()
	defer libraryMutex.Unlock()
	if ort.IsInitialized() {
		if wanted != "" && wanted != loadedLibrary {
			return "", fmt.Errorf("ONNX Runtime %s is already loaded: a process cannot load another one (%s)", loadedLibrary, wanted)
		}
		return loadedLibrary, nil
	}
	candidates, named := libraryCandidates(wanted)
	var failures []string
	for _, path := range candidates {
		ort.SetSharedLibraryPath(path)
		if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
			failures = append(failures, libraryError(path, err))
			continue
		}
		// Nobody's pictures, but a hospital's machine: it reports to nobody.
		if err := ort.DisableTelemetry(); err != nil {
			return "", fmt.Errorf("switch off the telemetry of ONNX Runtime: %w", err)
		}
		loadedLibrary = path
		return path, nil
	}
	if named || slices.ContainsFunc(candidates, filepath.IsAbs) {
		return "", fmt.Errorf("load ONNX Runtime: %s", strings.Join(failures, "; "))
	}
	return "", ErrNoLibrary
}

func libraryError(path string, err error) string {
	text := err.Error()
	if strings.Contains(text, "ORT API base") {
		return path + " is older than the version 1.24 that is needed"
	}
	if _, detail, ok := strings.Cut(text, path+`": `); ok {
		text = strings.TrimPrefix(detail, path+": ")
	}
	return path + ": " + text
}

// libraryCandidates lists what to try, best first. A library that somebody has named is the only candidate: to run with
// another one than they think would be worse than not to start.
func libraryCandidates(wanted string) (paths []string, named bool) {
	if wanted == "" {
		wanted = os.Getenv(LibraryEnv)
	}
	if wanted != "" {
		return []string{wanted}, true
	}
	for _, cache := range cacheFolders() {
		found, err := filepath.Glob(filepath.Join(cache, "onnxruntime-*", "libonnxruntime.so*"))
		if err != nil {
			continue
		}
		slices.SortFunc(found, func(a, b string) int { return compareVersions(b, a) })
		paths = append(paths, found...)
	}
	if program, err := os.Executable(); err == nil {
		beside := filepath.Dir(program)
		for _, p := range []string{
			filepath.Join(beside, "libonnxruntime.so.1"),
			filepath.Join(beside, "..", "lib", "imaging-router", "libonnxruntime.so.1"), // of the Debian package
			filepath.Join(beside, "..", "lib", "libonnxruntime.so.1"),
		} {
			if exists(p) {
				paths = append(paths, p)
			}
		}
	}
	return append(paths, "libonnxruntime.so.1", "libonnxruntime.so"), false
}

// cacheFolders returns where sidecar/get-onnxruntime.sh may have put the library: the folder that IMAGINGROUTER_CACHE names,
// .cache of the checkout that we stand in, and .cache beside bin/. Other folders above the working directory are not searched:
// a service must not load code out of a folder that anybody can make.
func cacheFolders() []string {
	var folders []string
	if named := os.Getenv("IMAGINGROUTER_CACHE"); named != "" {
		folders = append(folders, named)
	}
	if dir, err := os.Getwd(); err == nil {
		for ; ; dir = filepath.Dir(dir) {
			if exists(filepath.Join(dir, "go.mod")) {
				folders = append(folders, filepath.Join(dir, ".cache"))
				break
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	if program, err := os.Executable(); err == nil {
		folders = append(folders, filepath.Join(filepath.Dir(program), "..", ".cache"), filepath.Join(filepath.Dir(program), ".cache"))
	}
	return folders
}

// compareVersions orders …/onnxruntime-1.9.0/… before …/onnxruntime-1.30.0/….
func compareVersions(a, b string) int {
	return cmp.Or(slices.Compare(versionOf(a), versionOf(b)), strings.Compare(b, a))
}

func versionOf(path string) []int {
	_, version, _ := strings.Cut(filepath.Base(filepath.Dir(path)), "onnxruntime-")
	var numbers []int
	for _, part := range strings.FieldsFunc(version, func(r rune) bool { return r < '0' || r > '9' }) {
		n, err := strconv.Atoi(part)
		if err != nil {
			break
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// Runtime loads ONNX Runtime and returns its version and where it lies. The argument is that of Options.Library.
func Runtime(library string) (version, path string, err error) {
	path, err = openLibrary(library)
	if err != nil {
		return "", "", err
	}
	return ort.GetVersion(), path, nil
}
