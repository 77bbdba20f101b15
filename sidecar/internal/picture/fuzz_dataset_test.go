package picture

import (
	"bytes"
	"compress/flate"
	"slices"
	"testing"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// FuzzDataset looks for elements that break the scan or the access to single values. The meta header is written around them, and they are
// deflated where the syntax says so: mutations of a deflated stream would seldom get beyond it.
func FuzzDataset(f *testing.F) {
	syntaxes := append(slices.Clone(nativeSyntaxes), encapsulatedLittle, deflatedImageFrame, jpegBaseline, "1.2.840.10008.1.2.4.90", marked)
	for _, file := range seedFiles() {
		if sniff(file) != formatDICOM || len(file) < preambleLength+4 {
			continue
		}
		if d, err := open(file, fuzzOutput, free); err == nil && d.syntax != uid.DeflatedExplicitVRLittleEndian {
			header := len(part10(d.syntax))
			f.Add(file[min(header, len(file)):], uint8(max(slices.Index(syntaxes, d.syntax), 0)))
		}
	}
	f.Fuzz(func(t *testing.T, elements []byte, which uint8) {
		syntax := syntaxes[int(which)%len(syntaxes)]
		file := append(part10(syntax), elements...)
		if syntax == uid.DeflatedExplicitVRLittleEndian {
			file = append(part10(syntax), deflated(elements)...)
		}
		before := allocated()
		d, err := open(file, fuzzOutput, free)
		if used, limit := allocated()-before, fuzzOutput+beyondPixels+bytesAByte*int64(len(file)); used > limit {
			t.Errorf("%d bytes were allocated for a file of %d, more than %d", used, len(file), limit)
		}
		if err != nil {
			checkError(t, err)
			return
		}
		checkDataset(t, d, int64(len(file))+fuzzOutput)
	})
}

// checkDataset asks for every element in every way that the reader has. most is how many bytes all values can have together.
func checkDataset(t *testing.T, d *dataset, most int64) {
	t.Helper()
	sum := int64(0)
	for wanted, e := range d.elements {
		sum += int64(len(e.value))
		if !keep[wanted] {
			t.Errorf("%s was not asked for", name(wanted))
		}
		if _, err := ints(d.elements, wanted); err != nil {
			checkError(t, err)
		}
		d.number(wanted)
		d.texts(wanted)
		readLookup(e.firstItem(), tag.LUTDescriptor, tag.LUTData, true)
	}
	if sum > most {
		t.Errorf("elements of %d bytes from a file of at most %d", sum, most)
	}
	if repeats(syntaxName(d.syntax)) {
		t.Errorf("the name of the syntax repeats what stands in the file: %s", syntaxName(d.syntax))
	}
	h := d.header()
	format, err := d.pixelsToRead(h.Frames, fuzzPixels)
	if err != nil {
		checkError(t, err)
		return
	}
	if format.pixels() < 1 || int64(format.pixels()) > fuzzPixels || format.shift < 0 || format.stored+format.shift > format.allocated {
		t.Errorf("nonsense was taken for the format of pixels: %+v", format)
	}
	if pixels := d.elements[pixelDataTag]; pixels.encapsulated && !slices.Contains(nativeSyntaxes, d.syntax) {
		sent, err := open(d.pixelFile(), fuzzOutput, free)
		if err != nil {
			t.Fatalf("what a child would get cannot be read: %v", err)
		}
		if n := len(sent.elements[pixelDataTag].fragments); n != len(pixels.fragments) {
			t.Errorf("%d fragments became %d for the child", len(pixels.fragments), n)
		}
	}
}

func deflated(b []byte) []byte {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, flate.BestSpeed)
	_, _ = w.Write(b) // writes to memory do not fail
	_ = w.Close()
	return out.Bytes()
}
