package packaging

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// site is an Orthanc that was there before the router: with a peer, metadata and a Lua script of its own.
type site struct {
	*orthanctest.Server

	extra   map[string]any
	dir     string // what init writes
	program program
	router  string
}

const siteScript = `function OnStoredInstance(instance) RestApiPut('/instances/' .. instance .. '/metadata/3000', 'the site was here') end`

func newSite(t *testing.T, version string, extra map[string]any) *site {
	t.Helper()
	peer := orthanctest.New(t, orthanctest.Config{Version: version, Name: "reading", AET: "READING"})
	settings := map[string]any{
		"UserMetadata": map[string]any{"Site": 3000, "SitesOwn": 5111}, "OrthancPeers": map[string]any{"reading_room": peer.AsPeer()},
		"ConcurrentJobs": 2, "ExecuteLuaEnabled": false,
	}
	maps.Copy(settings, extra)
	port, err := orthanctest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	gdcmconv, err := orthanctest.Tool(version, "gdcmconv")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{extra: settings, dir: filepath.Join(t.TempDir(), "made by init"), router: "http://127.0.0.1:" + strconv.Itoa(port)}
	s.Server = orthanctest.New(t, orthanctest.Config{
		Version: version, Extra: settings, Lua: []string{write(t, filepath.Join(t.TempDir(), "site.lua"), siteScript)},
		Users: map[string]string{"router": "a secret"},
	})
	s.program = program{path: routertest.Binary(t), dir: t.TempDir(), env: []string{
		"IMAGING_ROUTER_DATABASE_PATH=" + filepath.Join(t.TempDir(), "router.db"), "IMAGING_ROUTER_MODEL_DIR=" + routertest.Model(t),
		"IMAGING_ROUTER_MODEL_ONNXRUNTIME=" + routertest.ONNXRuntime(t), "IMAGING_ROUTER_PICTURE_GDCMCONV=" + gdcmconv,
	}}
	return s
}

func (s *site) init(t *testing.T, arguments ...string) string {
	t.Helper()
	password := write(t, filepath.Join(s.program.dir, "password"), s.Password+"\n")
	return s.program.ok(t, append([]string{"init", "--orthanc", s.URL, "--username", s.Username, "--password-file", password,
		"--router", s.router, "--out", s.dir}, arguments...)...)
}

// apply does what init said: the printed keys replace those of the configuration.
func (s *site) apply(t *testing.T, printed string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "orthanc-additions.json"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(printed, "     "+line) {
			t.Errorf("the file has a line that was not printed: %s", line)
		}
	}
	var additions map[string]any
	if err := json.Unmarshal(text, &additions); err != nil {
		t.Fatal(err)
	}
	if err := s.RestartWith(context.WithoutCancel(t.Context()), func(c *orthanctest.Config) { maps.Copy(c.Extra, additions) }); err != nil {
		t.Fatal(err)
	}
}

// serve runs the router with the configuration that init wrote, until the test ends.
func (s *site) serve(t *testing.T) {
	t.Helper()
	cmd := s.program.command(context.WithoutCancel(t.Context()), "--config", filepath.Join(s.dir, "config.yaml"), "serve")
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the router: %v", err)
		}
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("the router's log:\n%s", text)
		}
	})
	eventually(t, "the router starts", func() error {
		if _, errs, status := s.program.run(t, "healthcheck", s.router); status != 0 {
			return fmt.Errorf("%s", errs)
		}
		return nil
	})
}

