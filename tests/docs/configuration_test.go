package docs

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"imagingrouter/tests/routertest"
)

// Blocks of JSON are JSON.
func TestJSON(t *testing.T) {
	for _, file := range documents(t) {
		blocks, _ := split(t, file)
		for _, b := range blocks {
			if b.language == "json" && !json.Valid([]byte(b.text)) {
				t.Errorf("%s:%d: not JSON", b.file, b.line)
			}
		}
	}
}

var secretPath = regexp.MustCompile(`/(run/secrets|etc/imaging-router)/[a-z_.]+`)

// Blocks of YAML with the router's keys are loaded by the program; rules of Prometheus are looked into; the rest is YAML.
func TestYAML(t *testing.T) {
	loaded, alerts := 0, 0
	for _, b := range all(t, "yaml") {
		where := fmt.Sprintf("%s:%d", b.file, b.line)
		var content map[string]any
		if err := yaml.Unmarshal([]byte(b.text), &content); err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		switch {
		case content["groups"] != nil:
			alerts += lookAtAlerts(t, where, b.text)
		case content["scrape_configs"] != nil, content["services"] != nil: // another program's
		default:
			loaded++
			load(t, where, b.text, content)
		}
	}
	if loaded < 2 || alerts < 5 {
		t.Errorf("%d configurations, %d alerts", loaded, alerts)
	}
}

// load has the program read a configuration. Destinations that only the rules name are added, and secrets are made.
func load(t *testing.T, where, text string, content map[string]any) {
	t.Helper()
	dir := t.TempDir()
	if content["destinations"] == nil && content["rules"] != nil {
		rules, ok := content["rules"].([]any)
		if !ok {
			t.Fatalf("%s: rules are no list", where)
		}
		var names []string
		for _, r := range rules {
			rule, ok := r.(map[string]any)
			if !ok {
				t.Fatalf("%s: a rule is no mapping", where)
			}
			to, ok := rule["to"].([]any)
			if !ok {
				t.Fatalf("%s: a rule leads nowhere", where)
			}
			for _, name := range to {
				if n := fmt.Sprint(name); !slices.Contains(names, n) {
					names = append(names, n)
				}
			}
		}
		text += "destinations:\n"
		for _, n := range names {
			text += "  - name: " + n + "\n"
		}
	}
	text = secretPath.ReplaceAllStringFunc(text, func(path string) string {
		secret := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(secret, []byte(strings.Repeat("x", 32)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return secret
	})
	if content["orthanc"] == nil {
		text += "orthanc: {url: \"http://127.0.0.1:1\"}\n" // nobody there: only the loading counts
	}
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), routertest.Binary(t), "--config", file, "check")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput() // it ends with 1: there is no Orthanc
	if !strings.HasPrefix(string(out), "ok     configuration") {
		t.Errorf("%s: %v\n%s", where, err, out)
	}
}

var (
	declared = []*regexp.Regexp{
		regexp.MustCompile(`(counter|histogram)\("([a-z_]+)",[^\n]*(?:\n[^\n]*\[\]float64[^\n]*)?`),
		regexp.MustCompile(`Namespace: namespace, (Name): "([a-z_]+)",[^\n]*(?:\n[^\n]*\[\]string[^\n]*)?`),
		regexp.MustCompile(`(NewDesc)\("imaging_router_([a-z_]+)",[^\n]*`),
	}
	word    = regexp.MustCompile(`"([a-z_0-9]+)"`)
	metric  = regexp.MustCompile(`\bimaging_router_([a-z_]+)\b`)
	matcher = regexp.MustCompile(`\bimaging_router_([a-z_]+)\{([^}]*)\}`)
	label   = regexp.MustCompile(`([a-z_]+)=~?"([^"]*)"`)
	states  = regexp.MustCompile(`(?:State|Delivery)\w+\s+(?:\w+State|State)\s*=\s*"([a-z_]+)"`)
	isState = []string{"state", "outcome"}
)

// metrics returns what the code declares: names without the prefix, and their labels.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	names := map[string][]string{}
	for _, file := range []string{"sidecar/internal/metrics/metrics.go", "sidecar/internal/web/gauges.go"} {
		text := read(t, file)
		for _, d := range declared {
			for _, m := range d.FindAllStringSubmatch(text, -1) {
				var labels []string
				for _, w := range word.FindAllStringSubmatch(m[0], -1) {
					labels = append(labels, w[1])
				}
				names[m[2]] = labels
			}
		}
	}
	if len(names) < 15 {
		t.Fatalf("only %d metrics were found in the code: %v", len(names), names)
	}
	return names
}

