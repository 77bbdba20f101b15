package orthanctest_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"imagingrouter/tests/orthanctest"
)

// The configuration, the secrets and the health check of docker-compose.yml, with both Orthancs and without Docker.
func TestTheConfigurationOfComposeStarts(t *testing.T) {
	repository, err := orthanctest.Repository()
	require.NoError(t, err)
	folder := filepath.Join(repository, "orthanc")
	secrets := filepath.Join(t.TempDir(), "secrets")
	makeSecrets := func() {
		output, err := exec.CommandContext(t.Context(), filepath.Join(folder, "make-secrets.sh"), secrets).CombinedOutput()
		require.NoError(t, err, "%s", output)
	}
	makeSecrets()
	password, err := os.ReadFile(filepath.Join(secrets, "orthanc_password"))
	require.NoError(t, err)
	makeSecrets()
	again, err := os.ReadFile(filepath.Join(secrets, "orthanc_password"))
	require.NoError(t, err)
	require.Equal(t, password, again, "a second run made other secrets")
	info, err := os.Stat(secrets)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	accounts := settings(t, filepath.Join(secrets, "orthanc_accounts.json"))
	users := map[string]string{}
	for name, secret := range accounts["RegisteredUsers"].(map[string]any) {
		users[name] = secret.(string)
	}
	require.Len(t, users, 2)

	orthanctest.Each(t, func(t *testing.T, version string) {
		extra := settings(t, filepath.Join(folder, "orthanc.json"))
		extra["OrthancPeers"] = accounts["OrthancPeers"]
		require.Equal(t, []any{"/etc/orthanc/lua/on-stored-instance.lua"}, extra["LuaScripts"])
		for _, ours := range []string{"StorageDirectory", "IndexDirectory", "HttpPort", "DicomPort", "LuaScripts"} {
			require.Contains(t, extra, ours)
			delete(extra, ours)
		}
		s := orthanctest.New(t, orthanctest.Config{
			Version: version, Users: users, Lua: []string{filepath.Join(repository, "lua", "on-stored-instance.lua")}, Extra: extra,
			Env: []string{"IMAGING_ROUTER_TOKEN_FILE=" + filepath.Join(secrets, "hook_token")},
		})
		var system struct {
			Name, DicomAet string
			UserMetadata   map[string]int
		}
		require.NoError(t, s.GetJSON(t.Context(), "/system", &system))
		require.Equal(t, "ARCHIVE", system.DicomAet)
		require.Equal(t, 5111, system.UserMetadata["BodyPartResult"])
		require.NotContains(t, s.Log(), "no token is set")

		check := func(env ...string) error {
			c := exec.CommandContext(t.Context(), filepath.Join(folder, "healthcheck.sh"))
			c.Env = append(append(os.Environ(), "HEALTHCHECK_PORT="+portOf(s), "HEALTHCHECK_PASSWORD_FILE="+filepath.Join(secrets, "orthanc_password")), env...)
			return c.Run()
		}
		require.NoError(t, check())
		require.Error(t, check("HEALTHCHECK_USER=nobody"))
		require.NoError(t, s.Kill())
		require.Error(t, check())
	})
}

// settings reads a configuration of Orthanc's: JSON with comments on lines of their own.
func settings(t *testing.T, path string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var all map[string]any
	require.NoError(t, json.Unmarshal(regexp.MustCompile(`(?m)^\s*//.*$`).ReplaceAll(text, nil), &all), path)
	return all
}

func portOf(s *orthanctest.Server) string { return s.URL[len("http://127.0.0.1:"):] }
