package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzParse: whatever the file holds, the answer is a configuration that prints as one, or an error; never a panic.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(files, filepath.Join("..", "..", "config.example.yaml")) {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		c, err := parse("fuzz.yaml", content, nil, false)
		if err != nil {
			checkFaults(t, err)
			return
		}
		if _, err := parse("again.yaml", []byte(c.String()), nil, false); err != nil {
			t.Errorf("%q was accepted, and its dump is not: %v\n%s", content, err, c)
		}
	})
}

// checkFaults wants each fault of a configuration to name the file and to say something.
func checkFaults(t *testing.T, err error) {
	t.Helper()
	faults := []error{err}
	for len(faults) > 0 {
		one := faults[0]
		faults = faults[1:]
		if joined, ok := one.(interface{ Unwrap() []error }); ok {
			faults = append(faults, joined.Unwrap()...)
			continue
		}
		if at, message, ok := strings.Cut(one.Error(), ": "); !ok || !strings.HasPrefix(at, "fuzz.yaml") || strings.TrimSpace(message) == "" {
			t.Errorf("a fault without a place or a text: %q", one)
		}
	}
}

// FuzzSecret writes a password where people write one by mistake: into an address, into a key that asks for a file, under a wrong key of the right
// section. Neither an error nor what a running router prints of its configuration may repeat it.
func FuzzSecret(f *testing.F) {
	f.Add("hunter2hunter2")
	f.Add("p@ss:word/ ?#%41%zz[::1]")
	f.Add("\"\\\n\t\x7f{}[]")
	f.Fuzz(func(t *testing.T, secret string) {
		if len(secret) < 10 || strings.TrimSpace(secret) != secret || !utf8.ValidString(secret) {
			return
		}
		secret = "QZX" + secret
		for _, content := range []any{
			map[string]any{"orthanc": map[string]any{"url": "http://router:" + secret + "@orthanc:8042"}},
			map[string]any{"orthanc": map[string]any{"url": "ttp://router:" + secret + "@orthanc"}},
			map[string]any{"orthanc": map[string]any{"url": "http://" + secret + "@orthanc:port"}},
			map[string]any{"orthanc": map[string]any{"password": secret}},
			map[string]any{"server": map[string]any{"hook_token": secret}},
			map[string]any{"destinations": []any{map[string]any{"name": "d", "webhook": map[string]any{"url": "https://u:" + secret + "@host/", "secret": secret}}}},
			map[string]any{"destinations": []any{map[string]any{"name": "d", "webhook": map[string]any{"url": "https://u:" + secret + "@host/"}}}},
			map[string]any{"destinations": []any{map[string]any{"name": "d", "webhook": map[string]any{"url": "ttps://u:" + secret + "@host/"}}}},
		} {
			text, err := json.Marshal(content) // which is YAML
			if err != nil {
				t.Fatal(err)
			}
			c, err := parse("fuzz.yaml", text, nil, false)
			var said string
			if err != nil {
				said = err.Error()
			} else {
				said = c.String() + fmt.Sprintf("%v %+v", *c, c.Destinations)
			}
			if strings.Contains(said, "QZX") {
				t.Errorf("%s: repeated: %s", strings.ReplaceAll(string(text), "QZX", "***"), said)
			}
		}
	})
}
