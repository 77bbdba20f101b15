package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/classifier"
	"imagingrouter/sidecar/phantom"
)

// put writes a file below dir and returns its path.
func put(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func drawn(t *testing.T, o phantom.Options) []byte {
	t.Helper()
	o.Rows, o.Columns = 320, 256
	var b bytes.Buffer
	if _, err := phantom.Write(&b, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func pngOf(t *testing.T, level func(x, y int) uint8) []byte {
	t.Helper()
	picture := image.NewGray(image.Rect(0, 0, 200, 150))
	for y := range 150 {
		for x := range 200 {
			picture.SetGray(x, y, color.Gray{Y: level(x, y)})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, picture); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// mixedFolder holds two X-rays, a blank plate, a broken file, a text, and what classify leaves out.
func mixedFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	spine := drawn(t, phantom.Options{Class: "spine"})
	put(t, dir, "a/spine.dcm", spine)
	put(t, dir, "b/shapes.png", pngOf(t, func(x, y int) uint8 { return uint8(x*y/150 + x) }))
	put(t, dir, "blank.png", pngOf(t, func(int, int) uint8 { return 80 }))
	put(t, dir, "broken.dcm", spine[:len(spine)/2])
	put(t, dir, "readme.txt", []byte("not a picture"))
	put(t, dir, ".hidden/x.dcm", spine)
	put(t, dir, ".DS_Store", []byte("x"))
	put(t, dir, "DICOMDIR", []byte("x"))
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func jsonLines(t *testing.T, text string) []fileResult {
	t.Helper()
	var list []fileResult
	for line := range strings.Lines(text) {
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		var r fileResult
		if err := decoder.Decode(&r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, r)
	}
	return list
}

func TestClassifyMixedFolder(t *testing.T) {
	model, dir := requireModel(t), mixedFolder(t)
	r := execute(t, t.TempDir(), nil, "classify", "--model", model, "--format", "json", dir)
	list := jsonLines(t, r.stdout)
	var names []string
	for _, l := range list {
		name, err := filepath.Rel(dir, l.File)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if want := []string{"a/spine.dcm", "b/shapes.png", "blank.png", "broken.dcm", "readme.txt"}; r.status != exitError || r.stderr != "" || !slices.Equal(names, want) {
		t.Fatalf("files %v, status %d, %s", names, r.status, r.stderr)
	}
	m, err := classifier.ReadModel(model)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list[:3] {
		sum := 0.0
		for _, p := range l.Probabilities {
			sum += p
		}
		if l.Error != "" || l.Model != m.ID() || len(l.Probabilities) != 5 || math.Abs(sum-1) > 1e-9 || *l.Confidence != l.Probabilities[l.Class] || *l.Review != (len(l.Reasons) > 0) {
			t.Errorf("%+v", l)
		}
	}
	if !slices.Contains(list[2].Reasons, bodypart.ReasonBlank) {
		t.Errorf("a blank plate is for review: %+v", list[2])
	}
	for i, want := range []string{"malformed: ", "malformed: neither DICOM, PNG nor JPEG"} {
		if l := list[3+i]; !strings.HasPrefix(l.Error, want) || l.Class != "" || l.Confidence != nil || l.Review != nil || l.Reasons != nil {
			t.Errorf("%+v, want error %q", l, want)
		}
	}
	// The fields stand in every line of a picture, also the empty list.
	first, _, _ := strings.Cut(r.stdout, "\n")
	for _, field := range []string{"file", "class", "confidence", "review", "reasons", "probabilities", "model"} {
		if !strings.Contains(first, `"`+field+`":`) {
			t.Errorf("%s is missing in %s", field, first)
		}
	}
}

func TestClassifyTableAndCSV(t *testing.T) {
	model, dir := requireModel(t), mixedFolder(t)
	r := execute(t, dir, nil, "classify", "-m", model, "blank.png", "a", "broken.dcm")
	lines := strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
	if r.status != exitError || len(lines) != 4 || lines[0] != "FILE         CLASS            CONFIDENCE  REVIEW" ||
		!strings.HasPrefix(lines[1], "blank.png    ") || !strings.Contains(lines[1], "blank") ||
		!strings.HasPrefix(lines[2], "a/spine.dcm  ") || !strings.HasPrefix(lines[3], "broken.dcm   error: malformed: ") {
		t.Errorf("table:\n%s\n%+v", r.stdout, r)
	}
	if !strings.HasPrefix(r.stderr, "3 files: 2 classified (") || !strings.Contains(r.stderr, "1 could not be read; model mobilenet-v1-160@") {
		t.Errorf("summary: %q", r.stderr)
	}
	r = execute(t, dir, nil, "classify", "-m", model, "--format=csv", "blank.png", "absent.dcm")
	rows, err := csv.NewReader(strings.NewReader(r.stdout)).ReadAll()
	if err != nil || len(rows) != 3 {
		t.Fatalf("csv: %v\n%s", err, r.stdout)
	}
	want := "file,class,confidence,review,reasons,abdominal,adult_chest,pediatric_chest,spine,others,model,error"
	if got := strings.Join(rows[0], ","); got != want {
		t.Errorf("columns %s", got)
	}
	if rows[1][0] != "blank.png" || rows[1][3] != "true" || !strings.Contains(rows[1][4], "blank") || rows[1][11] != "" {
		t.Errorf("row %q", rows[1])
	}
	if got := strings.Join(rows[2], ","); r.status != exitError || got != "absent.dcm,,,,,,,,,,,cannot be read: no such file or directory" {
		t.Errorf("row %q", got)
	}
}

func TestClassifyStandardInput(t *testing.T) {
	model := requireModel(t)
	dir := t.TempDir()
	content := drawn(t, phantom.Options{Class: "adult_chest"})
	path := put(t, dir, "chest.dcm", content)
	fromFile := execute(t, dir, nil, "classify", "-m", model, "-f", "json", path)
	fromPipe := execute(t, dir, bytes.NewReader(content), "classify", "-m", model, "-f", "json", "-")
	if fromPipe.status != 0 || fromPipe.stdout != strings.Replace(fromFile.stdout, path, "-", 1) {
		t.Errorf("pipe %+v\nfile %+v", fromPipe, fromFile)
	}
	if r := execute(t, dir, strings.NewReader(""), "classify", "-m", model, "-f", "json", "-"); r.status != exitError || !strings.Contains(r.stdout, `"error":`) {
		t.Errorf("empty input: %+v", r)
	}
	if r := execute(t, dir, nil, "classify", "-m", model, "-", "-"); r.status != exitError || !strings.Contains(r.stderr, "can be read only once") {
		t.Errorf("twice: %+v", r)
	}
}

func TestClassifyFollowsTheConfiguration(t *testing.T) {
	model := requireModel(t)
	dir := t.TempDir()
	put(t, dir, "config.yaml", []byte(fmt.Sprintf("model:\n  dir: %s\n  thresholds: {abdominal: 1, adult_chest: 1, pediatric_chest: 1, spine: 1, others: 1}\n"+
		"picture: {max_file: 400kB}\northanc: {username: a, password_file: /nobody/may/read/this}\n", model)))
	put(t, dir, "x.png", pngOf(t, func(x, y int) uint8 { return uint8(x ^ y) }))
	put(t, dir, "y.dcm", make([]byte, 400_001))
	r := execute(t, dir, nil, "classify", "-f", "json", "x.png", "y.dcm")
	list := jsonLines(t, r.stdout)
	if len(list) != 2 || !*list[0].Review || !slices.Equal(list[0].Reasons, []bodypart.Reason{bodypart.ReasonLowConfidence}) {
		t.Fatalf("thresholds of 1 must send everything to review: %+v", r)
	}
	if list[1].Error != "too_large: the file is larger than picture.max_file (400000)" {
		t.Errorf("%+v", list[1])
	}
}

func TestClassifyCannotStart(t *testing.T) {
	requireModel(t)
	dir := t.TempDir()
	put(t, dir, "x.png", []byte("x"))
	r := execute(t, dir, nil, "classify", "x.png")
	if r.status != exitError || !strings.Contains(r.stderr, "models/mobilenet-v1-160/model.yaml does not exist: set model.dir") {
		t.Errorf("no model: %+v", r)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r := execute(t, dir, nil, "classify", "empty"); r.status != exitError || r.stderr != "imaging-router: empty holds no files\n" {
		t.Errorf("empty folder: %+v", r)
	}
}

// TestInterrupt: the first signal ends a command in order, although its standard input never ends.
func TestInterrupt(t *testing.T) {
	model := requireModel(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := program(ctx, t.TempDir(), "classify", "-m", model, "-f", "json", "-")
	input, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	// More than a pipe holds: when this is written, the program reads, and so its model is loaded.
	if _, err := io.CopyN(input, neverEnding{}, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err = c.Wait()
	if c.ProcessState.ExitCode() != exitError || !strings.Contains(stderr.String(), "interrupted after 0 of 1 files") {
		t.Errorf("%v, status %d: %s", err, c.ProcessState.ExitCode(), stderr.String())
	}
}

type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) { return len(b), nil }

// TestRealXrays: pictures of the collection, which the model's own figures are measured on, go through the whole command.
func TestRealXrays(t *testing.T) {
	model := requireModel(t)
	shared := os.Getenv("IMAGINGROUTER_SHARED")
	if shared == "" {
		shared = repository(t, "..", "shared")
	}
	manifest, err := os.Open(filepath.Join(shared, "data", "manifest.csv"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no real X-rays here (../shared/data)")
	} else if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = manifest.Close() }()
	rows, err := csv.NewReader(manifest).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	taken, classOf := map[string]int{}, map[string]string{}
	for _, row := range rows {
		if file, class, split := row[0], row[1], row[2]; split == "test" && taken[class] < 8 {
			taken[class]++
			path := filepath.Join(shared, "data", file)
			files, classOf[path] = append(files, path), class
		}
	}
	r := execute(t, "", nil, append([]string{"classify", "-m", model, "-f", "json"}, files...)...)
	right := 0
	for _, l := range jsonLines(t, r.stdout) {
		if string(l.Class) == classOf[l.File] {
			right++
		}
	}
	if r.status != 0 || len(files) != 40 || right < 36 {
		t.Errorf("status %d, %d of %d right: %s", r.status, right, len(files), r.stderr)
	}
}
