package config

import (
	"os"
	"path/filepath"
	"testing"
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
			if err.Error() == "" {
				t.Error("an error without a text")
			}
			return
		}
		if _, err := parse("again.yaml", []byte(c.String()), nil, false); err != nil {
			t.Errorf("%q was accepted, and its dump is not: %v\n%s", content, err, c)
		}
	})
}
