package picture

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imagingrouter/sidecar/phantom"
)

// Every real file, the deliberately broken ones among them, ends in a picture or in a reason, soon and without a panic.
func TestReadSharedDICOM(t *testing.T) {
	root := shared(t, "dicom")
	reader := NewReader(Options{})
	outcomes := map[string]int{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Dir(path) == root {
			return err
		}
		file, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		start := time.Now()
		p, err := reader.Read(t.Context(), file)
		if took := time.Since(start); took > DefaultChildTimeout+5*time.Second {
			t.Errorf("%s took %v", path, took)
		}
		outcome := checkShared(t, path, p, err)
		outcomes[outcome]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("outcomes: %v", outcomes)
	if outcomes["picture"] < 200 || outcomes[string(NotAPicture)] < 100 {
		t.Errorf("too few were read: %v", outcomes)
	}
}

func checkShared(t *testing.T, path string, p *Picture, err error) string {
	t.Helper()
	var failed *Error
	switch {
	case errors.As(err, &failed):
		if failed.Reason == "" || failed.Temporary || strings.Contains(failed.Reason, "broke the reader") {
			t.Errorf("%s: %v (temporary: %v)", path, failed, failed.Temporary)
		}
		return string(failed.Kind)
	case err != nil:
		t.Errorf("%s: %T is no *Error", path, err)
		return "wrong error"
	}
	if len(p.Pixels) != p.Width*p.Height || p.Width == 0 {
		t.Errorf("%s: %d values for %d × %d", path, len(p.Pixels), p.Width, p.Height)
	}
	for _, y := range p.Pixels {
		if !(y >= 0 && y <= 1) {
			t.Errorf("%s: a pixel is %v", path, y)
			break
		}
	}
	for _, v := range p.Tensor(Spec{Size: 32, Normalisation: PerImage}) {
		if !finite(float64(v)) {
			t.Errorf("%s: the tensor holds %v", path, v)
			break
		}
	}
	if p.Blank {
		return "blank"
	}
	return "picture"
}

// Go and Python make the same input of the same file: what the network was taught is what it is shown.
func TestParityWithPython(t *testing.T) {
	shared(t, "data") // where that is absent there is nothing to compare
	python := needPython(t)
	files := append(sharedXRays(t), wrappedXRays(t, 40)...)
	compared := sameAsPython(t, python, files, uncompressed(t, files), 0.01)
	if compared < 55 {
		t.Errorf("only %d of %d files were compared", compared, len(files))
	}
}

// The same of what no real file at hand has: drawn ones.
func TestParityWithPythonOfDrawnFiles(t *testing.T) {
	python := needPython(t)
	files := drawnFiles(t)
	if compared := sameAsPython(t, python, files, files, 0.0005); compared != len(files) {
		t.Errorf("only %d of %d files were compared", compared, len(files))
	}
}

// sameAsPython reads files in Go and in Python, where they may be other ones of the same content, and returns how many both read. The
// tensors may differ by most on average.
func sameAsPython(t *testing.T, python string, files, theirs []string, most float64) (compared int) {
	t.Helper()
	lines, tensors := pythonTensors(t, python, theirs)
	reader, spec := NewReader(Options{}), Spec{Size: 160, Normalisation: PerImage}
	worst, sum := 0.0, 0.0
	for i, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p, err := reader.Read(t.Context(), content)
		if lines[i].Error != nil {
			if err == nil {
				t.Errorf("%s: Go reads it, Python does not: %s", path, *lines[i].Error)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: Python reads it, Go does not: %v", path, err)
			continue
		}
		if lines[i].Width != p.Width || lines[i].Height != p.Height || lines[i].Blank != p.Blank {
			t.Errorf("%s: Python has %+v, Go %d × %d, blank %v", path, lines[i], p.Width, p.Height, p.Blank)
		}
		difference := 0.0
		for j, v := range p.Tensor(spec) {
			difference += math.Abs(float64(v - tensors[i][j]))
		}
		difference /= float64(spec.Size * spec.Size)
		if difference >= most {
			t.Errorf("%s: mean absolute difference %.5f", path, difference)
		}
		compared++
		worst, sum = max(worst, difference), sum+difference
	}
	t.Logf("%d files compared, mean absolute difference %.2g on average, %.2g at worst", compared, sum/float64(compared), worst)
	return compared
}

// sharedXRays returns the CR and DX files of the corpus.
func sharedXRays(t *testing.T) []string {
	t.Helper()
	root := shared(t, "dicom")
	var files []string
	for _, row := range readCSV(t, filepath.Join(root, "index.csv")) {
		if row["modality"] == "CR" || row["modality"] == "DX" {
			files = append(files, filepath.Join(root, row["file"]))
		}
	}
	return files
}

// uncompressed returns the files with those that Python leaves to others decompressed by gdcmconv: the whole file, where the reader
// gives gdcmconv the pixels only.
func uncompressed(t *testing.T, files []string) []string {
	t.Helper()
	program, dir := needGDCM(t), t.TempDir()
	out := slices.Clone(files)
	for i, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		d, err := open(content, DefaultMaxOutput, free)
		if err != nil || !d.elements[pixelDataTag].encapsulated || d.syntax == jpegBaseline {
			continue
		}
		raw := filepath.Join(dir, fmt.Sprintf("%d.dcm", i))
		if exec.Command(program, "--raw", path, raw).Run() == nil {
			out[i] = raw
		}
	}
	return out
}

