// Package docs holds README.md and docs/ against the product: commands are run where that is harmless, and their flags looked up where
// it is not; configurations are loaded by the program; metrics, keys and links must exist.
//
// What is only parsed, because running it needs a machine of its own: make, git, docker, apt, systemctl and other programs of the system
// (the shell's own syntax check), Prometheus's scrape_configs and Compose files (YAML).
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

func TestMain(m *testing.M) { os.Exit(routertest.Main(m)) }

// block is one fenced block of a document.
type block struct {
	file, language, text string
	line                 int
}

func repository(t *testing.T) string {
	t.Helper()
	root, err := orthanctest.Repository()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository(t), path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documents returns the documents that users read, by their path in the repository.
func documents(t *testing.T) []string {
	t.Helper()
	root := repository(t)
	found, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	files := []string{"README.md"}
	for _, f := range found {
		files = append(files, filepath.Join("docs", filepath.Base(f)))
	}
	if len(files) < 6 {
		t.Fatalf("only %v", files)
	}
	return files
}

var fence = regexp.MustCompile("^( *)```([a-z]*)$")

// split returns a document's fenced blocks, without the indentation that a list gives them, and its text without them.
func split(t *testing.T, file string) (blocks []block, text string) {
	t.Helper()
	var b strings.Builder
	var open *block
	indent := ""
	for i, line := range strings.Split(read(t, file), "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil && open == nil:
			open, indent = &block{file: file, language: m[2], line: i + 1}, m[1]
		case m != nil:
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		default:
			b.WriteString(line + "\n")
		}
	}
	if open != nil {
		t.Errorf("%s:%d: the block does not end", file, open.line)
	}
	return blocks, b.String()
}

// all returns the blocks of one language from every document.
func all(t *testing.T, language string) []block {
	t.Helper()
	var list []block
	for _, file := range documents(t) {
		blocks, _ := split(t, file)
		for _, b := range blocks {
			if b.language == language {
				list = append(list, b)
			}
		}
	}
	if len(list) == 0 {
		t.Fatalf("no block of %s in any document", language)
	}
	return list
}

// Every block is of a kind that some test here knows.
func TestEveryBlockIsLookedAt(t *testing.T) {
	known := []string{"yaml", "json", "sh", "ini", "mermaid", ""} // the last two are pictures and output
	for _, file := range documents(t) {
		blocks, _ := split(t, file)
		for _, b := range blocks {
			if !slices.Contains(known, b.language) {
				t.Errorf("%s:%d: nobody tests blocks of %s", file, b.line, b.language)
			}
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notSlug = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// Links lead to files and headings that exist.
func TestLinks(t *testing.T) {
	for _, file := range documents(t) {
		_, text := split(t, file)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			path, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(filepath.Join(repository(t), target)); err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			if anchor == "" {
				continue
			}
			var slugs []string
			for _, h := range heading.FindAllStringSubmatch(read(t, target), -1) {
				slugs = append(slugs, strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
			}
			if !slices.Contains(slugs, anchor) {
				t.Errorf("%s: %s has no heading #%s", file, target, anchor)
			}
		}
	}
}

var (
	sections = regexp.MustCompile("(?m)^### `([a-z]+)`")
	key      = regexp.MustCompile("(?m)^\\| `([a-z_.\\[\\]]+)` \\|")
	dotted   = regexp.MustCompile("`([a-z]+)\\.([a-z_.]+)[:` ]")
)

// Keys of the configuration that a document mentions exist. docs/configuration.md, which names them all, is itself held against the
// code by a test of the package config.
func TestKeysExist(t *testing.T) {
	configuration := read(t, "docs/configuration.md")
	var names, keys []string
	for _, m := range sections.FindAllStringSubmatch(configuration, -1) {
		names = append(names, m[1])
	}
	for _, m := range key.FindAllStringSubmatch(configuration, -1) {
		keys = append(keys, strings.ReplaceAll(m[1], "[]", ""))
	}
	if len(names) < 10 || len(keys) < 40 {
		t.Fatalf("only %d sections and %d keys", len(names), len(keys))
	}
	looked := 0
	for _, file := range documents(t) {
		for _, m := range dotted.FindAllStringSubmatch(read(t, file), -1) {
			name := m[1] + "." + m[2]
			if !slices.Contains(names, m[1]) || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".onnx") || strings.HasSuffix(name, ".md") {
				continue
			}
			looked++
			if !slices.ContainsFunc(keys, func(k string) bool { return k == name || strings.HasPrefix(k, name+".") }) {
				t.Errorf("%s: there is no key %s", file, name)
			}
		}
	}
	if looked < 30 {
		t.Errorf("only %d keys were found in the documents", looked)
	}
}
