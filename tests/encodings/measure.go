package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"imagingrouter/tests/orthanctest"
)

// seen is what the router's picture stage made of a file (sidecar/internal/picture/reference writes it).
type seen struct {
	N      int    `json:"n"`
	Kind   string `json:"kind"`   // of the refusal, "" for a picture
	Reason string `json:"reason"` // of the refusal
	Width  int    `json:"width"`
	Height int    `json:"height"`
	Blank  bool   `json:"blank"`
	Steps  []step `json:"steps"`
}

// step is picture.Step, which this package cannot import.
type step struct{ Name, Detail string } //nolint:tagliatelle // picture.Step has no tags

// decoder says who decoded the pixels.
func (s seen) decoder() string {
	for _, step := range s.Steps {
		if step.Name == "decode" {
			how, _, _ := strings.Cut(step.Detail, ",")
			return how
		}
	}
	return ""
}

// expected is what reference.py made of it.
type expected struct {
	N       int    `json:"n"`
	Error   string `json:"error"` // why the reference cannot read it, "" where it can
	Decoder string `json:"decoder"`
	Rows    int    `json:"rows"`
	Columns int    `json:"columns"`
	// Window is how it was shown: "window", "VOI LUT", "percentiles, …" or "flat".
	Window      string    `json:"window"`
	Ramp        []float64 `json:"ramp"`  // ends of the percentiles' ramp, in rescaled values
	Gain        float64   `json:"gain"`  // change of the shown picture, 0…1, per unit of rescaled value at its steepest
	Level       float64   `json:"level"` // one stored level in rescaled values
	Span        []float64 `json:"span"`  // what is black and white in the file of values
	Function    string    `json:"function"`
	ModalityLUT bool      `json:"modality_lut"`
	Inverse     bool      `json:"inverse"`  // Presentation LUT Shape INVERSE
	Colour      bool      `json:"colour"`   // three samples or a palette
	Depth       int       `json:"depth"`    // bits of a sample, or of a palette's entry
	Overlaid    []int     `json:"overlaid"` // grey pixels with something in the bits above those stored, by their index
	NoValues    string    `json:"no_values"`
}

// result is one file and all that became known of it.
type result struct {
	entry
	n        int
	ours     seen
	values   *seen // of the file of values, nil where there is none
	expected expected
	pydicom  verdict
	orthanc  map[string]verdict // by the version's line
}

// bench is a measurement's folder and its results.
type bench struct {
	folder  string // of temporary files
	root    string // of the repository
	results []*result
}

// python is Debian's interpreter, which has the modules that tests/prerequisites.sh asks apt for; another one in PATH may not.
const python = "/usr/bin/python3"

// missing says what this machine lacks, "" when it lacks nothing.
func missing(ctx context.Context) string {
	const packages = "apt install python3-pydicom python3-numpy python3-pil python3-gdcm openjph-tools"
	if out, err := exec.CommandContext(ctx, python, "-B", "-c", "import numpy, PIL, pydicom, gdcm").CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Sprintf("no python3 with pydicom, numpy, PIL and gdcm (%s): %s", packages, lines[len(lines)-1])
	}
	for _, program := range append([]string{"ojph_expand"}, programs...) {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Sprintf("no %s (%s libgdcm-tools libopenjp2-tools dcmtk)", program, packages)
		}
	}
	for _, line := range orthanctest.Lines() {
		if _, err := orthanctest.Find(line); err != nil {
			return err.Error()
		}
	}
	return ""
}

// measure reads every file with the router's picture stage and with the references, and compares.
func measure(ctx context.Context, entries []entry, folder string) (*bench, error) {
	root, err := orthanctest.Repository()
	if err != nil {
		return nil, err
	}
	b := &bench{folder: folder, root: root}
	for i, e := range entries {
		b.results = append(b.results, &result{entry: e, n: i, orthanc: map[string]verdict{}})
	}
	if err := b.readByReference(ctx); err != nil {
		return nil, err
	}
	if err := b.readByRouter(ctx); err != nil {
		return nil, err
	}
	for _, r := range b.results {
		if r.pydicom, err = b.againstPydicom(r); err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
	}
	for _, line := range orthanctest.Lines() {
		if err := b.againstOrthanc(ctx, line); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *bench) readByReference(ctx context.Context) error {
	script := filepath.Join(b.root, "tests", "encodings", "reference.py")
	paths := make([]string, 0, len(b.results))
	for _, r := range b.results {
		paths = append(paths, r.path)
	}
	return lines(ctx, paths, b.sub("expected"), func(e expected) { b.results[e.N].expected = e }, python, "-B", script)
}

func (b *bench) readByRouter(ctx context.Context) error {
	program := b.sub("reference")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./sidecar/internal/picture/reference") //nolint:gosec // into our own folder
	build.Dir = b.root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the picture stage: %w\n%s", err, out)
	}
	var paths, values []string
	var ofValues []*result
	for _, r := range b.results {
		paths = append(paths, r.path)
		if file := b.path("expected", r.n, "dcm"); exists(file) {
			values, ofValues = append(values, file), append(ofValues, r)
		}
	}
	if err := lines(ctx, paths, b.sub("ours"), func(s seen) { b.results[s.N].ours = s }, program); err != nil {
		return err
	}
	return lines(ctx, values, b.sub("values"), func(s seen) { ofValues[s.N].values = &s }, program)
}

// lines runs a program that reads paths, writes files into a folder, and says one line of JSON for each.
func lines[T any](ctx context.Context, paths []string, folder string, each func(T), command ...string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, command[0], append(command[1:], folder)...) //nolint:gosec // our own programs
	c.Stdin = strings.NewReader(strings.Join(paths, "\n") + "\n")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return fmt.Errorf("run %s: %w\n%s", strings.Join(command, " "), err, stderr.Bytes())
	}
	n := 0
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); n++ {
		var line T
		if err := decoder.Decode(&line); err != nil {
			return fmt.Errorf("line %d of %s: %w", n+1, command[len(command)-1], err)
		}
		each(line)
	}
	if n != len(paths) {
		return fmt.Errorf("%s said %d lines for %d files", strings.Join(command, " "), n, len(paths))
	}
	return nil
}

func (b *bench) sub(folder string) string { return filepath.Join(b.folder, folder) }

func (b *bench) path(folder string, n int, ending string) string {
	return filepath.Join(b.folder, folder, strconv.Itoa(n)+"."+ending)
}

func exists(path string) bool {
	_, err := os.Stat(path) //nolint:gosec // paths of this program and its user
	return !errors.Is(err, fs.ErrNotExist)
}

// floats reads a file of little-endian float32.
func floats(path string) ([]float32, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	v := make([]float32, len(raw)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return v, nil
}