// wrappedXRays writes n real X-rays of the test split into DX files, in turn with 16 and 12 bits, both polarities, with and without
// a window.
func wrappedXRays(t *testing.T, n int) []string {
	t.Helper()
	root := shared(t, "data")
	rows := slices.DeleteFunc(readCSV(t, filepath.Join(root, "manifest.csv")), func(r map[string]string) bool { return r["split"] != "test" })
	dir := t.TempDir()
	var files []string
	for i := range n {
		file, err := os.ReadFile(filepath.Join(root, rows[i*len(rows)/n]["file"]))
		if err != nil {
			t.Fatal(err)
		}
		img, _, err := image.Decode(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		var dx bytes.Buffer
		bits := []int{16, 16, 16, 12}[i%4]
		if _, err := phantom.Write(&dx, phantom.Options{Picture: img, Bits: bits, Monochrome1: i%2 == 0, Window: i%3 == 0}); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, fmt.Sprintf("%d.dcm", i))
		if err := os.WriteFile(path, dx.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	return files
}

func readCSV(t *testing.T, path string) []map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	rows := make([]map[string]string, 0, len(all))
	for _, values := range all[1:] {
		row := map[string]string{}
		for i, v := range values {
			row[all[0][i]] = v
		}
		rows = append(rows, row)
	}
	return rows
}

// needPython skips without a Python that can run the reference, and fails without it where nothing may be skipped.
func needPython(t *testing.T) string {
	t.Helper()
	for _, python := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(python, "-c", "import numpy, pydicom, PIL").Run() == nil {
			return python
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no python3 with numpy, pydicom and PIL (apt install python3-numpy python3-pydicom python3-pil)")
	}
	t.Skip("skipped: no python3 with numpy, pydicom and PIL (apt install python3-numpy python3-pydicom python3-pil)")
	return ""
}

type pythonLine struct {
	File          string  `json:"file"`
	Width, Height int     //nolint:tagliatelle // names of the reference
	Blank         bool    `json:"blank"`
	Error         *string `json:"error"`
}

func pythonTensors(t *testing.T, python string, files []string) ([]pythonLine, [][]float32) {
	t.Helper()
	training, err := filepath.Abs(filepath.Join("..", "..", "..", "models", "training"))
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	arguments := append([]string{"-m", "bodypart_training", "picture", "--size", "160", "--normalisation", "per_image", "--pad", "0", "--out", out}, files...)
	command := exec.CommandContext(ctx, python, arguments...)
	command.Env = append(os.Environ(), "PYTHONPATH="+training)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	stdout, err := command.Output()
	if err != nil {
		t.Fatalf("run the Python reference: %v: %s", err, stderr.String())
	}
	var lines []pythonLine
	for decoder := json.NewDecoder(bytes.NewReader(stdout)); decoder.More(); {
		var line pythonLine
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	if len(lines) != len(files) {
		t.Fatalf("Python wrote %d lines for %d files", len(lines), len(files))
	}
	tensors := make([][]float32, len(files))
	for i, line := range lines {
		if line.Error != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(out, fmt.Sprintf("%d.f32", i)))
		if err != nil || len(raw) != 160*160*4 {
			t.Fatalf("%s: %d bytes: %v", line.File, len(raw), err)
		}
		for ; len(raw) > 0; raw = raw[4:] {
			tensors[i] = append(tensors[i], math.Float32frombits(binary.LittleEndian.Uint32(raw)))
		}
	}
	return lines, tensors
}
