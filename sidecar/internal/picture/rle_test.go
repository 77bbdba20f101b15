package picture

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/suyashkumar/dicom/pkg/tag"
)

// rleOf packs segments: each as one literal run of at most 128 bytes, or as given.
func rleOf(segments ...[]byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(segments)))
	offset := uint32(rleHeader)
	for _, s := range segments {
		b = binary.LittleEndian.AppendUint32(b, offset)
		offset += uint32(len(s))
	}
	b = append(b, make([]byte, rleHeader-len(b))...)
	return append(b, slices.Concat(segments...)...)
}

func TestRLE(t *testing.T) {
	third := []float32{0, 1.0 / 3, 2.0 / 3, 1}
	full12 := fixture{tag.WindowCenter: str("DS", "2048"), tag.WindowWidth: str("DS", "4096")}
	grey := grey16(2, 0, 0, 0, 0).with(full12)
	colour := fixture{tag.SamplesPerPixel: us(3), tag.PhotometricInterpretation: str("CS", "RGB"), tag.WindowCenter: str("DS", "128"), tag.WindowWidth: str("DS", "256")}
	ramp := []byte{3, 0, 85, 170, 255}
	wide := grey.with(fixture{tag.BitsAllocated: us(32), tag.BitsStored: us(32), tag.HighBit: us(31), tag.WindowCenter: str("DS", "150000.5"), tag.WindowWidth: str("DS", "300001")})
	for name, file := range map[string][]byte{
		"literal": grey.encapsulated(rleLossless, rleOf([]byte{3, 0, 5, 0x0A, 0x0F}, []byte{3, 0, 0x55, 0xAA, 0xFF})),
		// A replicate run, the operand that means nothing, a run that is longer than the picture, bytes of padding.
		"runs": grey.encapsulated(rleLossless, rleOf([]byte{0, 0, 128, 2, 5, 0x0A, 0x0F, 0, 0}, []byte{0, 0, 2, 0x55, 0xAA, 0xFF, 0xFE, 0})),
		"two fragments": grey.encapsulated(rleLossless, rleOf([]byte{3, 0, 5, 0x0A, 0x0F}, nil)[:66],
			rleOf([]byte{3, 0, 5, 0x0A, 0x0F}, []byte{3, 0, 0x55, 0xAA, 0xFF})[66:]),
		"8 bits":  grey8(2, 0, 0, 0, 0).with(fixture{tag.WindowCenter: str("DS", "128"), tag.WindowWidth: str("DS", "256")}).encapsulated(rleLossless, rleOf(ramp)),
		"RGB":     grey8(2, 0, 0, 0, 0).with(colour).encapsulated(rleLossless, rleOf(ramp, ramp, ramp)),
		"32 bits": wide.encapsulated(rleLossless, rleOf([]byte{253, 0}, []byte{3, 0, 1, 3, 4}, []byte{3, 0, 0x86, 0x0D, 0x93}, []byte{3, 0, 0xA0, 0x40, 0xE0})),
		"RGB of 16 bits": grey.with(fixture{tag.SamplesPerPixel: us(3), tag.PhotometricInterpretation: str("CS", "RGB")}).encapsulated(rleLossless, rleOf(
			[]byte{3, 0, 5, 0x0A, 0x0F}, []byte{3, 0, 0x55, 0xAA, 0xFF}, []byte{3, 0, 5, 0x0A, 0x0F}, []byte{3, 0, 0x55, 0xAA, 0xFF}, []byte{3, 0, 5, 0x0A, 0x0F}, []byte{3, 0, 0x55, 0xAA, 0xFF})),
	} {
		p := read(t, file)
		for i, want := range third {
			if math.Abs(float64(p.Pixels[i]-want)) > 0.001 {
				t.Errorf("%s: pixels %v, want %v", name, p.Pixels, third)
				break
			}
		}
	}
	good := rleOf([]byte{3, 0, 5, 0x0A, 0x0F}, []byte{3, 0, 0x55, 0xAA, 0xFF})
	beyond, backwards := slices.Clone(good), slices.Clone(good)
	binary.LittleEndian.PutUint32(beyond[8:], 4000)
	binary.LittleEndian.PutUint32(backwards[4:], 70)
	for name, test := range map[string]struct {
		stream []byte
		reason string
	}{
		"short":           {good[:40], "truncated: 40 bytes are too few for an RLE header"},
		"one segment":     {rleOf([]byte{3, 0, 0, 0, 0}), "RLE of 1 segments where 1 samples of 16 bits need 2"},
		"ends early":      {rleOf([]byte{3, 0, 5, 0x0A, 0x0F}, []byte{1, 0, 0x55}), "truncated: RLE segment 2 ends after 2 of 4 pixels"},
		"run ends early":  {rleOf([]byte{3, 0, 5}, []byte{3, 0, 5, 0x0A, 0x0F}), "truncated: RLE segment 1 ends after 2 of 4 pixels"},
		"offset beyond":   {beyond, "RLE segment 1 lies at bytes 64 to 4000 of 74"},
		"offsets crossed": {backwards, "RLE segment 1 lies at bytes 70 to 69 of 74"},
		"huge number":     {append([]byte{0xFF, 0xFF, 0xFF, 0xFF}, good[4:]...), "RLE of 4294967295 segments"},
	} {
		if failed := fails(t, Options{}, grey.encapsulated(rleLossless, test.stream)); failed.Kind != Malformed || !strings.Contains(failed.Reason, test.reason) {
			t.Errorf("%s: %v, want %s", name, failed, test.reason)
		}
	}
	bit := grey8(8, 1).with(fixture{tag.BitsAllocated: us(1), tag.BitsStored: us(1), tag.HighBit: us(0), tag.Rows: us(1), tag.Columns: us(8)})
	if failed := fails(t, Options{}, bit.encapsulated(rleLossless, rleOf([]byte{0, 1}))); failed.Kind != Malformed {
		t.Errorf("1 bit: %v", failed)
	}
}
