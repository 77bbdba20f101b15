package orthanctest_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagingrouter/tests/orthanctest"
)

// run starts one of the repository's scripts and returns both of its outputs. Later variables win.
func run(t *testing.T, script string, arguments []string, env ...string) (stdout, stderr string, err error) {
	t.Helper()
	repository, err := orthanctest.Repository()
	require.NoError(t, err)
	var out, log strings.Builder
	c := exec.CommandContext(t.Context(), filepath.Join(repository, script), arguments...)
	c.Env = append(os.Environ(), env...)
	c.Stdout, c.Stderr = &out, &log
	err = c.Run()
	return out.String(), log.String(), err
}

// folderWith returns a folder that holds links to these programs of this machine, to be the whole PATH.
func folderWith(t *testing.T, programs ...string) string {
	t.Helper()
	folder := t.TempDir()
	for _, program := range programs {
		path, err := exec.LookPath(program)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(folder, program)))
	}
	return folder
}

func TestASecondInstallationFetchesNothing(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		// With a mirror that is not there: a request would end in an error.
		out, log, err := run(t, "orthanc/get-orthanc.sh", []string{version}, "DEBIAN_MIRROR=http://127.0.0.1:9/debian/")
		require.NoError(t, err, log)
		require.Contains(t, log, "nothing fetched")
		full, err := orthanctest.Find(version)
		require.NoError(t, err)
		require.Equal(t, "orthanc-"+full, filepath.Base(strings.TrimSpace(out)))
	})
}

func TestInstallationsThatCannotBe(t *testing.T) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("this machine has no apt")
	}
	// Somebody between us and Debian who serves an index of his own: nothing signed it.
	forged := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/Release") {
			_, _ = w.Write([]byte("Origin: Debian\nSuite: stable\nCodename: trixie\nSHA256:\n"))
			return
		}
		http.NotFound(w, r)
	}))
	defer forged.Close()
	for name, test := range map[string]struct {
		arguments []string
		env       []string
		want      string
	}{
		"unknown version": {[]string{"1.9"}, nil, "unknown version '1.9'"},
		"two versions":    {[]string{"1.12", "1.13"}, nil, "one version at a time"},
		"no network":      {[]string{"1.13"}, []string{"DEBIAN_MIRROR=http://127.0.0.1:9/debian/"}, "is the network there?"},
		"not signed":      {[]string{"1.13"}, []string{"DEBIAN_MIRROR=" + forged.URL + "/debian/"}, "its signature did not hold"},
		"no apt": {
			[]string{"1.12"},
			[]string{"PATH=" + folderWith(t, "bash", "dirname", "mkdir", "env")}, "this needs Debian's apt, and apt-get is missing",
		},
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			_, log, err := run(t, "orthanc/get-orthanc.sh", test.arguments, append(test.env, "IMAGINGROUTER_CACHE="+cache, "http_proxy=", "https_proxy=")...)
			require.Error(t, err)
			require.Contains(t, log, test.want)
			require.Empty(t, leftovers(t, cache))
		})
	}
}

func TestONNXRuntime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "libonnxruntime.so")
	require.NoError(t, os.WriteFile(file, []byte("a library"), 0o600))
	out, log, err := run(t, "sidecar/get-onnxruntime.sh", nil, "ONNXRUNTIME_LIB="+file)
	require.NoError(t, err, log)
	require.Equal(t, file, strings.TrimSpace(out))
	_, log, err = run(t, "sidecar/get-onnxruntime.sh", nil, "ONNXRUNTIME_LIB="+file+".none")
	require.Error(t, err)
	require.Contains(t, log, "cannot be read")

	// Without npm, curl and wget: one line says what to install.
	cache := t.TempDir()
	path := folderWith(t, "bash", "dirname", "mkdir", "env", "uname", "flock", "mktemp", "chmod", "rm", "tail")
	_, log, err = run(t, "sidecar/get-onnxruntime.sh", nil, "ONNXRUNTIME_LIB=", "IMAGINGROUTER_CACHE="+cache, "PATH="+path)
	require.Error(t, err)
	require.Contains(t, log, "apt-get install curl npm")
	require.Empty(t, leftovers(t, cache))

	// A download that is not what it should be is refused, and no other source is tried after it.
	forger := folderWith(t, "bash", "dirname", "mkdir", "env", "uname", "flock", "mktemp", "chmod", "rm", "tail", "sha256sum", "cut")
	require.NoError(t, os.WriteFile(filepath.Join(forger, "curl"), []byte("#!/bin/sh\nwhile [ \"$1\" != --output ]; do shift; done\necho forged >\"$2\"\n"), 0o755))
	_, log, err = run(t, "sidecar/get-onnxruntime.sh", nil, "ONNXRUNTIME_LIB=", "IMAGINGROUTER_CACHE="+cache, "PATH="+forger)
	require.Error(t, err)
	require.Contains(t, log, "refused")
	require.NotContains(t, log, "npm")
	require.Empty(t, leftovers(t, cache))
}

// leftovers returns what a failed installation has left in the cache, but for the files of its locks.
func leftovers(t *testing.T, cache string) []string {
	t.Helper()
	entries, err := os.ReadDir(cache)
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".lock") {
			names = append(names, entry.Name())
		}
	}
	return names
}
