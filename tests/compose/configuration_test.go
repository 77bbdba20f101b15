// Package compose_test holds docker-compose.yml and what belongs to it: without Docker against both real Orthancs (configuration, secrets,
// rights, https of the hook), and, with the tag "docker", on a real engine (run.sh). It looks only at what a user can see.
package compose_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

func TestMain(m *testing.M) { os.Exit(routertest.Main(m)) }

func repository(t *testing.T) string {
	t.Helper()
	path, err := orthanctest.Repository()
	require.NoError(t, err)
	return path
}

// makeSecrets runs the documented command and returns the folder.
func makeSecrets(t *testing.T, folder string, arguments ...string) (output string, err error) {
	t.Helper()
	script := filepath.Join(repository(t), "orthanc", "make-secrets.sh")
	text, err := exec.CommandContext(t.Context(), script, append(arguments, folder)...).CombinedOutput()
	return string(text), err
}

func secret(t *testing.T, folder, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, name))
	require.NoError(t, err)
	return strings.TrimSpace(string(text))
}

// The configuration, the secrets and the health check of docker-compose.yml, with both Orthancs and without Docker.
func TestTheConfigurationOfComposeStarts(t *testing.T) {
	folder := filepath.Join(repository(t), "orthanc")
	secrets := filepath.Join(t.TempDir(), "secrets")
	output, err := makeSecrets(t, secrets, "--demo")
	require.NoError(t, err, output)
	users := map[string]string{}
	for name, password := range settings(t, filepath.Join(secrets, "orthanc_accounts.json"))["RegisteredUsers"].(map[string]any) {
		users[name] = password.(string)
	}
	require.Equal(t, map[string]string{"admin": secret(t, secrets, "admin_password"), "imaging-router": secret(t, secrets, "orthanc_password")}, users)

	orthanctest.Each(t, func(t *testing.T, version string) {
		extra := settings(t, filepath.Join(folder, "orthanc.json"))
		maps.Copy(extra, settings(t, filepath.Join(secrets, "orthanc_peers.json")))
		newer := strings.HasPrefix(version, "1.13")
		if newer { // stands for orthancteam/orthanc, which lays the environment over the files
			maps.Copy(extra, fromEnvironment(environment(t, "orthanc")))
		}
		lua := inRepository(t, extra["LuaScripts"])
		for _, ours := range []string{"StorageDirectory", "IndexDirectory", "HttpPort", "DicomPort", "LuaScripts"} {
			require.Contains(t, extra, ours)
			delete(extra, ours)
		}
		s := orthanctest.New(t, orthanctest.Config{
			Version: version, Users: users, Lua: lua, Extra: extra,
			Env: []string{"IMAGING_ROUTER_TOKEN_FILE=" + filepath.Join(secrets, "hook_token")},
		})
		var system struct {
			Name, DicomAet         string
			OverwriteInstancesMode string
			UserMetadata           map[string]int
		}
		require.NoError(t, s.GetJSON(t.Context(), "/system", &system))
		require.Equal(t, "ARCHIVE", system.DicomAet)
		require.Equal(t, 5111, system.UserMetadata["BodyPartResult"])
		if newer {
			require.Equal(t, "IfChanged", system.OverwriteInstancesMode)
		}
		var peers []string
		require.NoError(t, s.GetJSON(t.Context(), "/peers", &peers))
		require.ElementsMatch(t, []string{"chest-ai", "spine-ai"}, peers)
		require.NotContains(t, s.Log(), "no token is set")

		check := func(env ...string) error {
			c := exec.CommandContext(t.Context(), filepath.Join(folder, "healthcheck.sh"))
			c.Env = append(append(os.Environ(), "HEALTHCHECK_PORT="+strings.TrimPrefix(s.URL, "http://127.0.0.1:"),
				"HEALTHCHECK_PASSWORD_FILE="+filepath.Join(secrets, "orthanc_password")), env...)
			return c.Run()
		}
		require.NoError(t, check())
		require.Error(t, check("HEALTHCHECK_USER=nobody"))
		require.NoError(t, s.Kill())
		require.Error(t, check())
	})
}

// A key that Orthanc does not know is ignored silently, so each is looked up in the list that Orthanc itself writes.
func TestOrthancKnowsEveryKey(t *testing.T) {
	plugins := []string{"OrthancExplorer2", "Gdcm"} // their own sections
	folder := filepath.Join(repository(t), "orthanc")
	keys := slices.Collect(maps.Keys(settings(t, filepath.Join(folder, "orthanc.json"))))
	keys = slices.AppendSeq(keys, maps.Keys(settings(t, filepath.Join(folder, "hook-tls.json"))))
	keys = slices.AppendSeq(keys, maps.Keys(settings(t, filepath.Join(folder, "demo", "destination.json"))))
	keys = slices.AppendSeq(keys, maps.Keys(fromEnvironment(environment(t, "orthanc"))))
	orthanctest.Each(t, func(t *testing.T, version string) {
		program, err := orthanctest.Tool(version, "Orthanc")
		require.NoError(t, err)
		options := []string{"--config="}
		if strings.HasPrefix(version, "1.13") {
			options = append(options, "--advanced-config=")
		}
		var known strings.Builder
		for _, option := range options {
			file := filepath.Join(t.TempDir(), "known.json")
			output, err := exec.CommandContext(t.Context(), program, option+file).CombinedOutput()
			require.NoError(t, err, "%s", output)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			known.Write(text)
		}
		for _, key := range keys {
			if !slices.Contains(plugins, key) {
				require.Contains(t, known.String(), `"`+key+`"`, "Orthanc %s", version)
			}
		}
	})
}

