package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/rules"
)

func repositoryFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestExampleLoads: the example names secrets that this machine does not have; everything else in it must hold.
func TestExampleLoads(t *testing.T) {
	c, err := LoadWithoutSecrets(filepath.Join("..", "..", "config.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Forwarding.Enabled {
		t.Error("the example forwards: a first installation must only label")
	}
	if len(c.Destinations) != 2 || c.Rules.Len() != 2 || len(c.Warnings) != 0 || c.Orthanc.PasswordFile == "" || c.Server.HookTokenFile == "" {
		t.Errorf("not the example that was meant:\n%s%v", c, c.Warnings)
	}
	got, err := c.Rules.Evaluate(t.Context(), rules.Context{Class: bodypart.AdultChest, Confidence: 0.9})
	if err != nil || len(got) != 1 || got[0].Destinations[0] != "chest-ai" {
		t.Errorf("an adult chest goes to %v", got)
	}
}

// TestExampleCommentsAreTheDefaults: with its comments removed, "# key: value" must be a key and its default.
func TestExampleCommentsAreTheDefaults(t *testing.T) {
	text := repositoryFile(t, "sidecar/config.example.yaml")
	commented := regexp.MustCompile(`(?m)^  # ([a-z_]+): (\S.*?)(   +#.*)?$`)
	found := commented.FindAllStringSubmatch(text, -1)
	if len(found) < 10 {
		t.Fatalf("%d commented keys", len(found))
	}
	c, err := parse("example", []byte(commented.ReplaceAllString(text, "  $1: $2")), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	// These two show a form instead of their empty default.
	if c.Orthanc.CAFile == "" || c.Model.Thresholds[bodypart.AdultChest] != 0.95 {
		t.Errorf("the forms were not read:\n%s", c)
	}
	d := Default()
	c.Orthanc.CAFile, c.Model.Thresholds = "", nil
	for name, pair := range map[string][2]any{
		"picture": {c.Picture, d.Picture}, "model": {c.Model, d.Model}, "review": {c.Review, d.Review},
		"publish": {c.Publish, d.Publish}, "forwarding": {c.Forwarding, d.Forwarding}, "database": {c.Database, d.Database},
		"timeout": {c.Orthanc.Timeout, d.Orthanc.Timeout}, "metrics": {c.Server.MetricsOpen, d.Server.MetricsOpen},
		"capture": {c.Intake.SecondaryCapture, d.Intake.SecondaryCapture},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: the example shows %+v, the default is %+v", name, pair[0], pair[1])
		}
	}
}

// TestDocumentNamesEveryKey holds docs/configuration.md against the struct: each key with its default, and no key too many.
func TestDocumentNamesEveryKey(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| `([a-z_.\\[\\]]+)` \\| (`[^|]*`|\\([a-z ]+\\)) \\| (.+) \\|$")
	documented := map[string]string{}
	text := repositoryFile(t, "docs/configuration.md")
	keysOnly := text[strings.Index(text, "## Keys"):strings.Index(text, "## Rules")]
	for _, m := range row.FindAllStringSubmatch(keysOnly, -1) {
		if _, twice := documented[m[1]]; twice {
			t.Errorf("%s is documented twice", m[1])
		}
		documented[m[1]] = m[2]
	}
	want := map[string]string{}
	walk(reflect.ValueOf(Default()).Elem(), "", func(path string, v reflect.Value) {
		if v.Kind() != reflect.Slice || v.Type().Elem().Kind() != reflect.Struct {
			want[path] = "`" + shown(v) + "`"
			return
		}
		element := reflect.New(v.Type().Elem())
		if d, ok := element.Interface().(interface{ setDefaults() }); ok {
			d.setDefaults()
		}
		walk(element.Elem(), path+"[]", func(path string, v reflect.Value) { want[path] = "`" + shown(v) + "`" })
	})
	for _, required := range []string{"destinations[].name", "rules[].name", "rules[].when", "rules[].to"} {
		want[required] = "(required)"
	}
	want["destinations[].peer"] = "(the name)"
	for key, value := range map[string]string{"level": "instance", "wait_at_most": "1h", "on_timeout": "send", "on_review": "hold"} { // filled in where rules are compiled
		want["rules[]."+key] = "`" + value + "`"
	}
	want["rules[].priority"] = "(of the order)"
	for key, value := range want {
		if got, ok := documented[key]; !ok {
			t.Errorf("docs/configuration.md does not name %s (default %s)", key, value)
		} else if got != value {
			t.Errorf("docs/configuration.md says the default of %s is %s, it is %s", key, got, value)
		}
	}
	for key := range documented {
		if _, ok := want[key]; !ok {
			t.Errorf("docs/configuration.md names %s, which does not exist", key)
		}
	}
}

// shown writes a default as the document does.
func shown(v reflect.Value) string {
	switch value := v.Interface().(type) {
	case time.Duration:
		return formatDuration(value)
	case string:
		if value == "" {
			return `""`
		}
		return value
	case Headers:
		return "{}"
	}
	switch v.Kind() {
	case reflect.Map:
		return "{}"
	case reflect.Slice:
		parts := make([]string, 0, v.Len())
		for i := range v.Len() {
			parts = append(parts, fmt.Sprint(v.Index(i).Interface()))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	default:
		return fmt.Sprint(v.Interface())
	}
}

// TestDocumentedRulesCompile: the examples in the document must be rules.
func TestDocumentedRulesCompile(t *testing.T) {
	text := repositoryFile(t, "docs/configuration.md")
	_, block, found := strings.Cut(text, "```yaml\nrules:")
	block, _, ended := strings.Cut(block, "```")
	if !found || !ended {
		t.Fatal("the document has no example of rules")
	}
	destinations := "destinations: [{name: chest-ai}, {name: spine-ai}, {name: research}, {name: reading-room}]\n"
	c, err := parse("document", []byte(destinations+"rules:"+block), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if c.Rules.Len() != 6 {
		t.Errorf("%d rules", c.Rules.Len())
	}
	got, err := c.Rules.Evaluate(t.Context(), rules.Context{Class: bodypart.Others, Confidence: 0.5, Review: true, Probabilities: map[bodypart.Class]float64{bodypart.Spine: 0.4}})
	if err != nil || len(got) != 1 || got[0].Destinations[0] != "reading-room" {
		t.Errorf("what might be a spine goes to %v", got)
	}
}
