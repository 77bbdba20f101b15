package setup

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/orthanc"
)

// archive is an Orthanc 1.13 with an account and nothing else of its own.
func archive() Archive {
	return Archive{
		URL: "http://localhost:8042", Username: "router",
		System: orthanc.System{Version: "1.13.0", HasLabels: true, OverwriteInstances: "Always", ConcurrentJobs: 2},
	}
}

func plan(t *testing.T, a Archive, o Options) *Plan {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	p, err := NewPlan(a, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func findings(p *Plan) string {
	var b strings.Builder
	for _, f := range p.Findings {
		b.WriteString(f.Word + " " + f.Subject + " " + f.Text + "\n")
	}
	return b.String()
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestNumbersAvoidThoseOfOthers(t *testing.T) {
	ours := map[string]int{"BodyPart": 5110, "BodyPartResult": 5111, "BodyPartMarker": 5113}
	for name, c := range map[string]struct {
		registered map[string]int
		numbers    config.Metadata
		names      map[string]int
		says       string
	}{
		"none":           {nil, config.Metadata{BodyPart: 5110, Result: 5111, Marker: 5113}, ours, ""},
		"ours":           {ours, config.Metadata{BodyPart: 5110, Result: 5111, Marker: 5113}, map[string]int{}, "registered already"},
		"another's":      {map[string]int{"Mine": 3000}, config.Metadata{BodyPart: 5110, Result: 5111, Marker: 5113}, ours, "kept: Mine 3000"},
		"one number":     {map[string]int{"X": 5111}, config.Metadata{BodyPart: 5120, Result: 5121, Marker: 5123}, map[string]int{"BodyPart": 5120, "BodyPartResult": 5121, "BodyPartMarker": 5123}, `number 5111 is "X"`},
		"two blocks":     {map[string]int{"X": 5113, "Y": 5120}, config.Metadata{BodyPart: 5130, Result: 5131, Marker: 5133}, map[string]int{"BodyPart": 5130, "BodyPartResult": 5131, "BodyPartMarker": 5133}, `number 5113 is "X"`},
		"the name":       {map[string]int{"BodyPart": 1024}, config.Metadata{BodyPart: 5110, Result: 5111, Marker: 5113}, map[string]int{"ImagingRouterBodyPart": 5110, "BodyPartResult": 5111, "BodyPartMarker": 5113}, "BodyPart is registered as 1024"},
		"number between": {map[string]int{"X": 5112}, config.Metadata{BodyPart: 5110, Result: 5111, Marker: 5113}, ours, "kept: X 5112"},
	} {
		t.Run(name, func(t *testing.T) {
			a := archive()
			a.System.UserMetadata = c.registered
			p := plan(t, a, Options{})
			if p.Numbers != c.numbers || !reflect.DeepEqual(p.Names, c.names) {
				t.Errorf("numbers %+v, names %v", p.Numbers, p.Names)
			}
			if !strings.Contains(findings(p), c.says) {
				t.Errorf("it does not say %q:\n%s", c.says, findings(p))
			}
			for name, number := range c.registered {
				if all, ok := p.Additions()["UserMetadata"].(map[string]int); ok && all[name] != number {
					t.Errorf("%s %d of the site is lost: %v", name, number, all)
				}
			}
		})
	}
}

func TestWhatIsSaid(t *testing.T) {
	off := false
	a := archive()
	a.Username = ""
	a.System.Version, a.System.ConcurrentJobs, a.System.OverwriteInstances, a.System.ReadOnly = "1.12.7", 0, "Never", true
	a.Plugins = map[string]string{"gdcm": "1.8", "dicom-web": "1.20", "orthanc-explorer-2": "1.9"}
	a.Storage = orthanc.Storage{StoreMD5ForAttachments: &off, MaximumStorageMode: "Recycle", MaximumPatientCount: 100}
	a.Modalities = map[string]orthanc.Modality{"ct": {}}
	a.LuaRefused = true
	p := plan(t, a, Options{})
	for _, want := range []string{
		"without a name and password", "does not say its ConcurrentJobs", "OverwriteInstances is Never: a corrected", "StoreMD5ForAttachments is off",
		"deletes the oldest patients", "read-only", "dicom-web 1.20, gdcm 1.8, orthanc-explorer-2 1.9\n", "end the whole server", "EnableMultiLabelsSearch",
		"ExecuteLuaEnabled is off", "no peers", "modalities that Orthanc knows: ct",
	} {
		if !strings.Contains(findings(p), want) {
			t.Errorf("it does not say %q:\n%s", want, findings(p))
		}
	}
	if p.Additions()[keyMD5] != true {
		t.Error("StoreMD5ForAttachments is not among the additions")
	}
	a.System.Version = "1.13.0"
	if strings.Contains(findings(plan(t, a, Options{})), "end the whole server") {
		t.Error("1.13 with GDCM is called dangerous")
	}
}

func TestAdditionsKeepWhatIsBetter(t *testing.T) {
	a := archive()
	a.System.ConcurrentJobs = 16
	a.Lua = &Lua{Scripts: []string{"/a.lua", "/srv/hook.lua"}, JobsHistorySize: 5000, HookDefined: true}
	got := plan(t, a, Options{HookPath: "/srv/hook.lua"}).Additions()
	delete(got, "UserMetadata")
	if want := map[string]any{"LuaScripts": []string{"/a.lua", "/srv/hook.lua"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("additions %v, want %v", got, want)
	}
}

func TestConfigurationLoads(t *testing.T) {
	for _, name := range []string{"alone", "with peers", "far away"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a folder: with 'signs' #1")
			if err := os.MkdirAll(dir, 0o750); err != nil {
				t.Fatal(err)
			}
			password := filepath.Join(dir, "password")
			if err := os.WriteFile(password, []byte("geheim\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			a, o := archive(), Options{Dir: dir, PasswordFile: password}
			switch name {
			case "with peers":
				a.Peers = map[string]orthanc.Peer{"chest-ai": {URL: "http://a/"}, "Neuro AI: \"2\"": {URL: "http://b/\nrules: []"}, "Neuro AI: '2'": {URL: "http://c"}}
				a.System.UserMetadata = map[string]int{"X": 5110}
			case "far away":
				a.URL = "https://orthanc.example:8042/archive"
			}
			p := plan(t, a, o)
			if _, err := p.Write(false); err != nil {
				t.Fatal(err)
			}
			c, err := config.Load(filepath.Join(dir, ConfigFile))
			if err != nil {
				t.Fatal(err)
			}
			if c.Orthanc.URL != a.URL || c.Orthanc.Password.Reveal() != "geheim" || len(c.Server.HookToken.Reveal()) != 64 || c.Forwarding.Enabled ||
				len(c.Warnings) > 0 || len(c.Destinations) != len(a.Peers) || c.Publish.Metadata != p.Numbers {
				t.Errorf("loaded as\n%s%v", c, c.Warnings)
			}
			for _, d := range c.Destinations {
				if _, known := a.Peers[d.Peer]; !known {
					t.Errorf("destination %s names the unknown peer %q", d.Name, d.Peer)
				}
			}
			if listen := map[bool]string{true: ":8081", false: "127.0.0.1:8081"}[name == "far away"]; c.Server.Listen != listen {
				t.Errorf("listens on %s", c.Server.Listen)
			}
			checkCompose(t, p)
			checkModes(t, dir)
		})
	}
}

// checkCompose: the file is YAML, and each of its JSON values says what orthanc-additions.json says.
func checkCompose(t *testing.T, p *Plan) {
	t.Helper()
	var file struct {
		Services map[string]struct {
			Environment map[string]string
			Volumes     []string
			Secrets     []string
		}
		Secrets map[string]map[string]string
	}
	text := must[string](t)(p.Compose())
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	service := file.Services["orthanc"]
	for key, want := range p.Additions() {
		if key == "LuaScripts" {
			want = []string{containerHook}
		}
		var got any
		if err := json.Unmarshal([]byte(service.Environment[EnvName(key)]), &got); err != nil {
			t.Fatalf("%s: %v\n%s", key, err, text)
		}
		a, b := must[string](t)(encode(got, "")), must[string](t)(encode(want, ""))
		if a != b {
			t.Errorf("%s is %s, want %s", EnvName(key), a, b)
		}
	}
	if service.Environment["IMAGING_ROUTER_URL"] != p.RouterURL || len(service.Volumes) != 1 || file.Secrets[TokenFile]["file"] != p.Options.Dir+"/"+TokenFile {
		t.Errorf("the compose file is incomplete:\n%s", text)
	}
}

func checkModes(t *testing.T, dir string) {
	t.Helper()
	for name, mode := range map[string]os.FileMode{TokenFile: 0o600, ConfigFile: 0o644, HookFile: 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&^mode != 0 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	dir := t.TempDir()
	p := plan(t, archive(), Options{Dir: dir})
	if err := os.WriteFile(filepath.Join(dir, ConfigFile), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(false); err == nil || !strings.Contains(err.Error(), "config.yaml is there already") {
		t.Fatalf("error %v", err)
	}
	if entries := must[[]os.DirEntry](t)(os.ReadDir(dir)); len(entries) != 1 {
		t.Errorf("it wrote something all the same: %v", entries)
	}
	if _, err := p.Write(true); err != nil {
		t.Fatal(err)
	}
	if old := must[[]byte](t)(os.ReadFile(filepath.Join(dir, ConfigFile+".old"))); string(old) != "mine" {
		t.Errorf("the old configuration is %q", old)
	}
	token := must[[]byte](t)(os.ReadFile(filepath.Join(dir, TokenFile)))
	if _, err := p.Write(true); err != nil {
		t.Fatal(err)
	}
	if again := must[[]byte](t)(os.ReadFile(filepath.Join(dir, TokenFile))); string(again) != string(token) {
		t.Error("the token was replaced: Orthanc's hook would be refused from now on")
	}
}

func TestRouterAddress(t *testing.T) {
	for _, bad := range []string{"router:8081", "ftp://x", "http://", "http://x/path", "http://u:p@x", "http://x?q"} {
		if _, err := NewPlan(archive(), Options{Dir: "/d", RouterURL: bad}); err == nil || !strings.Contains(err.Error(), "--router must look like") {
			t.Errorf("%s: error %v", bad, err)
		}
	}
	p := plan(t, archive(), Options{RouterURL: "https://router.example/"})
	if p.RouterURL != "https://router.example" || p.Listen != ":8081" {
		t.Errorf("%s, listens on %s", p.RouterURL, p.Listen)
	}
}

func TestHookSettings(t *testing.T) {
	p := plan(t, archive(), Options{Dir: `/srv/it's\here`})
	text := must[string](t)(p.Hook())
	for _, want := range []string{`  url = 'http://127.0.0.1:8081',`, `  token_file = '/srv/it\'s\\here/hook_token',`, `  token = '',`} {
		if !strings.Contains(text, want) {
			t.Errorf("the hook lacks %s", want)
		}
	}
}

func TestCopies(t *testing.T) {
	if got := plan(t, archive(), Options{}).Copies(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	got := plan(t, archive(), Options{Dir: "/srv/a b", HookPath: "/etc/orthanc/h.lua", TokenPath: "/etc/it's"}).Copies()
	want := []string{
		"install -m 0644 '/srv/a b/on-stored-instance.lua' /etc/orthanc/h.lua",
		`install -o orthanc -g orthanc -m 0400 '/srv/a b/hook_token' '/etc/it'\''s'`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}

// An account that may see /system and little else, as lua/router-rights.lua makes one.
func TestLookWithFewRights(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/system" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(`{"Version":"1.13.0","HasLabels":true}`))
	}))
	defer server.Close()
	a := must[Archive](t)(Look(t.Context(), must[*orthanc.Client](t)(orthanc.New(orthanc.Options{URL: server.URL})), true))
	a.URL, a.Username = server.URL, "router"
	if says := findings(plan(t, a, Options{})); !strings.Contains(says, "may not look at Orthanc's peers, modalities, plugins") || strings.Contains(says, "no peers") {
		t.Errorf("it says\n%s", says)
	}
}

// What an Orthanc of another kind answers, and what no Orthanc answers.
func TestLookRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		says   string
	}{
		"old":        {200, `{"Version":"1.11.3"}`, "this is Orthanc 1.11.3, which has no labels"},
		"no labels":  {200, `{"Version":"1.12.4","HasLabels":false,"DatabaseBackendPlugin":"/usr/lib/odbc.so"}`, "cannot store labels"},
		"other JSON": {200, `{"name":"something"}`, "not an Orthanc"},
		"a page":     {200, `<html>`, "does not answer like an Orthanc"},
		"no path":    {404, ``, "there is no Orthanc at this address"},
		"account":    {401, ``, "the account is refused: compare --username"},
		"redirect":   {302, ``, "there is no Orthanc at this address"},
		"proxy":      {502, ``, "no answer: is Orthanc running"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer server.Close()
			client := must[*orthanc.Client](t)(orthanc.New(orthanc.Options{URL: server.URL}))
			if _, err := Look(t.Context(), client, false); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}
