package phantom

import (
	"bytes"
	"encoding/json"
	"image"
	"image/color"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/suyashkumar/dicom"
	"github.com/suyashkumar/dicom/pkg/tag"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/picture"
)

func write(t *testing.T, o Options) ([]byte, Identity) {
	t.Helper()
	var b bytes.Buffer
	id, err := Write(&b, o)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), id
}

// variants are the files that differ in what is written, not only in what is drawn.
func variants() map[string]Options {
	all := map[string]Options{
		"cr":         {Class: "spine", SOPClass: CR, Rows: 300, Columns: 200, BodyPartExamined: "SPINE"},
		"processing": {Class: "others", SOPClass: DXForProcessing, Rows: 200, Columns: 300, Bits: 16},
		"odd":        {Class: "others", Rows: 33, Columns: 31, Bits: 8, Window: true, Monochrome1: true},
		"wrapped":    {Picture: gradient(40, 30), Bits: 16, Window: true, PatientAge: "006M"},
	}
	for i, c := range bodypart.Classes() {
		all[string(c)] = Options{Class: string(c), Seed: int64(i), Rows: 256, Columns: 200 + i, Bits: []int{8, 12, 16}[i%3], Monochrome1: i%2 == 0, Window: i%2 == 1}
	}
	return all
}

func gradient(width, height int) *image.Gray16 {
	img := image.NewGray16(image.Rect(5, 5, 5+width, 5+height))
	for y := range height {
		for x := range width {
			img.SetGray16(5+x, 5+y, color.Gray16{Y: uint16(x * 65535 / (width - 1))})
		}
	}
	return img
}

func TestWriteIsReadAsDrawn(t *testing.T) {
	for name, o := range variants() {
		file, id := write(t, o)
		p, err := picture.NewReader(picture.Options{}).Read(t.Context(), file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		o, class, _ := o.complete()
		if p.Width != o.Columns || p.Height != o.Rows || p.Blank || p.Header.BitsStored != o.Bits || p.Header.Modality != o.Modality || p.Header.SOPInstanceUID != id.SOPInstanceUID {
			t.Errorf("%s: %d × %d, blank %v, %+v; want %+v", name, p.Width, p.Height, p.Blank, p.Header, o)
		}
		if !p.Header.AgeKnown || p.Header.BodyPartExamined != o.BodyPartExamined {
			t.Errorf("%s: %+v", name, p.Header)
		}
		if child := class == bodypart.PediatricChest; child != (p.Header.AgeYears <= 12) && o.PatientAge != "006M" {
			t.Errorf("%s: %v years old", name, p.Header.AgeYears)
		}
		if !o.Window {
			continue // what is shown then depends on the percentiles
		}
		drawn := wrapOrDraw(o, class)
		for i, y := range p.Pixels {
			if math.Abs(float64(y-drawn.grey[i])) > 0.004 {
				t.Fatalf("%s: pixel %d is shown as %v, was drawn as %v", name, i, y, drawn.grey[i])
			}
		}
	}
}

func wrapOrDraw(o Options, class bodypart.Class) *canvas {
	if o.Picture != nil {
		return wrap(o.Picture)
	}
	return draw(class, o.Seed, o.Rows, o.Columns)
}

func TestWriteIsDeterministic(t *testing.T) {
	fixed := Options{Class: "adult-chest", Seed: 7, Rows: 100, Columns: 90, StudyUID: "2.25.1", SeriesUID: "2.25.2", SOPInstanceUID: "2.25.3",
		When: time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)}
	first, _ := write(t, fixed)
	again, _ := write(t, fixed)
	fixed.Seed = 8
	other, _ := write(t, fixed)
	if !bytes.Equal(first, again) {
		t.Error("the same options wrote two files")
	}
	if bytes.Equal(first, other) {
		t.Error("two seeds drew the same picture")
	}
}

