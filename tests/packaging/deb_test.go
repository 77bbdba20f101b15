package packaging

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

func repository(t *testing.T) string {
	t.Helper()
	root, err := orthanctest.Repository()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// need skips the test where a program is missing; in continuous integration it fails.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, errs.String())
	}
	return string(out)
}

// build makes the package as `make package` does, around the program under test.
func build(t *testing.T) string {
	t.Helper()
	need(t, "dpkg-deb", "dpkg")
	cmd := exec.CommandContext(t.Context(), "packaging/build-deb.sh", routertest.Binary(t), routertest.ONNXRuntime(t), t.TempDir())
	cmd.Dir = repository(t)
	cmd.Env = append(os.Environ(), "VERSION=v1.2.3-4-gabc")
	return strings.TrimSpace(output(t, cmd))
}

// The package holds all that the program needs, and the program finds it without a configuration.
func TestDebianPackage(t *testing.T) {
	deb := build(t)
	if !strings.Contains(filepath.Base(deb), "imaging-router_1.2.3+4+gabc_") {
		t.Errorf("it is called %s", deb)
	}
	for field, want := range map[string]string{"Depends": `libc6 \(>= 2\.\d+\).* libgdcm-tools`, "Version": `^1\.2\.3\+4\+gabc\n$`} {
		if got := output(t, exec.CommandContext(t.Context(), "dpkg-deb", "--field", deb, field)); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s is %q, want %s", field, got, want)
		}
	}
	if got := output(t, exec.CommandContext(t.Context(), "dpkg-deb", "--info", deb, "conffiles")); got != "/etc/imaging-router/config.yaml\n" {
		t.Errorf("the configuration files are %q", got)
	}
	root := t.TempDir()
	output(t, exec.CommandContext(t.Context(), "dpkg-deb", "--extract", deb, root))
	for path, mode := range map[string]os.FileMode{
		"etc/imaging-router/config.yaml": 0o640, "usr/lib/systemd/system/imaging-router.service": 0o644, "usr/bin/imaging-router": 0o755,
		"usr/share/imaging-router/lua/on-stored-instance.lua": 0o644, "usr/share/doc/imaging-router/copyright": 0o644,
		"usr/share/doc/imaging-router/operations.md": 0o644,
	} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}
	p := program{path: filepath.Join(root, "usr/bin/imaging-router"), dir: t.TempDir()}
	if out := p.ok(t, "version"); !strings.Contains(out, "usr/lib/imaging-router/libonnxruntime.so.1") && !strings.Contains(out, "ONNX Runtime") {
		t.Errorf("version says %s", out)
	}
	picture := filepath.Join(p.dir, "spine.dcm")
	if err := os.WriteFile(picture, dicom(t, phantom.Options{Class: "spine", Window: true}), 0o600); err != nil {
		t.Fatal(err)
	}
	var result struct {
		Class string
		Model string
		Error string
	}
	if err := json.Unmarshal([]byte(p.ok(t, "classify", "--format", "json", picture)), &result); err != nil || result.Class == "" || result.Model == "" || result.Error != "" {
		t.Errorf("classified as %+v, %v", result, err)
	}
	// The packaged configuration is whole once the secrets are there.
	text, err := os.ReadFile(filepath.Join(root, "etc/imaging-router/config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	etc := filepath.Join(root, "etc/imaging-router")
	here := strings.ReplaceAll(string(text), "/etc/imaging-router/", etc+"/")
	for _, secret := range []string{"hook_token", "orthanc_password"} {
		if !strings.Contains(here, etc+"/"+secret) {
			t.Errorf("the configuration does not name %s", secret)
		}
		write(t, filepath.Join(etc, secret), strings.Repeat("x", 64)+"\n")
	}
	stdout, _, _ := p.run(t, "--config", write(t, filepath.Join(p.dir, "config.yaml"), here), "check")
	for _, want := range []string{"ok     configuration", "ok     model"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("check does not say %q:\n%s", want, stdout)
		}
	}
}

