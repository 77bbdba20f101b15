package orthanctest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagingrouter/tests/orthanctest"
)

func TestOneServerFromStartToEnd(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		ctx := t.Context()
		script := filepath.Join(t.TempDir(), "hello.lua")
		require.NoError(t, os.WriteFile(script, []byte(`print("the environment says " .. (os.getenv("HELLO") or "nothing"))`), 0o600))
		s := orthanctest.New(t, orthanctest.Config{
			Version: version, Name: "the name", AET: "ARCHIVE", Lua: []string{script}, Env: []string{"HELLO=good day"}, DICOMweb: true,
			Users: map[string]string{"router": "secret"}, Extra: map[string]any{"OverwriteInstances": true},
		})
		var system struct {
			Version, Name, DicomAet string
			OverwriteInstances      bool
			DicomPort               int
			HTTPPort                int `json:"HttpPort"`
		}
		require.NoError(t, s.GetJSON(ctx, "/system", &system))
		require.True(t, strings.HasPrefix(system.Version, version+"."))
		require.Equal(t, s.Version, system.Version)
		require.Equal(t, "the name", system.Name)
		require.Equal(t, "ARCHIVE", system.DicomAet)
		require.True(t, system.OverwriteInstances, "Extra was not laid over the configuration")
		require.Equal(t, s.DicomPort, system.DicomPort)
		require.Equal(t, s.HTTPPort, system.HTTPPort)
		require.Contains(t, s.Log(), "the environment says good day")

		var plugins []string
		require.NoError(t, s.GetJSON(ctx, "/plugins", &plugins))
		require.Contains(t, plugins, "dicom-web")

		stranger := *http.DefaultClient
		response, err := stranger.Get(s.URL + "/system")
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusUnauthorized, response.StatusCode)

		// Over REST and over C-STORE.
		id, err := s.Upload(ctx, orthanctest.File{}.Bytes())
		require.NoError(t, err)
		require.Len(t, id, 44)
		files := t.TempDir()
		for i := range 3 {
			require.NoError(t, os.WriteFile(filepath.Join(files, fmt.Sprintf("%d.dcm", i)), orthanctest.File{SOPClass: orthanctest.CT, Modality: "CT"}.Bytes(), 0o600))
		}
		require.NoError(t, s.Store(ctx, files))
		require.Len(t, instances(t, s), 4)

		// What is stored survives both ways to end.
		require.NoError(t, s.Restart(ctx))
		require.Len(t, instances(t, s), 4)
		require.NoError(t, s.Kill())
		_, _, err = s.Do(ctx, http.MethodGet, "/system", nil)
		require.Error(t, err, "a killed Orthanc answers")
		require.NoError(t, s.Kill(), "killing a dead one")
		require.NoError(t, s.RestartWith(ctx, func(c *orthanctest.Config) { c.Name = "another" }))
		require.Len(t, instances(t, s), 4)
		require.NoError(t, s.GetJSON(ctx, "/system", &system))
		require.Equal(t, "another", system.Name)
	})
}

func TestStoreReportsWhatWasNotAccepted(t *testing.T) {
	orthanctest.Require(t, "1.12")
	file := filepath.Join(t.TempDir(), "a.dcm")
	require.NoError(t, os.WriteFile(file, orthanctest.File{}.Bytes(), 0o600))
	port, err := orthanctest.FreePort()
	require.NoError(t, err)
	require.ErrorContains(t, orthanctest.Store(t.Context(), "1.12", "127.0.0.1", port, "NOBODY", file), "dcmsend of 1 files")
}

func TestAnOrthancThatCannotStartSaysWhy(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		_, err := orthanctest.Start(t.Context(), orthanctest.Config{Version: version, Dir: t.TempDir(), Extra: map[string]any{"HttpPort": "a word"}})
		require.ErrorContains(t, err, "ended while it was starting")
		require.ErrorContains(t, err, "HttpPort")
	})
}

func TestWhatIsNotInstalledIsNamed(t *testing.T) {
	_, err := orthanctest.Find("0.9")
	require.ErrorContains(t, err, "make orthanc")
	t.Setenv("IMAGINGROUTER_CACHE", t.TempDir())
	require.Empty(t, orthanctest.Versions())
}

func TestToolsStart(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		for _, name := range []string{"Orthanc", "dcmsend", "storescu", "storescp", "echoscu", "gdcmconv"} {
			program, err := orthanctest.Tool(version, name)
			require.NoError(t, err)
			output, err := exec.CommandContext(t.Context(), program, "--version").CombinedOutput()
			require.NoError(t, err, "%s: %s", name, output)
		}
	})
}

// The test binary starts itself again as a parent that is killed; its Orthanc must be gone soon after.
func TestOrthancDiesWithItsParent(t *testing.T) {
	orthanctest.Require(t, "1.12")
	if os.Getenv("ORTHANCTEST_PARENT") != "" {
		s, err := orthanctest.Start(context.Background(), orthanctest.Config{Version: "1.12", Dir: os.Getenv("ORTHANCTEST_PARENT"), Users: map[string]string{}})
		require.NoError(t, err)
		fmt.Println("url:" + s.URL)
		select {}
	}
	parent := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOrthancDiesWithItsParent$", "-test.v")
	parent.Env = append(os.Environ(), "ORTHANCTEST_PARENT="+t.TempDir())
	output, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	url := ""
	for lines := bufio.NewScanner(output); url == "" && lines.Scan(); {
		_, url, _ = strings.Cut(lines.Text(), "url:")
	}
	require.NotEmpty(t, url)
	answers := func() bool {
		response, err := http.Get(url + "/system")
		if err != nil {
			return false
		}
		_, err = io.Copy(io.Discard, response.Body)
		return err == nil && response.Body.Close() == nil
	}
	require.True(t, answers())
	require.NoError(t, parent.Process.Kill())
	require.Error(t, parent.Wait())
	require.Eventually(t, func() bool { return !answers() }, 5*time.Second, 50*time.Millisecond, "Orthanc outlived the process that started it")
}

func instances(t *testing.T, s *orthanctest.Server) []string {
	t.Helper()
	var ids []string
	require.NoError(t, s.GetJSON(t.Context(), "/instances", &ids))
	return ids
}