func TestIdentityIsFreshAndOfNobody(t *testing.T) {
	seen := map[string]bool{}
	for range 50 {
		file, id := write(t, Options{Class: "spine", Rows: 8, Columns: 8})
		for _, uid := range []string{id.StudyUID, id.SeriesUID, id.SOPInstanceUID} {
			if seen[uid] || len(uid) > 64 || !strings.HasPrefix(uid, "2.25.") || strings.HasPrefix(uid, "2.25.0") {
				t.Fatalf("UID %s", uid)
			}
			seen[uid] = true
		}
		parsed, err := dicom.Parse(bytes.NewReader(file), int64(len(file)), nil)
		if err != nil {
			t.Fatal(err)
		}
		for tg, prefix := range map[tag.Tag]string{tag.PatientName: "PHANTOM^", tag.PatientID: "PHANTOM-"} {
			e, err := parsed.FindElementByTag(tg)
			if err != nil || !strings.HasPrefix(dicom.MustGetStrings(e.Value)[0], prefix) {
				t.Errorf("%v: %v, %v", tg, e, err)
			}
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	for want, o := range map[string]Options{
		`unknown class "knee"`:     {Class: "knee"},
		`unknown class ""`:         {},
		"3001 rows × 1024 columns": {Class: "spine", Rows: 3001},
		"-1 columns":               {Class: "spine", Columns: -1},
		"10 bits":                  {Class: "spine", Bits: 10},
		"SOP class \"1.2.3\"":      {Class: "spine", SOPClass: "1.2.3"},
		"patient age is not":       {Class: "spine", PatientAge: "12"},
		"\"me\" is no UID":         {Class: "spine", StudyUID: "me"},
		"has no pixels":            {Picture: image.NewGray(image.Rect(0, 0, 0, 0))},
		"2 rows × 4000 columns":    {Picture: image.NewGray(image.Rect(0, 0, 4000, 2))},
	} {
		var b bytes.Buffer
		if _, err := Write(&b, o); err == nil || !strings.Contains(err.Error(), want) || b.Len() > 0 {
			t.Errorf("%v, want …%s…", err, want)
		}
	}
}

// dciodvfy checks a file against the definition of its SOP class; what it calls an error is one.
func TestValidByDciodvfy(t *testing.T) {
	program := need(t, "dciodvfy", "dicom3tools")
	for name, path := range files(t, true) {
		said, err := exec.Command(program, path).CombinedOutput()
		if bytes.Contains(said, []byte("Error")) || !bytes.Contains(said, []byte("Image")) {
			t.Errorf("%s: %v: %s", name, err, said)
		}
	}
}

// pydicom reads it without a complaint, pixels included.
func TestReadByPydicom(t *testing.T) {
	python := need(t, "/usr/bin/python3", "python3-pydicom")
	if exec.Command(python, "-c", "import pydicom, numpy").Run() != nil {
		absent(t, "python3-pydicom and python3-numpy")
	}
	const script = `
import sys, json, warnings, pydicom
warnings.simplefilter("error")
for path in sys.argv[1:]:
    ds = pydicom.dcmread(path)
    a = ds.pixel_array
    print(json.dumps([str(ds.PatientName), a.shape[0], a.shape[1], int(a.min()), int(a.max()), int(ds.BitsStored)]))
`
	for name, path := range files(t, false) {
		said, err := exec.Command(python, "-c", script, path).CombinedOutput()
		var got []any
		if err != nil || json.Unmarshal(said, &got) != nil {
			t.Errorf("%s: %v: %s", name, err, said)
			continue
		}
		top := math.Pow(2, got[5].(float64)) - 1
		if !strings.HasPrefix(got[0].(string), "PHANTOM^") || got[3].(float64) > 0.2*top || got[4].(float64) < 0.8*top || got[4].(float64) > top {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// files writes the variants; complete: with the window that the standard demands of DX for presentation (and forbids in one for
// processing).
func files(t *testing.T, complete bool) map[string]string {
	t.Helper()
	dir, paths := t.TempDir(), map[string]string{}
	for name, o := range variants() {
		o.Window = o.Window || complete && o.SOPClass != DXForProcessing
		file, _ := write(t, o)
		paths[name] = filepath.Join(dir, name+".dcm")
		if err := os.WriteFile(paths[name], file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

func need(t *testing.T, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		absent(t, pkg)
	}
	return path
}

func absent(t *testing.T, pkg string) {
	t.Helper()
	t.Skipf("skipped: apt install %s", pkg)
}