// The labels that Orthanc Explorer 2 offers are those that the router gives.
func TestThePageOffersTheRoutersLabels(t *testing.T) {
	page := settings(t, filepath.Join(repository(t), "orthanc", "orthanc.json"))["OrthancExplorer2"].(map[string]any)["UiOptions"].(map[string]any)
	require.Equal(t, true, page["EnableMultiLabelsSearch"])
	require.ElementsMatch(t, []any{"bodypart-abdominal", "bodypart-adult-chest", "bodypart-pediatric-chest", "bodypart-spine", "bodypart-others", "bodypart-review"}, page["AvailableLabels"])
}

func TestTheEnvironmentFileHasFiveLines(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(repository(t), ".env.example"))
	require.NoError(t, err)
	compose, err := os.ReadFile(filepath.Join(repository(t), "docker-compose.yml"))
	require.NoError(t, err)
	active := 0
	for line := range strings.Lines(string(text)) {
		found := regexp.MustCompile(`^(#?)([A-Z][A-Z0-9_]*)=(.*)\n$`).FindStringSubmatch(line)
		if found == nil {
			require.Regexp(t, `^(# .*)?\n$`, line)
			continue
		}
		name, value := found[2], found[3]
		if found[1] == "" {
			active++
		}
		if !strings.HasPrefix(name, "COMPOSE_") && name != "ONNXRUNTIME_GPU" && !strings.Contains(value, "/demo/") {
			require.Contains(t, string(compose), "${"+name+":-"+value+"}", "the default of %s", name)
		}
	}
	require.Equal(t, 5, active)
}

func TestSecrets(t *testing.T) {
	run := func(t *testing.T, prepare map[string]string, arguments ...string) (folder, output string, err error) {
		folder = filepath.Join(t.TempDir(), "secrets")
		require.NoError(t, os.MkdirAll(folder, 0o755))
		for name, content := range prepare {
			require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600))
		}
		output, err = makeSecrets(t, folder, arguments...)
		return folder, output, err
	}
	t.Run("closed to others, unlike each other, not shown", func(t *testing.T) {
		folder, output, err := run(t, nil, "--demo")
		require.NoError(t, err, output)
		info, err := os.Stat(folder)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
		seen := map[string]bool{}
		for _, name := range []string{"admin_password", "orthanc_password", "hook_token", "chest-ai_password", "spine-ai_password"} {
			value := secret(t, folder, name)
			require.GreaterOrEqual(t, len(value), 32)
			require.False(t, seen[value])
			seen[value] = true
			require.NotContains(t, output, value)
		}
	})
	t.Run("a second run changes nothing", func(t *testing.T) {
		folder, output, err := run(t, nil, "--demo")
		require.NoError(t, err, output)
		before := content(t, folder)
		output, err = makeSecrets(t, folder, "--demo")
		require.NoError(t, err, output)
		require.Equal(t, before, content(t, folder))
	})
	t.Run("the demo comes later", func(t *testing.T) {
		folder, output, err := run(t, nil)
		require.NoError(t, err, output)
		require.Empty(t, settings(t, filepath.Join(folder, "orthanc_peers.json"))["OrthancPeers"])
		output, err = makeSecrets(t, folder, "--demo")
		require.NoError(t, err, output)
		require.Len(t, settings(t, filepath.Join(folder, "orthanc_peers.json"))["OrthancPeers"], 2)
	})
	t.Run("a password of one's own", func(t *testing.T) {
		folder, output, err := run(t, map[string]string{"admin_password": `qu"ote\and $dollar` + "\n"})
		require.NoError(t, err, output)
		require.Equal(t, `qu"ote\and $dollar`, settings(t, filepath.Join(folder, "orthanc_accounts.json"))["RegisteredUsers"].(map[string]any)["admin"])
	})
	for name, password := range map[string]string{"empty": "\n", "two lines": "a\nb\n", "what Orthanc would replace": "a${HOME}b\n"} {
		t.Run("refused: "+name, func(t *testing.T) {
			_, output, err := run(t, map[string]string{"admin_password": password})
			require.Error(t, err)
			require.Contains(t, output, "admin_password must be one line")
		})
	}
}

func content(t *testing.T, folder string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		all[e.Name()] = secret(t, folder, e.Name())
	}
	return all
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

// inRepository turns the paths of Lua scripts in a container into those of the repository.
func inRepository(t *testing.T, scripts any) []string {
	t.Helper()
	var paths []string
	for _, script := range scripts.([]any) {
		name, found := strings.CutPrefix(script.(string), "/etc/orthanc/lua/")
		require.True(t, found, script)
		paths = append(paths, filepath.Join(repository(t), "lua", name))
	}
	return paths
}

// environment returns the environment of a service of docker-compose.yml.
func environment(t *testing.T, service string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository(t), "docker-compose.yml"))
	require.NoError(t, err)
	var file struct {
		Services map[string]struct{ Environment map[string]string }
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	require.NotEmpty(t, file.Services[service].Environment)
	return file.Services[service].Environment
}

// fromEnvironment does what orthancteam/orthanc does with its environment: ORTHANC__STABLE_AGE is StableAge, each "__" is one level deeper,
// and what is JSON is taken as such.
func fromEnvironment(environment map[string]string) map[string]any {
	all := map[string]any{}
	for name, text := range environment {
		path, found := strings.CutPrefix(name, "ORTHANC__")
		if !found {
			continue
		}
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		into := all
		levels := strings.Split(path, "__")
		for i, level := range levels {
			key := ""
			for word := range strings.SplitSeq(level, "_") {
				key += word[:1] + strings.ToLower(word[1:])
			}
			if i == len(levels)-1 {
				into[key] = value
				break
			}
			deeper, _ := into[key].(map[string]any)
			if deeper == nil {
				deeper = map[string]any{}
				into[key] = deeper
			}
			into = deeper
		}
	}
	return all
}
