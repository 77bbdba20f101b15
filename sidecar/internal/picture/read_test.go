package picture

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// The same four pixels in every native encoding: 0, 1/3, 2/3, 1 of full scale, through a window over the whole range.
func TestReadNativeEncodings(t *testing.T) {
	third := []float32{0, 1.0 / 3, 2.0 / 3, 1}
	full12 := fixture{tag.WindowCenter: str("DS", "2048"), tag.WindowWidth: str("DS", "4096")}
	full8 := fixture{tag.WindowCenter: str("DS", "128"), tag.WindowWidth: str("DS", "256")}
	base := grey16(2, 0, 1365, 2730, 4095).with(full12)
	rgb := fixture{tag.SamplesPerPixel: us(3), tag.PhotometricInterpretation: str("CS", "RGB"), tag.PlanarConfiguration: us(0)}
	colour := func(b ...byte) fixture {
		return grey8(2, 0, 0, 0, 0).with(full8).with(rgb).with(fixture{tag.PixelData: bin("OB", b...)})
	}
	signed := fixture{tag.PixelRepresentation: us(1), tag.WindowCenter: str("DS", "0"), tag.WindowWidth: str("DS", "4096")}
	tests := []struct {
		name string
		file []byte
	}{
		{"explicit little endian", base.file(uid.ExplicitVRLittleEndian)},
		{"implicit little endian", base.file(uid.ImplicitVRLittleEndian)},
		{"explicit big endian", base.file(uid.ExplicitVRBigEndian)},
		{"deflated", base.file(uid.DeflatedExplicitVRLittleEndian)},
		{"no preamble, no meta header, explicit", base.elements(uid.ExplicitVRLittleEndian)},
		{"no preamble, no meta header, implicit", base.elements(uid.ImplicitVRLittleEndian)},
		{"no preamble, no meta header, big endian", base.elements(uid.ExplicitVRBigEndian)},
		{"magic without preamble", append([]byte("DICM"), base.file(uid.ExplicitVRLittleEndian)[132:]...)},
		{"says implicit, is explicit", append(part10(uid.ImplicitVRLittleEndian), base.elements(uid.ExplicitVRLittleEndian)...)},
		{"says explicit, is implicit", append(part10(uid.ExplicitVRLittleEndian), base.elements(uid.ImplicitVRLittleEndian)...)},
		{"private transfer syntax", append(part10("1.2.3.4"), base.elements(uid.ExplicitVRLittleEndian)...)},
		{"fragments of native pixels", base.encapsulated(encapsulatedLittle, []byte{0, 0, 0x55, 5}, []byte{0xAA, 0x0A, 0xFF, 0x0F})},
		{"broken character set", base.with(fixture{tag.SpecificCharacterSet: str("CS", `no\such set`), tag.PatientName: bin("PN", 0xFF, 0x1B, 0x24, 0xFE)}).
			file(uid.ExplicitVRLittleEndian)},
		{"overlay in the upper bits", base.with(fixture{tag.PixelData: ow(0xF000, 0x1000|1365, 2730, 0x8FFF)}).file(uid.ExplicitVRLittleEndian)},
		{"high bit 15", base.with(fixture{tag.HighBit: us(15), tag.PixelData: ow(0, 1365<<4, 2730<<4|7, 4095<<4)}).file(uid.ExplicitVRLittleEndian)},
		{"signed", base.with(signed).with(fixture{tag.PixelData: ow(0x0800, 0x0D55, 0x02AA, 0x07FF)}).file(uid.ExplicitVRLittleEndian)},
		{"signed, sign extended, big endian", base.with(signed).with(fixture{tag.PixelData: ow(0xF800, 0xFD55, 0x02AA, 0x07FF)}).file(uid.ExplicitVRBigEndian)},
		{"rescaled", base.with(fixture{tag.RescaleSlope: str("DS", "0.5"), tag.RescaleIntercept: str("DS", "-100"),
			tag.WindowCenter: str("DS", "924.25"), tag.WindowWidth: str("DS", "2048.5")}).file(uid.ExplicitVRLittleEndian)},
		{"8 bits", grey8(2, 0, 85, 170, 255).with(full8).file(uid.ExplicitVRLittleEndian)},
		{"8 bits as words, big endian", grey8(2, 0, 0, 0, 0).with(full8).with(fixture{tag.PixelData: ow(85<<8, 255<<8|170)}).file(uid.ExplicitVRBigEndian)},
		{"32 bits", base.with(fixture{tag.BitsAllocated: us(32), tag.BitsStored: us(32), tag.HighBit: us(31),
			tag.WindowCenter: str("DS", "150000.5"), tag.WindowWidth: str("DS", "300001"),
			tag.PixelData: ow(0, 0, 100000&0xFFFF, 1, 200000&0xFFFF, 3, 300000&0xFFFF, 4)}).file(uid.ExplicitVRLittleEndian)},
		{"MONOCHROME1", base.with(fixture{tag.PhotometricInterpretation: str("CS", "MONOCHROME1"), tag.PixelData: ow(4095, 2730, 1365, 0)}).
			file(uid.ExplicitVRLittleEndian)},
		{"presentation LUT inverse", base.with(fixture{tag.PresentationLUTShape: str("CS", "INVERSE"), tag.PixelData: ow(4095, 2730, 1365, 0)}).
			file(uid.ExplicitVRLittleEndian)},
		{"RGB", colour(0, 0, 0, 85, 85, 85, 170, 170, 170, 255, 255, 255).file(uid.ExplicitVRLittleEndian)},
		{"RGB by plane", colour(0, 85, 170, 255, 0, 85, 170, 255, 0, 85, 170, 255).with(fixture{tag.PlanarConfiguration: us(1)}).file(uid.ExplicitVRLittleEndian)},
		{"YBR_FULL", colour(0, 9, 9, 85, 9, 9, 170, 9, 9, 255, 9, 9).with(fixture{tag.PhotometricInterpretation: str("CS", "YBR_FULL")}).file(uid.ExplicitVRLittleEndian)},
		{"YBR_FULL_422", colour(0, 85, 9, 9, 170, 255, 9, 9).with(fixture{tag.PhotometricInterpretation: str("CS", "YBR_FULL_422")}).file(uid.ExplicitVRLittleEndian)},
		{"palette", paletteOf(0, 21845, 43690, 65535).file(uid.ExplicitVRLittleEndian)},
		{"YBR_PARTIAL_422", colour(0, 85, 9, 9, 170, 255, 9, 9).with(fixture{tag.PhotometricInterpretation: str("CS", "YBR_PARTIAL_422")}).file(uid.ExplicitVRLittleEndian)},
		{"overlay in a group of its own", base.with(fixture{{Group: 0x6000, Element: 0x0010}: us(2), {Group: 0x6000, Element: 0x0011}: us(2),
			{Group: 0x6000, Element: 0x0102}: us(12), {Group: 0x6000, Element: 0x3000}: ow(0xF)}).file(uid.ExplicitVRLittleEndian)},
		{"no character set, bytes that no set has", base.with(fixture{tag.PatientName: bin("PN", 0xFF, 0xFE, 0x80, 0x1B), tag.StudyDescription: bin("LO", 0xC3, 0x28)}).
			file(uid.ImplicitVRLittleEndian)},
		{"segmented palette", segmentedOf(16, ow(0, 1, 0, 1, 3, 65535)).file(uid.ExplicitVRLittleEndian)},
		{"segmented palette, big endian", segmentedOf(16, ow(0, 1, 0, 1, 3, 65535)).file(uid.ExplicitVRBigEndian)},
		{"segmented palette, pointing", segmentedOf(16, ow(0, 2, 0, 21845, 2, 1, 24, 0, 0, 2, 9, 9, 0, 2, 43690, 65535)).file(uid.ExplicitVRLittleEndian)},
		{"segmented palette of 8 bits", segmentedOf(8, bin("OW", 0, 1, 0, 1, 3, 255)).with(full8).file(uid.ExplicitVRLittleEndian)},
		{"segmented palette of 8 bits, pointing", segmentedOf(8, bin("OW", 0, 2, 0, 85, 2, 1, 14, 0, 0, 0, 0, 2, 9, 9, 0, 2, 170, 255)).with(full8).file(uid.ExplicitVRLittleEndian)},
		{"palette, big endian", paletteOf(0, 21845, 43690, 65535).file(uid.ExplicitVRBigEndian)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := read(t, test.file)
			if p.Width != 2 || p.Height != 2 {
				t.Fatalf("%d × %d pixels, want 2 × 2", p.Width, p.Height)
			}
			for i, want := range third {
				if math.Abs(float64(p.Pixels[i]-want)) > 0.001 {
					t.Fatalf("pixels %v, want %v", p.Pixels, third)
				}
			}
		})
	}
}