// dpkg itself installs, updates, removes and purges the package in a root of its own.
func TestDebianPackageLife(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("dpkg wants root for maintainer scripts that make users")
	}
	need(t, "useradd", "awk", "od")
	deb, root := build(t), t.TempDir()
	for _, folder := range []string{"var/lib/dpkg/updates", "var/lib/dpkg/info", "etc", "var/lib/imaging-router"} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, content := range map[string]string{
		"var/lib/dpkg/status": "", "etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/shadow": "", "etc/gshadow": "",
		"etc/login.defs": "SYS_UID_MIN 100\nSYS_UID_MAX 999\nSYS_GID_MIN 100\nSYS_GID_MAX 999\n",
	} {
		write(t, filepath.Join(root, file), content)
	}
	dpkg := func(arguments ...string) {
		t.Helper()
		// Its dependencies are not in this root, and its scripts work on the root from outside (DPKG_ROOT).
		output(t, exec.CommandContext(t.Context(), "dpkg", append([]string{"--root=" + root, "--force-depends", "--force-script-chrootless"}, arguments...)...))
	}
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	dpkg("--install", deb)
	token := read("etc/imaging-router/hook_token")
	if !regexp.MustCompile(`^[0-9a-f]{64}\n$`).MatchString(token) {
		t.Errorf("the token is %q", token)
	}
	if info, err := os.Stat(filepath.Join(root, "etc/imaging-router/hook_token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v %v", info, err)
	}
	group := regexp.MustCompile(`(?m)^imaging-router:[^:]*:(\d+):`).FindStringSubmatch(read("etc/group"))
	if group == nil || !strings.Contains(read("etc/passwd"), "imaging-router:") {
		t.Fatalf("no user was made: %s%s", read("etc/passwd"), read("etc/group"))
	}
	owner := strings.TrimSpace(output(t, exec.CommandContext(t.Context(), "stat", "--format=%u:%g %a", filepath.Join(root, "etc/imaging-router/config.yaml"))))
	if owner != "0:"+group[1]+" 640" {
		t.Errorf("config.yaml belongs to %s, the group is %s", owner, group[1])
	}

	// A new package asks nobody and keeps what the site wrote.
	write(t, filepath.Join(root, "etc/imaging-router/config.yaml"), "orthanc: {url: http://localhost:8042}\n")
	write(t, filepath.Join(root, "var/lib/imaging-router/router.db"), "the database")
	dpkg("--force-confold", "--install", deb)
	if read("etc/imaging-router/hook_token") != token || !strings.HasPrefix(read("etc/imaging-router/config.yaml"), "orthanc: {url") {
		t.Error("an update replaced the token or the configuration")
	}
	dpkg("--remove", "imaging-router")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/imaging-router")); err == nil {
		t.Error("the program is still there")
	}
	if read("var/lib/imaging-router/router.db") != "the database" || read("etc/imaging-router/hook_token") != token {
		t.Error("remove took what only purge takes")
	}
	dpkg("--purge", "imaging-router")
	for _, path := range []string{"etc/imaging-router", "var/lib/imaging-router"} {
		if _, err := os.Stat(filepath.Join(root, path)); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}

// systemd itself reads the unit, and says how far it is closed in (0 = shut, 10 = open).
func TestUnit(t *testing.T) {
	need(t, "systemd-analyze")
	unit, err := os.ReadFile(filepath.Join(repository(t), "packaging", "imaging-router.service"))
	if err != nil {
		t.Fatal(err)
	}
	// The program is not installed here: another path stands for it, so that systemd has nothing to complain of.
	here := strings.ReplaceAll(string(unit), "/usr/bin/imaging-router", routertest.Binary(t))
	path := write(t, filepath.Join(t.TempDir(), "imaging-router.service"), here)
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", path).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "imaging-router") {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	if err != nil {
		t.Errorf("systemd-analyze verify: %v", err)
	}
	out, err = exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", path).CombinedOutput()
	found := regexp.MustCompile(`exposure level for \S+: ([0-9.]+)`).FindSubmatch(out)
	if err != nil || found == nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	if level, err := strconv.ParseFloat(string(found[1]), 64); err != nil || level > 2 {
		t.Errorf("exposure level %s, more than 2", found[1])
	}
}