func base(name string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

// Metrics that a document names are declared in the code.
func TestMetricsExist(t *testing.T) {
	known := metrics(t)
	found := 0
	for _, file := range documents(t) {
		for _, m := range metric.FindAllStringSubmatch(read(t, file), -1) {
			found++
			if _, ok := known[base(m[1])]; !ok {
				t.Errorf("%s: there is no metric imaging_router_%s", file, m[1])
			}
		}
	}
	if found < 15 {
		t.Errorf("only %d metrics in the documents", found)
	}
}

// A running router serves the gauges without any picture, under the names of the code.
func TestMetricsAreServed(t *testing.T) {
	r := idle(t)
	served, err := r.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"queue_oldest_seconds", "follower_lag_seconds", "follower_resets_total", "forwarding", `instances{state="failed"}`, "stored_to_labelled_seconds_count"} {
		if _, ok := served["imaging_router_"+name]; !ok {
			t.Errorf("imaging_router_%s is not served", name)
		}
	}
}

// lookAtAlerts checks the form of each rule, and that labels and states in its expression exist. promtool checks the rest where it is.
func lookAtAlerts(t *testing.T, where, text string) int {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For string
				Labels           map[string]string
			}
		}
	}
	if err := yaml.UnmarshalWithOptions([]byte(text), &file, yaml.Strict()); err != nil {
		t.Errorf("%s: %v", where, err)
	}
	known := metrics(t)
	var stateNames []string
	for _, source := range []string{"instance.go", "delivery.go"} {
		for _, m := range states.FindAllStringSubmatch(read(t, "sidecar/internal/store/"+source), -1) {
			stateNames = append(stateNames, m[1])
		}
	}
	if len(stateNames) < 12 {
		t.Fatalf("only the states %v were found in the code", stateNames)
	}
	seen := map[string]bool{}
	n := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			n++
			if r.Alert == "" || seen[r.Alert] || r.Labels["severity"] == "" {
				t.Errorf("%s: alert %q has no name of its own, or no severity", where, r.Alert)
			}
			seen[r.Alert] = true
			if strings.Count(r.Expr, "(") != strings.Count(r.Expr, ")") || !metric.MatchString(r.Expr) && !strings.HasPrefix(r.Expr, "up{") {
				t.Errorf("%s: alert %s: %s", where, r.Alert, r.Expr)
			}
			for _, m := range matcher.FindAllStringSubmatch(r.Expr, -1) {
				for _, l := range label.FindAllStringSubmatch(m[2], -1) {
					if !slices.Contains(known[base(m[1])], l[1]) {
						t.Errorf("%s: alert %s: imaging_router_%s has no label %s (%v)", where, r.Alert, m[1], l[1], known[base(m[1])])
					}
					for _, value := range strings.Split(l[2], "|") {
						if slices.Contains(isState, l[1]) && !slices.Contains(stateNames, value) {
							t.Errorf("%s: alert %s: there is no state %s", where, r.Alert, value)
						}
					}
				}
			}
		}
	}
	if promtool, err := exec.LookPath("promtool"); err == nil {
		path := filepath.Join(t.TempDir(), "rules.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", path).CombinedOutput(); err != nil {
			t.Errorf("%s: promtool: %v\n%s", where, err, out)
		}
	}
	return n
}

// Drop-ins for the service are understood by systemd.
func TestDropIns(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	for _, b := range all(t, "ini") {
		dir := t.TempDir()
		unit := strings.ReplaceAll(read(t, "packaging/imaging-router.service"), "/usr/bin/imaging-router", routertest.Binary(t))
		for path, text := range map[string]string{"imaging-router.service": unit, "imaging-router.service.d/override.conf": b.text} {
			path = filepath.Join(dir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", filepath.Join(dir, "imaging-router.service"))
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
		out, err := cmd.CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "imaging-router") || strings.Contains(line, "override.conf") {
				t.Errorf("%s:%d: %s", b.file, b.line, line)
			}
		}
		if err != nil {
			t.Errorf("%s:%d: %v", b.file, b.line, err)
		}
	}
}