// paletteOf returns a picture of the indices 0…3 through four grey entries.
func paletteOf(entries ...uint16) fixture {
	d := us(4, 0, 16)
	return grey8(2, 0, 1, 2, 3).with(fixture{
		tag.PhotometricInterpretation:            str("CS", "PALETTE COLOR"),
		tag.RedPaletteColorLookupTableDescriptor: d, tag.GreenPaletteColorLookupTableDescriptor: d, tag.BluePaletteColorLookupTableDescriptor: d,
		tag.RedPaletteColorLookupTableData: ow(entries...), tag.GreenPaletteColorLookupTableData: ow(entries...), tag.BluePaletteColorLookupTableData: ow(entries...),
		tag.WindowCenter: str("DS", "32768"), tag.WindowWidth: str("DS", "65536"),
	})
}

// segmentedOf returns the same through a palette of segments.
func segmentedOf(bits uint16, segments field) fixture {
	d := us(4, 0, bits)
	return paletteOf().with(fixture{
		tag.RedPaletteColorLookupTableDescriptor: d, tag.GreenPaletteColorLookupTableDescriptor: d, tag.BluePaletteColorLookupTableDescriptor: d,
		tag.RedPaletteColorLookupTableData: {}, tag.GreenPaletteColorLookupTableData: {}, tag.BluePaletteColorLookupTableData: {},
		tag.SegmentedRedPaletteColorLookupTableData: segments, tag.SegmentedGreenPaletteColorLookupTableData: segments,
		tag.SegmentedBluePaletteColorLookupTableData: segments,
	})
}

