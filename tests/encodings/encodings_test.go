package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imagingrouter/tests/orthanctest"
)

// Every picture of the corpora is what pydicom and Orthanc make of the file, or the difference is known and explained; and docs/encodings.md
// says what was measured.
func TestEncodings(t *testing.T) {
	shared, err := sharedDICOM()
	if err != nil {
		t.Fatal(err)
	}
	if shared == "" {
		t.Skip("skipped: ../shared/dicom is not there (IMAGINGROUTER_SHARED names another place)")
	}
	if lack := missing(t.Context()); lack != "" {
		if os.Getenv("CI") == "true" {
			t.Fatal(lack)
		}
		t.Skip("skipped: " + lack)
	}
	fresh, unexplained, err := report(t.Context(), shared)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range unexplained {
		t.Error(line)
	}
	root, err := orthanctest.Repository()
	if err != nil {
		t.Fatal(err)
	}
	committed, err := os.ReadFile(filepath.Join(root, "docs", "encodings.md"))
	if err != nil {
		t.Fatal(err)
	}
	differences := compareDocuments(string(committed), fresh)
	if len(differences) == 0 {
		return
	}
	text := "docs/encodings.md is not what was measured; run `make encodings`:\n" + strings.Join(differences, "\n")
	// With other versions of the references, other files may be readable by them.
	if measuredWith(string(committed)) != measuredWith(fresh) {
		t.Log(text)
		return
	}
	t.Error(text)
}

// measuredWith returns the document's line about the programs it was measured with.
func measuredWith(document string) string {
	for line := range strings.Lines(document) {
		if strings.HasPrefix(line, "Programs: ") {
			return line
		}
	}
	return ""
}

// compareDocuments returns the lines that only one of the two has.
func compareDocuments(committed, fresh string) []string {
	var lines []string
	for _, side := range []struct{ sign, has, lacks string }{{"-", committed, fresh}, {"+", fresh, committed}} {
		other := map[string]bool{}
		for line := range strings.Lines(side.lacks) {
			other[line] = true
		}
		for line := range strings.Lines(side.has) {
			if !other[line] {
				lines = append(lines, side.sign+" "+strings.TrimSuffix(line, "\n"))
			}
		}
	}
	return lines
}
