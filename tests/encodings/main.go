// Command encodings reads a corpus of real DICOM files with the router's picture stage, holds every picture against what pydicom and Orthanc
// make of the file, and writes docs/encodings.md. It ends with status 1 when a difference is not known.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"imagingrouter/tests/orthanctest"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "encodings:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	shared, err := sharedDICOM()
	if err != nil {
		return err
	}
	if shared == "" {
		return errors.New("the corpus ../shared/dicom is absent (IMAGINGROUTER_SHARED names another place)")
	}
	if lack := missing(ctx); lack != "" {
		return errors.New(lack)
	}
	text, unexplained, err := report(ctx, shared)
	if err != nil {
		return err
	}
	root, err := orthanctest.Repository()
	if err != nil {
		return err
	}
	target := filepath.Join(root, "docs", "encodings.md")
	if err := os.WriteFile(target, []byte(text), 0o644); err != nil { //nolint:gosec // a document
		return err
	}
	fmt.Println("written:", target)
	if len(unexplained) > 0 {
		return fmt.Errorf("%d differences are not known:\n%s", len(unexplained), strings.Join(unexplained, "\n"))
	}
	return nil
}

// report measures, and returns the document and what is wrong.
func report(ctx context.Context, shared string) (text string, unexplained []string, err error) {
	folder, err := os.MkdirTemp("", "encodings-")
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	entries, err := readCorpus(shared)
	if err != nil {
		return "", nil, err
	}
	b, err := measure(ctx, entries, folder)
	if err != nil {
		return "", nil, err
	}
	tools, err := b.versions(ctx)
	if err != nil {
		return "", nil, err
	}
	return b.document(tools), b.unexplained(), nil
}

var version = regexp.MustCompile(`[0-9]+(\.[0-9]+)+`)

// versions names the programs that the result depends on.
func (b *bench) versions(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, b.sub("reference"), "--decoders").Output() //nolint:gosec // our own program
	if err != nil {
		return "", fmt.Errorf("ask the decoders for their versions: %w", err)
	}
	var tools []string
	for line := range strings.Lines(string(out)) {
		name, says, _ := strings.Cut(line, " ")
		tools = append(tools, name+" "+version.FindString(says))
	}
	script := filepath.Join(b.root, "tests", "encodings", "reference.py")
	if out, err = exec.CommandContext(ctx, python, "-B", script, "--versions").Output(); err != nil { //nolint:gosec // our own script
		return "", fmt.Errorf("ask the reference for its versions: %w", err)
	}
	tools = append(tools, strings.TrimSpace(string(out)))
	for _, line := range orthanctest.Lines() {
		version, err := orthanctest.Find(line)
		if err != nil {
			return "", err
		}
		tools = append(tools, "Orthanc "+version)
	}
	return strings.Join(tools, ", "), nil
}