func TestReadFailures(t *testing.T) {
	base := grey16(2, 0, 1365, 2730, 4095)
	good := base.file(uid.ExplicitVRLittleEndian)
	explicit := func(change fixture) []byte { return base.with(change).file(uid.ExplicitVRLittleEndian) }
	nested := append(part10(uid.ExplicitVRLittleEndian), bytes.Repeat([]byte("\x08\x00\x40\x11SQ\x00\x00\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\xFF\xFF\xFF\xFF"), 100_000)...)
	huge := append(part10(uid.ExplicitVRLittleEndian), "\x08\x00\x18\x00UN\x00\x00\xFE\xFF\xFF\xFF"...)
	tests := []struct {
		name   string
		file   []byte
		kind   Kind
		reason string
	}{
		{"empty", nil, Malformed, "neither DICOM, PNG nor JPEG"},
		{"text", []byte(strings.Repeat("To whom it may concern ", 20)), Malformed, "neither DICOM, PNG nor JPEG"},
		{"nothing but a header", part10(uid.ExplicitVRLittleEndian), Malformed, "no dataset"},
		{"no pixel data", explicit(fixture{tag.PixelData: {}}), NotAPicture, "no PixelData (7FE0,0010)"},
		{"empty pixel data", explicit(fixture{tag.PixelData: bin("OW")}), NotAPicture, "PixelData (7FE0,0010) is empty"},
		{"float pixel data", explicit(fixture{tag.PixelData: {}, floatPixelDataTag: bin("OF", 0, 0, 0, 0)}), NotAPicture, "(7FE0,0008)"},
		{"two frames", explicit(fixture{tag.NumberOfFrames: str("IS", "2")}), NotAPicture, "multi-frame: NumberOfFrames (0028,0008) is 2, and only single pictures are read"},
		{"zero rows", explicit(fixture{tag.Rows: us(0)}), Malformed, "Rows (0028,0010) is 0"},
		{"no columns", explicit(fixture{tag.Columns: {}}), Malformed, "Columns (0028,0011) is missing"},
		{"rows in words", explicit(fixture{tag.Rows: str("LO", "two")}), Malformed, "Rows (0028,0010) has VR LO"},
		{"half a number of rows", explicit(fixture{tag.Rows: bin("UL", 2, 0)}), Malformed, "Rows (0028,0010)"},
		{"7 bits allocated", explicit(fixture{tag.BitsAllocated: us(7)}), Malformed, "BitsAllocated (0028,0100) is 7"},
		{"17 bits stored", explicit(fixture{tag.BitsStored: us(17)}), Malformed, "BitsStored (0028,0101) is 17"},
		{"high bit too low", explicit(fixture{tag.HighBit: us(3)}), Malformed, "HighBit (0028,0102) is 3"},
		{"two samples", explicit(fixture{tag.SamplesPerPixel: us(2)}), Malformed, "SamplesPerPixel (0028,0002) is 2"},
		{"RGB of one sample", explicit(fixture{tag.PhotometricInterpretation: str("CS", "RGB")}), Malformed, "PhotometricInterpretation (0028,0004)"},
		{"palette without a table", explicit(fixture{tag.PhotometricInterpretation: str("CS", "PALETTE COLOR")}), Malformed, "(0028,1101)"},
		{"12 bits allocated", explicit(fixture{tag.BitsAllocated: us(12)}), Malformed, "BitsAllocated (0028,0100) is 12, not 1, 8, 16 or 32"},
		{"segments begin in the air", segmentedOf(16, ow(1, 4, 65535)).file(uid.ExplicitVRLittleEndian), Malformed, "SegmentedRedPaletteColorLookupTableData (0028,1221)"},
		{"segments of an unknown kind", segmentedOf(16, ow(0, 1, 0, 7, 3, 65535)).file(uid.ExplicitVRLittleEndian), Malformed, "(0028,1221) is missing or broken"},
		{"segments end early", segmentedOf(16, ow(0, 9, 0)).file(uid.ExplicitVRLittleEndian), Malformed, "(0028,1221) is missing or broken"},
		{"segments point to themselves", segmentedOf(16, ow(0, 1, 0, 2, 9, 6, 0)).file(uid.ExplicitVRLittleEndian), Malformed, "(0028,1221) is missing or broken"},
		{"segments point beyond", segmentedOf(16, ow(0, 1, 0, 2, 1, 600, 0)).file(uid.ExplicitVRLittleEndian), Malformed, "(0028,1221) is missing or broken"},
		{"too few segments", segmentedOf(16, ow(0, 3, 0, 1, 2)).file(uid.ExplicitVRLittleEndian), Malformed, "(0028,1221) is missing or broken"},
		{"too few pixels", explicit(fixture{tag.PixelData: ow(1, 2, 3)}), Malformed, "truncated: PixelData (7FE0,0010) has 6 bytes"},
		{"cut in the pixels", good[:len(good)-3], Malformed, "truncated: PixelData (7FE0,0010) claims 8 bytes, 5 are left"},
		{"cut in an element", good[:len(good)-15], Malformed, "truncated"},
		{"beyond the limit", explicit(fixture{tag.Rows: us(20000), tag.Columns: us(20001)}), TooLarge, "20001 × 20000 pixels are more than 100000000 (picture.max_pixels)"},
		{"stored sideways", explicit(fixture{tag.PhotometricInterpretation: str("CS", "YBR_PARTIAL_420")}), Malformed, "does not go with 1 samples"},
		{"four gigabytes claimed", huge, Malformed, "SOPInstanceUID (0008,0018) claims 4294967294 bytes"},
		{"sequences without end", nested, Malformed, "nested deeper"},
		{"no fragment", base.encapsulated(jpegBaseline), Malformed, "PixelData (7FE0,0010) holds no fragment"},
		{"fragments in a native syntax", base.encapsulated(uid.ExplicitVRLittleEndian, []byte{1, 2}), Malformed, "is encapsulated"},
		{"broken deflate", append(part10(uid.DeflatedExplicitVRLittleEndian), 0xFF, 0xFF, 0xFF, 0xFF), Malformed, "deflated"},
		{"PNG without a picture", []byte("\x89PNG\r\n\x1a\nnothing"), Malformed, "PNG or JPEG"},
		{"truncated JPEG", jpegOf(t, 64, 64)[:400], Malformed, "jpeg is truncated"},
		{"unknown compression", base.encapsulated("1.2.840.10008.1.2.4.201", []byte{1, 2}), Undecodable, "High-Throughput JPEG 2000 lossless (1.2.840.10008.1.2.4.201): opj_decompress is switched off (picture.opj_decompress)"},
		{"patient data for a syntax", base.encapsulated("DOE^JOHN", []byte{1, 2}), Undecodable, "unnamed: gdcmconv is switched off (picture.gdcmconv)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			failed := fails(t, only(), test.file)
			if failed.Kind != test.kind || !strings.Contains(failed.Reason, test.reason) || failed.Temporary {
				t.Errorf("%v (temporary: %v), want %s: …%s…", failed, failed.Temporary, test.kind, test.reason)
			}
		})
	}
}

