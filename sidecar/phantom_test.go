package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagingrouter/sidecar/internal/picture"
)

func readPhantom(t *testing.T, path string) *picture.Picture {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := picture.NewReader(picture.Options{}).Read(context.Background(), content)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPhantom(t *testing.T) {
	dir := t.TempDir()
	args := []string{"phantom", "--class", "spine", "--count", "3", "--rows", "300", "--columns", "200", "--bits", "16", "--monochrome1", "new/folder"}
	r := execute(t, dir, nil, args...)
	want := []string{"new/folder/spine-1.dcm", "new/folder/spine-2.dcm", "new/folder/spine-3.dcm"}
	if r.status != 0 || r.stderr != "" || !slices.Equal(strings.Fields(r.stdout), want) {
		t.Fatalf("%+v", r)
	}
	seen := map[string]bool{}
	for _, name := range want {
		h := readPhantom(t, filepath.Join(dir, name)).Header
		if h.Rows != 300 || h.Columns != 200 || h.BitsStored != 16 || h.PhotometricInterpretation != "MONOCHROME1" || h.Modality != "DX" || seen[h.SOPInstanceUID] {
			t.Errorf("%s: %+v", name, h)
		}
		seen[h.SOPInstanceUID] = true
	}
	if slices.Equal(readPhantom(t, filepath.Join(dir, want[0])).Pixels, readPhantom(t, filepath.Join(dir, want[1])).Pixels) {
		t.Error("two phantoms show the same")
	}
	again := execute(t, dir, nil, args...)
	if again.status != exitError || !strings.Contains(again.stderr, "spine-1.dcm: file exists") {
		t.Errorf("an existing file: %+v", again)
	}
}

func TestPhantomOfEachClass(t *testing.T) {
	dir := t.TempDir()
	r := execute(t, dir, nil, "phantom", "--rows", "64", "--columns", "64", "--cr", "--age", "007Y", ".")
	if want := "abdominal-1.dcm\nadult_chest-1.dcm\npediatric_chest-1.dcm\nspine-1.dcm\nothers-1.dcm\n"; r.status != 0 || r.stdout != want {
		t.Fatalf("%+v", r)
	}
	if h := readPhantom(t, filepath.Join(dir, "others-1.dcm")).Header; h.Modality != "CR" || h.AgeYears != 7 || !h.AgeKnown {
		t.Errorf("%+v", h)
	}
}

func TestPhantomOfAPicture(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "hand.png", pngOf(t, func(x, _ int) uint8 { return uint8(x) }))
	r := execute(t, dir, nil, "phantom", "--picture", "hand.png", "--body-part-examined", "HAND", "out")
	if r.status != 0 || r.stdout != "out/hand-1.dcm\n" {
		t.Fatalf("%+v", r)
	}
	p := readPhantom(t, filepath.Join(dir, "out", "hand-1.dcm"))
	if p.Width != 200 || p.Height != 150 || p.Header.BodyPartExamined != "HAND" || p.Pixels[10] >= p.Pixels[190] {
		t.Errorf("%+v", p.Header)
	}
	put(t, dir, "text.png", []byte("text"))
	if r := execute(t, dir, nil, "phantom", "--picture", "text.png", "out"); r.status != exitError || r.stderr != "imaging-router: read picture text.png: image: unknown format\n" {
		t.Errorf("no picture: %+v", r)
	}
	if r := execute(t, dir, nil, "phantom", "--class", "all", "--picture", "hand.png", "out"); r.status != exitUsage {
		t.Errorf("all classes of one picture: %+v", r)
	}
}
