package docs

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// instance is the identifier that the documents use.
const instance = "4165f4f4-d4d56c1c-0b4d3ae3-2ee2bd62-5c0cf2f3"

// idle starts a router whose Orthanc is not there, with one instance marked as due.
func idle(t *testing.T) *routertest.Router {
	t.Helper()
	orthanctest.Require(t, "")
	r := routertest.New(t, routertest.Config{Token: "a-token-of-the-test", Settings: routertest.Settings{
		"orthanc":      routertest.Settings{"url": "http://127.0.0.1:1"},
		"destinations": []any{map[string]any{"name": "chest-ai"}, map[string]any{"name": "spine-ai"}},
	}})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Hook(t.Context(), instance); err != nil {
		t.Fatal(err)
	}
	return r
}

// commands returns the lines of the documents' shell blocks, continued ones joined, without comments.
func commands(t *testing.T) []block {
	t.Helper()
	var list []block
	for _, b := range all(t, "sh") {
		out, err := exec.CommandContext(t.Context(), "bash", "-n", "-c", b.text).CombinedOutput()
		if err != nil {
			t.Errorf("%s:%d: %v\n%s", b.file, b.line, err, out)
		}
		text := strings.ReplaceAll(b.text, "\\\n", " ")
		for line := range strings.Lines(text) {
			line, _, _ = strings.Cut(line, "  #")
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				list = append(list, block{file: b.file, line: b.line, text: line})
			}
		}
	}
	return list
}

// Every command names a program that we know; those of the repository exist; make has the target.
func TestCommandsExist(t *testing.T) {
	system := []string{"git", "cd", "docker", "apt", "systemctl", "journalctl", "install", "rm", "openssl", "sqlite3", "imaging-router", "make", "systemd-analyze", "chmod", "cp", "curl"}
	target := regexp.MustCompile(`(?m)^([a-z-]+):`)
	var targets []string
	for _, m := range target.FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets = append(targets, m[1])
	}
	for _, c := range commands(t) {
		for _, part := range regexp.MustCompile(`&&|\|`).Split(c.text, -1) {
			words := strings.Fields(part)
			if strings.Contains(c.text, "sqlite3") || len(words) == 0 { // quoted SQL; it is run below
				continue
			}
			switch {
			case strings.Contains(words[0], "/"):
				if info, err := os.Stat(filepath.Join(repository(t), words[0])); err != nil || info.Mode()&0o111 == 0 {
					t.Errorf("%s:%d: %s cannot be run: %v", c.file, c.line, words[0], err)
				}
			case !slices.Contains(system, words[0]):
				t.Errorf("%s:%d: what is %s?", c.file, c.line, words[0])
			case words[0] == "make":
				for _, w := range words[1:] {
					if !strings.Contains(w, "=") && !slices.Contains(targets, w) {
						t.Errorf("%s:%d: make has no target %s", c.file, c.line, w)
					}
				}
			}
		}
	}
}

var inline = regexp.MustCompile("`(?:docker compose exec [a-z-]+ |docker compose run --rm )?(imaging-router [^`]+)`")

// Sub-commands and flags of imaging-router exist wherever a document writes them, in blocks and within a sentence.
func TestSubCommandsAndFlags(t *testing.T) {
	binary := routertest.Binary(t)
	help := map[string]string{}
	ask := func(path ...string) string {
		name := strings.Join(path, " ")
		if _, known := help[name]; !known {
			var out bytes.Buffer
			cmd := exec.CommandContext(t.Context(), binary, append(slices.Clone(path), "--help")...)
			cmd.Stdout = &out
			if err := cmd.Run(); err != nil {
				t.Fatalf("%s --help: %v", name, err)
			}
			help[name] = out.String()
		}
		return help[name]
	}
	check := func(file, text string) {
		var path []string
		for _, w := range strings.Fields(text)[1:] {
			w = strings.TrimRight(w, ",;")
			switch {
			case strings.HasPrefix(w, "--"):
				flag, _, _ := strings.Cut(w, "=")
				if !regexp.MustCompile(`(?m)^\s+(-\w, )?` + regexp.QuoteMeta(flag) + `\b`).MatchString(ask(path...)) {
					t.Errorf("%s: %s: imaging-router %s has no flag %s", file, text, strings.Join(path, " "), flag)
				}
			case strings.Contains(ask(path...), "Available Commands:") && regexp.MustCompile(`^[a-z]+$`).MatchString(w):
				if !regexp.MustCompile(`(?m)^  ` + w + ` `).MatchString(ask(path...)) {
					t.Errorf("%s: %s: there is no command %q", file, text, w)
					return
				}
				path = append(path, w)
			}
		}
	}
	n := 0
	for _, c := range commands(t) {
		if at := strings.Index(c.text, "imaging-router "); at >= 0 && (at == 0 || strings.HasPrefix(c.text, "docker compose")) && !strings.Contains(c.text, "build imaging-router") {
			check(c.file, c.text[at:])
			n++
		}
	}
	for _, file := range documents(t) {
		_, text := split(t, file)
		for _, m := range inline.FindAllStringSubmatch(text, -1) {
			check(file, m[1])
			n++
		}
	}
	if n < 30 {
		t.Errorf("only %d commands were found", n)
	}
}

// The commands that look at, mark and brake are run, against a router that is there; so are those on its database.
func TestCommandsRun(t *testing.T) {
	r := idle(t)
	backups := t.TempDir()
	ran := map[string]int{}
	for _, c := range commands(t) {
		words := strings.Fields(c.text)
		if words[0] == "sqlite3" {
			if _, err := exec.LookPath("sqlite3"); err != nil && os.Getenv("CI") != "true" {
				continue
			}
			line := strings.NewReplacer("/var/lib/imaging-router/router.db", r.Database(), "/var/backups", backups).Replace(c.text)
			if out, err := exec.CommandContext(t.Context(), "bash", "-c", line).CombinedOutput(); err != nil || strings.Contains(string(out), "rror") {
				t.Errorf("%s:%d: %s: %v\n%s", c.file, c.line, c.text, err, out)
			}
			ran["sqlite3"]++
			continue
		}
		if words[0] != "imaging-router" || !slices.Contains([]string{"jobs", "deliveries", "forwarding", "healthcheck", "version"}, words[1]) || strings.Contains(c.text, "--config") {
			continue
		}
		line := strings.ReplaceAll(c.text, "http://127.0.0.1:8081", r.URL)
		out, err := exec.CommandContext(t.Context(), "bash", "-c", `set -f; eval "printf '%s\n' $1"`, "bash", strings.TrimPrefix(line, "imaging-router ")).Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Hook(t.Context(), instance); err != nil { // one of the commands above takes the instance out of the database
			t.Fatal(err)
		}
		stdout, stderr, status, err := r.Run(t.Context(), strings.Split(strings.TrimRight(string(out), "\n"), "\n")...)
		if err != nil || status != 0 {
			t.Errorf("%s:%d: %s: status %d %v\n%s%s", c.file, c.line, c.text, status, err, stdout, stderr)
		}
		ran[words[1]]++
	}
	for _, name := range []string{"jobs", "deliveries", "forwarding", "healthcheck", "sqlite3"} {
		if ran[name] == 0 {
			t.Errorf("no command of %s was run: %v", name, ran)
		}
	}
	for _, name := range []string{"imaging-router.db", "imaging-router-small.db"} {
		if info, err := os.Stat(filepath.Join(backups, name)); err != nil || info.Size() == 0 {
			t.Errorf("the backup %s: %v", name, err)
		}
	}
}