// Every prefix of a file, and every file with one byte turned over, ends in a picture or in an *Error.
func TestReadNeverPanics(t *testing.T) {
	reader := NewReader(Options{GDCMConv: "-", MaxPixels: 1 << 16, MaxOutput: 1 << 20})
	for _, syntax := range []string{uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian} {
		file := paletteOf(1, 2, 3, 4).with(fixture{tag.PixelPaddingValue: us(1), tag.ModalityLUTSequence: {vr: "SQ", item: fixture{
			tag.LUTDescriptor: us(2, 0, 16), tag.LUTData: ow(1, 2)}}}).file(syntax)
		for i := range file {
			_, _ = reader.Read(t.Context(), file[:i])
			for _, flip := range []byte{0x01, 0x80, 0xFF} {
				broken := slices.Clone(file)
				broken[i] ^= flip
				if _, err := reader.Read(t.Context(), broken); err != nil && strings.Contains(err.Error(), "broke the reader") {
					t.Fatalf("%s, byte %d ^ %02x: %v", syntax, i, flip, err)
				}
			}
		}
	}
}

func TestReadCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := NewReader(Options{}).Read(ctx, grey16(1, 1, 2).file(uid.ExplicitVRLittleEndian))
	var failed *Error
	if !errors.As(err, &failed) || !failed.Temporary || !errors.Is(err, context.Canceled) {
		t.Errorf("%#v", err)
	}
}

