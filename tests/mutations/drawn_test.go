package mutations

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"image/jpeg"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
)

// marked stands for every patient's name. It may be seen nowhere but in Orthanc.
const marked = "QZXMARKED"

// drawn returns files of nobody in each encoding that the router reads by itself, and two that it leaves to a child process.
func drawn(t testing.TB) []file {
	t.Helper()
	var files []file
	add := func(name string, f file) {
		f.name = "drawn " + name
		files = append(files, f)
	}
	for i, o := range []phantom.Options{
		{Class: "spine", Rows: 96, Columns: 64}, {Class: "adult_chest", Rows: 64, Columns: 80, Bits: 16, Monochrome1: true, Window: true},
		{Class: "abdominal", Rows: 40, Columns: 40, Bits: 8, SOPClass: phantom.CR}, {Class: "others", Rows: 130, Columns: 120, Bits: 12, SOPClass: phantom.DXForProcessing},
	} {
		o.Seed = int64(i)
		var b bytes.Buffer
		if _, err := phantom.Write(&b, o); err != nil {
			t.Fatal(err)
		}
		f, ok := take(o.Class, b.Bytes())
		if !ok {
			t.Fatalf("a phantom cannot be taken apart")
		}
		add(o.Class, f)
		add(o.Class+", implicit", f.in(implicitLittle))
		add(o.Class+", big endian", f.in(explicitBig))
		add(o.Class+", deflated", f.in(deflated))
	}
	small, _ := take("", orthanctest.File{Side: 32, Grey: 90}.Bytes())
	add("JPEG", small.compressed(jpegBaseline, drawnJPEG()))
	add("RLE", small.compressed(rle, drawnRLE(32*32)))
	add("JPEG 2000 that is none", small.compressed(uidRoot+".4.90", []byte("\xFF\x4F\xFF\x51"+marked)))
	return files
}

// in returns the file in another uncompressed encoding. Sequences are left out: their items would have to be written anew.
func (f file) in(syntax string) file {
	from := f.order()
	f = f.clone()
	f.put(metaSyntax, "UI", []byte(syntax))
	f.set = slices.DeleteFunc(f.set, func(e element) bool { return e.vr == "SQ" || e.length == undefined })
	for i := range f.set {
		e := &f.set[i]
		if syntax == explicitBig {
			switch e.vr {
			case "US", "SS", "OW":
				for j := 0; j+1 < len(e.value); j += 2 {
					binary.BigEndian.PutUint16(e.value[j:], from.Uint16(e.value[j:]))
				}
			case "UL", "SL", "FL":
				for j := 0; j+3 < len(e.value); j += 4 {
					binary.BigEndian.PutUint32(e.value[j:], from.Uint32(e.value[j:]))
				}
			}
		}
		if syntax == implicitLittle {
			e.vr = ""
		}
	}
	return f
}

// compressed returns the file with its pixels as one fragment.
func (f file) compressed(syntax string, stream []byte) file {
	f = f.clone()
	f.put(metaSyntax, "UI", []byte(syntax))
	if len(stream)%2 == 1 {
		stream = append(stream, 0)
	}
	items := write(nil, f.order(), element{item, "", nil, 0})
	items = write(items, f.order(), element{item, "", stream, uint32(len(stream))})
	items = write(items, f.order(), element{sequenceEnd, "", nil, 0})
	f.set[f.at(pixelData)] = element{pixelData, "OB", items, undefined}
	return f
}

func drawnJPEG() []byte {
	grey := image.NewGray(image.Rect(0, 0, 32, 32))
	for i := range grey.Pix {
		grey.SetGray(i%32, i/32, color.Gray{Y: uint8(i / 5)})
	}
	var b bytes.Buffer
	_ = jpeg.Encode(&b, grey, nil) // to memory
	return b.Bytes()
}

// oneSegment is the header of RLE pixels of one sample.
func oneSegment() []byte {
	header := make([]byte, 0, 64)
	header = binary.LittleEndian.AppendUint32(header, 1)
	header = binary.LittleEndian.AppendUint32(header, 64)
	return header[:64:64]
}

// drawnRLE returns one segment of literal runs (PS3.5, annex G).
func drawnRLE(pixels int) []byte {
	b := oneSegment()
	for i := 0; i < pixels; i += 128 {
		b = append(b, 127)
		for j := range 128 {
			b = append(b, byte((i+j)/4))
		}
	}
	return b
}

// corpora returns the files of the public corpora, where they are at hand: those that can be taken apart, and all as they are.
func corpora(t testing.TB) (files []file, whole map[string][]byte) {
	t.Helper()
	root := os.Getenv("IMAGINGROUTER_SHARED")
	if root == "" {
		repository, err := orthanctest.Repository()
		if err != nil {
			t.Fatal(err)
		}
		root = filepath.Join(repository, "..", "shared")
	}
	root = filepath.Join(root, "dicom")
	if _, err := os.Stat(root); err != nil {
		t.Logf("no DICOM corpora: %s is absent (IMAGINGROUTER_SHARED names another place); drawn files only", root)
		return nil, nil
	}
	whole = map[string][]byte{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Dir(path) == root {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(filepath.ToSlash(path), filepath.ToSlash(root)+"/")
		whole[name] = content
		if f, ok := take(name, content); ok {
			files = append(files, f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, whole
}
