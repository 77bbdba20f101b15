package picture

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// field is one element of a fixture: numbers are written as US (OW for pixels), strings in the dictionary's VR.
type field struct {
	vr    string
	text  string
	words []uint16
	raw   []byte
	item  fixture // of a sequence
}

// fixture is a synthetic file, by tag.
type fixture map[tag.Tag]field

func us(v ...uint16) field           { return field{vr: "US", words: v} }
func str(vr, s string) field         { return field{vr: vr, text: s} }
func ow(v ...uint16) field           { return field{vr: "OW", words: v} }
func bin(vr string, b ...byte) field { return field{vr: vr, raw: b} }

// grey16 returns a picture of 12 bits stored in 16 with the given width.
func grey16(columns int, values ...uint16) fixture {
	return fixture{
		tag.SOPClassUID: str("UI", "1.2.840.10008.5.1.4.1.1.1.1"), tag.Modality: str("CS", "DX"),
		tag.SamplesPerPixel: us(1), tag.PhotometricInterpretation: str("CS", "MONOCHROME2"),
		tag.Rows: us(uint16(len(values) / columns)), tag.Columns: us(uint16(columns)),
		tag.BitsAllocated: us(16), tag.BitsStored: us(12), tag.HighBit: us(11), tag.PixelRepresentation: us(0),
		tag.PixelData: ow(values...),
	}
}

// grey8 is the same in 8 bits.
func grey8(columns int, values ...byte) fixture {
	return grey16(columns, make([]uint16, len(values))...).with(fixture{
		tag.BitsAllocated: us(8), tag.BitsStored: us(8), tag.HighBit: us(7), tag.PixelData: bin("OB", values...),
	})
}

// with returns a copy with some elements replaced; a field without VR takes one out.
func (f fixture) with(change fixture) fixture {
	out := fixture{}
	for t, v := range f {
		out[t] = v
	}
	for t, v := range change {
		if v.vr == "" {
			delete(out, t)
			continue
		}
		out[t] = v
	}
	return out
}

func (f fixture) elements(syntax string) []byte {
	order := binary.AppendByteOrder(binary.LittleEndian)
	if syntax == uid.ExplicitVRBigEndian {
		order = binary.BigEndian
	}
	tags := make([]tag.Tag, 0, len(f))
	for t := range f {
		tags = append(tags, t)
	}
	slices.SortFunc(tags, func(a, b tag.Tag) int { return a.Compare(b) })
	var b []byte
	for _, t := range tags {
		v := f[t]
		value := append([]byte(v.text), v.raw...)
		for _, w := range v.words {
			value = order.AppendUint16(value, w)
		}
		if v.item != nil {
			content := v.item.elements(syntax)
			value = order.AppendUint16(value, itemTag.Group)
			value = order.AppendUint16(value, itemTag.Element)
			value = order.AppendUint32(value, uint32(len(content)))
			value = append(value, content...)
		}
		if len(value)%2 == 1 {
			value = append(value, map[bool]byte{true: ' '}[v.text != ""])
		}
		if syntax != uid.ImplicitVRLittleEndian {
			b = appendElement(b, order, t, v.vr, value)
			continue
		}
		b = order.AppendUint16(b, t.Group)
		b = order.AppendUint16(b, t.Element)
		b = order.AppendUint32(b, uint32(len(value)))
		b = append(b, value...)
	}
	return b
}

// file returns a DICOM file in the given transfer syntax.
func (f fixture) file(syntax string) []byte {
	elements := f.elements(syntax)
	if syntax == uid.DeflatedExplicitVRLittleEndian {
		var deflated bytes.Buffer
		w, _ := flate.NewWriter(&deflated, flate.DefaultCompression)
		_, _ = w.Write(elements)
		_ = w.Close()
		elements = deflated.Bytes()
	}
	return append(part10(syntax), elements...)
}

// encapsulated returns a file whose pixel data are the given fragments.
func (f fixture) encapsulated(syntax string, fragments ...[]byte) []byte {
	b := append(part10(syntax), f.with(fixture{tag.PixelData: {}}).elements(syntax)...)
	b = appendItem(appendHeader(b, tag.PixelData, undefinedLength), nil)
	for _, fragment := range fragments {
		b = appendItem(b, fragment)
	}
	return appendItemHeader(b, sequenceEndTag, 0)
}

func read(t *testing.T, file []byte) *Picture {
	t.Helper()
	p, err := NewReader(Options{}).Read(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fails reads a file that must fail, and returns how.
func fails(t *testing.T, o Options, file []byte) *Error {
	t.Helper()
	p, err := NewReader(o).Read(t.Context(), file)
	var failed *Error
	if !errors.As(err, &failed) {
		t.Fatalf("read a picture of %d × %d, want a failure", p.Width, p.Height)
	}
	return failed
}

// ramp16 returns n values that rise evenly from 0 to top.
func ramp16(n int, top uint16) []uint16 {
	v := make([]uint16, n)
	for i := range v {
		v[i] = uint16(i * int(top) / (n - 1))
	}
	return v
}

// shared returns a folder of the material that is not part of the repository, or skips.
func shared(t *testing.T, parts ...string) string {
	t.Helper()
	root := os.Getenv("IMAGINGROUTER_SHARED")
	if root == "" {
		root = filepath.Join("..", "..", "..", "..", "shared")
	}
	path := filepath.Join(append([]string{root}, parts...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("skipped: %s is not there (set IMAGINGROUTER_SHARED)", path)
	}
	return path
}