func jpegOf(t *testing.T, width, height int) []byte {
	t.Helper()
	img := image.NewGray(image.Rect(0, 0, width, height))
	for i := range img.Pix {
		img.Pix[i] = byte(i % width * 255 / (width - 1))
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 100}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadOrdinary(t *testing.T) {
	encode := func(img image.Image) []byte {
		var b bytes.Buffer
		if err := png.Encode(&b, img); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	grey, deep, colours := image.NewGray(image.Rect(0, 0, 2, 1)), image.NewGray16(image.Rect(0, 0, 2, 1)), image.NewNRGBA(image.Rect(0, 0, 2, 1))
	grey.Pix = []byte{51, 204}
	deep.SetGray16(0, 0, color.Gray16{Y: 13107})
	deep.SetGray16(1, 0, color.Gray16{Y: 52428})
	colours.SetNRGBA(0, 0, color.NRGBA{R: 255, A: 255})
	colours.SetNRGBA(1, 0, color.NRGBA{G: 255, A: 128})
	for name, test := range map[string]struct {
		file []byte
		want [2]float64
	}{
		"grey": {encode(grey), [2]float64{0.2, 0.8}}, "16 bits": {encode(deep), [2]float64{0.2, 0.8}}, "colour": {encode(colours), [2]float64{0.299, 0.587}},
	} {
		p := read(t, test.file)
		if p.Width != 2 || p.Height != 1 || math.Abs(float64(p.Pixels[0])-test.want[0]) > 1e-3 || math.Abs(float64(p.Pixels[1])-test.want[1]) > 1e-3 || p.Blank {
			t.Errorf("%s: %+v, want %v", name, p, test.want)
		}
	}
	if p := read(t, jpegOf(t, 64, 8)); p.Width != 64 || p.Height != 8 || p.Pixels[0] > 0.02 || p.Pixels[63] < 0.98 {
		t.Errorf("JPEG: %d × %d, %v…%v", p.Width, p.Height, p.Pixels[0], p.Pixels[63])
	}
	if failed := fails(t, Options{MaxPixels: 100}, jpegOf(t, 64, 8)); failed.Kind != TooLarge {
		t.Errorf("512 pixels of 100: %v", failed)
	}
}

func TestReadJPEGBaseline(t *testing.T) {
	f := grey8(64, make([]byte, 64*8)...).with(fixture{tag.WindowCenter: str("DS", "128"), tag.WindowWidth: str("DS", "256")})
	stream := jpegOf(t, 64, 8)
	p := read(t, f.encapsulated(jpegBaseline, stream[:101], stream[101:]))
	inverted := read(t, f.with(fixture{tag.PhotometricInterpretation: str("CS", "MONOCHROME1")}).encapsulated(jpegBaseline, stream))
	for i := range p.Pixels {
		want := float64(i%64) / 63
		if math.Abs(float64(p.Pixels[i])-want) > 0.02 || math.Abs(float64(inverted.Pixels[i])-(1-want)) > 0.02 {
			t.Fatalf("pixel %d: %v and inverted %v, want %v", i, p.Pixels[i], inverted.Pixels[i], want)
		}
	}
}

// Numbers that leave the range of a float32, or a window in which all values are one, are as good as missing: nothing becomes infinite.
func TestNumbersWithoutEnd(t *testing.T) {
	base := grey16(2, 0, 1000, 2000, 4000)
	for name, change := range map[string]fixture{
		"slope":                      {tag.RescaleSlope: str("DS", "-1e308"), tag.RescaleIntercept: str("DS", "0")},
		"slope and intercept":        {tag.RescaleSlope: str("DS", "1e305"), tag.RescaleIntercept: str("DS", "-1.7e308")},
		"slope of nothing":           {tag.RescaleSlope: str("DS", "1e-300"), tag.RescaleIntercept: str("DS", "0")},
		"window of nothing":          windowed("1000", "1e-300", "LINEAR_EXACT"),
		"window too narrow to count": windowed("1e17", "1", "LINEAR_EXACT"),
		"window far away":            windowed("1e308", "1e308", "LINEAR"),
		"sigmoid of nothing":         windowed("1000", "1e-300", "SIGMOID"),
	} {
		t.Run(name, func(t *testing.T) {
			p := read(t, base.with(change).file(uid.ExplicitVRLittleEndian))
			for i, want := range []float32{0, 0.25, 0.5, 1} {
				if math.Abs(float64(p.Pixels[i]-want)) > 0.001 {
					t.Fatalf("%v, want the four steps over the percentiles; %+v", p.Pixels, p.Steps)
				}
			}
		})
	}
}

// An element whose VR is none is read by the dictionary. The library below takes "NA" for one with a length of its own inside the value.
func TestUnknownVR(t *testing.T) {
	l := &ledger{limit: 1 << 40}
	file := grey8(2, 1, 2, 3, 4).with(fixture{tag.StudyDate: {vr: "NA", text: "20260101"}, tag.PatientAge: {vr: "ZZ", text: "012Y"}}).file(uid.ExplicitVRLittleEndian)
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if _, err := NewReader(Options{Reserve: l.reserve}).Read(context.Background(), file); err != nil {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if allocated > 1<<20 {
		t.Errorf("a file of %d bytes takes %d", len(file), allocated)
	}
	if p := read(t, file); p.Header.AgeYears != 12 {
		t.Errorf("%+v", p.Header)
	}
}

// Two 8-bit pixels share a word of OW in big endian: the last of an odd number has its word's other half behind it.
func TestOddBigEndianWords(t *testing.T) {
	f := grey8(3, 10, 20, 30).with(fixture{tag.PixelData: ow(0x140A, 0x001E), tag.WindowCenter: str("DS", "15.5"), tag.WindowWidth: str("DS", "31")})
	p := read(t, f.file(uid.ExplicitVRBigEndian))
	for i, want := range []float32{10.0 / 30, 20.0 / 30, 1} {
		if math.Abs(float64(p.Pixels[i]-want)) > 0.01 {
			t.Fatalf("%v", p.Pixels)
		}
	}
}

// A JPEG may say one thing in its own header and another in the transfer syntax or in Rows and Columns.
func TestJPEGByItsOwnWord(t *testing.T) {
	var baseline bytes.Buffer
	if err := jpeg.Encode(&baseline, image.NewGray(image.Rect(0, 0, 2, 2)), nil); err != nil {
		t.Fatal(err)
	}
	if p := read(t, grey8(2, 1, 2, 3, 4).encapsulated("1.2.840.10008.1.2.4.70", baseline.Bytes())); p.Steps[1].Detail != "JPEG baseline, 8 of 8 bits" {
		t.Errorf("a baseline JPEG that is lossless by name: %+v", p.Steps)
	}
	at := bytes.Index(baseline.Bytes(), []byte{0xFF, 0xC0}) + 7 // columns
	broken := bytes.Clone(baseline.Bytes())
	broken[at], broken[at+1] = 0, 0
	if failed := fails(t, Options{}, grey8(2, 1, 2, 3, 4).encapsulated(jpegBaseline, broken)); failed.Kind != Malformed {
		t.Errorf("a JPEG without columns: %v", failed)
	}
}