// What init writes is enough: the printed keys in a new configuration of Orthanc, the written one for the router, and an X-ray that is
// stored gets its label because the hook told of it. What the site had before still works.
func TestInitBesideAnOrthancThatIsThere(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		t.Parallel() // most of the time is waiting for starts
		for _, asked := range []bool{false, true} {
			t.Run(map[bool]string{false: "over REST", true: "with its Lua"}[asked], func(t *testing.T) {
				s := newSite(t, version, map[string]any{"ExecuteLuaEnabled": asked})
				var arguments []string
				if asked {
					there := t.TempDir() // where this Orthanc has its files
					arguments = []string{"--ask-lua", "--hook-path", filepath.Join(there, "hook's.lua"), "--token-path", filepath.Join(there, "token")}
				}
				printed := s.init(t, arguments...)
				for _, want := range []string{
					`number 5111 is "SitesOwn" in this Orthanc`, "peers: reading_room", "kept: Site 3000, SitesOwn 5111",
					"ORTHANC__USER_METADATA: '{", "imaging-router --config " + s.dir + "/config.yaml check",
				} {
					if !strings.Contains(printed, want) {
						t.Errorf("init does not say %q:\n%s", want, printed)
					}
				}
				copies := 0
				for line := range strings.Lines(printed) {
					if line = strings.TrimSpace(line); strings.HasPrefix(line, "install ") {
						copies++ // as this user: there is no user orthanc here
						output(t, exec.CommandContext(t.Context(), "bash", "-c", strings.Replace(line, "-o orthanc -g orthanc ", "", 1)))
					}
				}
				if want := map[bool]int{false: 0, true: 2}[asked]; copies != want {
					t.Errorf("%d commands to copy files, want %d:\n%s", copies, want, printed)
				}
				s.apply(t, printed)
				s.serve(t)
				x := upload(t, s.Server, phantom.Options{Class: "adult_chest", Window: true})
				eventually(t, "the X-ray is labelled", func() error { return labelled(t, s.Server, x.study) })
				metadata := user(t, s.Server, "/instances/"+x.instance)
				if metadata["5120"] == "" || metadata["5121"] == "" || metadata["5111"] != "" {
					t.Errorf("metadata %v", metadata)
				}
				if asked && metadata["3000"] != "the site was here" {
					t.Errorf("the site's own OnStoredInstance was not called: %v", metadata)
				}
				stdout, stderr, status := s.program.run(t, "--config", filepath.Join(s.dir, "config.yaml"), "check")
				if status != 0 {
					t.Errorf("check: status %d", status)
				}
				for _, want := range []string{"BodyPartMarker are registered", "hook in Orthanc  last heard", "answers, Orthanc " + s.Version} {
					if !strings.Contains(strings.Join(strings.Fields(stdout), " "), strings.Join(strings.Fields(want), " ")) {
						t.Errorf("check does not say %q:\n%s%s", want, stdout, stderr)
					}
				}
			})
		}
	})
}

func TestInitRefuses(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s := newSite(t, version, nil)
		wrong := write(t, filepath.Join(t.TempDir(), "wrong"), "wrong\n")
		for name, c := range map[string]struct {
			arguments []string
			says      string
		}{
			"account":          {[]string{"--orthanc", s.URL, "--username", "router", "--password-file", wrong}, "the account is refused"},
			"no account":       {[]string{"--orthanc", s.URL}, "the account is refused"},
			"nobody there":     {[]string{"--orthanc", "http://127.0.0.1:1"}, "is Orthanc running"},
			"another port":     {[]string{"--orthanc", fmt.Sprintf("http://127.0.0.1:%d", s.DicomPort)}, ""},
			"user without":     {[]string{"--orthanc", s.URL, "--username", "router"}, "--username needs --password-file"},
			"password without": {[]string{"--orthanc", s.URL, "--password-file", wrong}, "--password-file needs --username"},
			"password in URL":  {[]string{"--orthanc", "http://router:geheim@127.0.0.1"}, "must hold no user"},
		} {
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				_, stderr, status := s.program.run(t, append([]string{"init", "--out", dir}, c.arguments...)...)
				if status != 1 || !strings.Contains(stderr, c.says) || strings.Contains(stderr, "geheim") {
					t.Errorf("status %d, %s", status, stderr)
				}
				if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
					t.Errorf("it wrote %v %v", entries, err)
				}
			})
		}
		t.Run("twice", func(t *testing.T) {
			s.init(t)
			password := filepath.Join(s.program.dir, "password")
			_, stderr, status := s.program.run(t, "init", "--orthanc", s.URL, "--username", s.Username, "--password-file", password, "--out", s.dir)
			if status != 1 || !strings.Contains(stderr, "config.yaml is there already (--force") {
				t.Errorf("status %d, %s", status, stderr)
			}
			s.init(t, "--force")
		})
	})
}
