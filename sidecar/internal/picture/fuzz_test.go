package picture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// marked stands in the seeds where a patient's name may stand, and where a broken writer may have put it. Nothing of it may be repeated.
const marked = "QZX^MARKED"

// The limits of the fuzzed reader: small, so that an allocation beyond them shows.
const (
	fuzzPixels = int64(1) << 16
	fuzzOutput = int64(1) << 20
	// beyondPixels is what a read may allocate whatever its pixels: tables of 65,536 entries for rescale, histogram, percentiles and
	// display, two inflaters, single values of at most 1 MiB that are copied when they are decoded.
	beyondPixels = int64(16) << 20
	bytesAPixel  = 64 // all buffers of a read together, those of Go's PNG and JPEG decoders included
	bytesAByte   = 64 // of the file: its elements and fragments, 24 bytes of slice for 8 of header
)

// FuzzRead looks for a file that breaks the reader, or its promises (see checkRead).
func FuzzRead(f *testing.F) {
	for _, file := range seedFiles() {
		f.Add(file)
	}
	addShared(f, 64<<10)
	reader := fuzzReader()
	f.Fuzz(func(t *testing.T, file []byte) { checkRead(t, reader, file) })
}

func fuzzReader() *Reader {
	return NewReader(Options{
		GDCMConv: switchedOff, DCMDJPEG: switchedOff, DCMDJPLS: switchedOff, OPJDecompress: switchedOff, MaxPixels: fuzzPixels, MaxOutput: fuzzOutput,
	})
}

// checkRead reads a file and holds the answer against what the package promises: an *Error with a reason that repeats nothing of the
// file, or a picture within the bounds whose every value is 0…1; the same again from buffers that hold another picture's pixels; and
// memory in proportion to the bounds and the file.
func checkRead(t *testing.T, reader *Reader, file []byte) {
	t.Helper()
	before := allocated()
	p, err := reader.Read(t.Context(), file)
	if used, limit := allocated()-before, bytesAPixel*fuzzPixels+fuzzOutput+beyondPixels+bytesAByte*int64(len(file)); used > limit {
		t.Errorf("%d bytes were allocated for a file of %d, more than %d", used, len(file), limit)
	}
	if err != nil {
		checkError(t, err)
		return
	}
	checkPicture(t, p)
	first := slices.Clone(p.Pixels)
	for i := range p.Pixels {
		p.Pixels[i] = float32(math.NaN())
	}
	p.Release()
	again, err := reader.Read(t.Context(), file)
	if err != nil {
		t.Fatalf("read once, and then not: %v", err)
	}
	if !slices.Equal(first, again.Pixels) {
		t.Errorf("the second read gave another picture")
	}
	again.Release()
}

func checkError(t *testing.T, err error) {
	t.Helper()
	var failed *Error
	switch {
	case !errors.As(err, &failed):
		t.Errorf("%T is no *Error: %v", err, err)
	case failed.Reason == "" || !slices.Contains([]Kind{NotAPicture, Undecodable, Malformed, TooLarge}, failed.Kind):
		t.Errorf("no reason, or an unknown kind: %q", failed.Error())
	case strings.Contains(failed.Reason, "broke the reader"):
		t.Errorf("%v", err)
	case repeats(failed.Error()):
		t.Errorf("the error repeats what stands in the file: %v", err)
	}
}

func checkPicture(t *testing.T, p *Picture) {
	t.Helper()
	if p.Width < 1 || p.Height < 1 || len(p.Pixels) != p.Width*p.Height || int64(len(p.Pixels)) > fuzzPixels {
		t.Fatalf("%d values for %d × %d", len(p.Pixels), p.Width, p.Height)
	}
	for i, y := range p.Pixels {
		if !(y >= 0 && y <= 1) {
			t.Fatalf("pixel %d is %v", i, y)
		}
	}
	if !(p.PixelAspect >= leastAspect && p.PixelAspect <= greatestAspect) {
		t.Errorf("a pixel is %v times as high as wide", p.PixelAspect)
	}
	for _, s := range p.Steps { // they are stored
		if repeats(s.Name + s.Detail) {
			t.Errorf("step %s repeats what stands in the file: %s", s.Name, s.Detail)
		}
	}
	if h := p.Header; h.AgeKnown && !(h.AgeYears >= 0 && h.AgeYears <= oldest) {
		t.Errorf("an age of %v", h.AgeYears)
	}
	for _, s := range []Spec{{Size: 32, Normalisation: PerImage}, {Size: 9, Normalisation: MeanStd, Mean: 0.5, Std: 0.25, Pad: -1}} {
		tensor := p.Tensor(s)
		if len(tensor) != s.Size*s.Size {
			t.Fatalf("a tensor of %d values for %d × %d", len(tensor), s.Size, s.Size)
		}
		for i, v := range tensor {
			if !finite(float64(v)) {
				t.Fatalf("value %d of the tensor is %v", i, v)
			}
		}
	}
}

func repeats(text string) bool { return strings.Contains(strings.ToUpper(text), "QZX") }

// allocated is how many bytes this process has ever asked of the heap.
func allocated() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// seedFiles returns a file of nobody for each way through the reader, with a mark where a name could be.
func seedFiles() [][]byte {
	named := fixture{
		tag.PatientName: str("PN", marked), tag.PatientID: str("LO", marked), tag.BodyPartExamined: str("CS", marked),
		tag.PatientAge: str("AS", "012Y"), tag.PatientBirthDate: str("DA", "20200101"), tag.StudyDate: str("DA", "20260101"),
	}
	ramp := grey16(8, ramp16(64, 4095)...).with(named)
	lut := fixture{tag.LUTDescriptor: us(4, 0, 16), tag.LUTData: ow(1, 2, 3, 65535), tag.LUTExplanation: str("LO", marked)}
	kinds := []fixture{
		ramp, ramp.with(windowed("2000", "1000", "SIGMOID")), ramp.with(windowed(marked, marked, marked)),
		// Numbers that become infinite, or nothing, when they are used.
		ramp.with(windowed("65", "1e-300", "LINEAR_EXACT")), ramp.with(windowed("65", "1e-320", "SIGMOID")), ramp.with(windowed("-1e308", "1.7e308", "LINEAR")),
		ramp.with(windowed("0", "1e-310", "")).with(slope("1e-310", "0")), ramp.with(slope("-1e308", "0")), ramp.with(slope("1e305", "-1.7e308")),
		ramp.with(slope("1e-320", "1")), ramp.with(slope("1e38", "0")).with(fixture{tag.BitsAllocated: us(32), tag.BitsStored: us(32), tag.HighBit: us(31), tag.Rows: us(4)}),
		ramp.with(fixture{tag.PhotometricInterpretation: str("CS", "MONOCHROME1"), tag.PixelPaddingValue: us(0), tag.PixelPaddingRangeLimit: us(64)}),
		ramp.with(fixture{modalityLUTSequence: {vr: "SQ", item: lut}, voiLUTSequence: {vr: "SQ", item: lut}}),
		ramp.with(slope("-2.5", "1e3")).with(fixture{presentationShape: str("CS", "INVERSE")}),
		ramp.with(fixture{tag.PixelRepresentation: us(1), tag.NumberOfFrames: str("IS", "1")}),
		ramp.with(fixture{tag.BitsAllocated: us(32), tag.BitsStored: us(32), tag.HighBit: us(31), tag.Rows: us(4)}),
		ramp.with(fixture{tag.BitsAllocated: us(1), tag.BitsStored: us(1), tag.HighBit: us(0)}),
		ramp.with(fixture{tag.PhotometricInterpretation: str("CS", marked)}), ramp.with(fixture{tag.NumberOfFrames: str("IS", marked)}),
		ramp.with(fixture{tag.StudyDate: {vr: "NA", text: "20260101"}}), // no VR, but a length of 32 bits to suyashkumar/dicom
		ramp.with(device(shutter, `RECTANGULAR\CIRCULAR`, "3 8 2 6", `4\5 3`, "")), ramp.with(device(shutter, "POLYGONAL", "", "", `1\1\9\1\9\10\1\10\5\5`)),
		ramp.with(device(collimator, "POLYGONAL", "", "", `-999999999\1\2147483647\1\5\999999999`)), ramp.with(device(shutter, marked, marked+" 1 2 3", "", "")),
		ramp.with(fixture{tag.PixelSpacing: str("DS", `1e-300\1e300`), tag.PixelAspectRatio: str("IS", `9\1`)}),
		segmentedOf(16, ow(0, 2, 0, 21845, 2, 1, 24, 0, 0, 2, 9, 9, 0, 2, 43690, 65535)), segmentedOf(8, bin("OW", 0, 2, 0, 85, 2, 1, 14, 0, 0, 0, 0, 2, 9, 9, 0, 2, 170, 255)),
		grey8(2, 1, 2, 3, 4).with(named), paletteOf(1, 2, 3, 4).with(named),
		colour("RGB").with(named), colour("YBR_FULL_422").with(named), colour("YBR_" + marked),
	}
	var files [][]byte
	for _, kind := range kinds {
		for _, syntax := range nativeSyntaxes {
			files = append(files, kind.file(syntax))
		}
	}
	for _, syntax := range []string{marked, jpegBaseline, encapsulatedLittle, deflatedImageFrame, "1.2.840.10008.1.2.4.90"} {
		files = append(files, ramp.encapsulated(syntax, []byte{0xFF, 0xD8, 0xFF}, []byte(marked)))
	}
	packed := append([]byte{1, 0, 0, 0, 64, 0, 0, 0}, make([]byte, 56)...)
	files = append(files, grey8(2, 1, 2, 3, 4).with(named).encapsulated(rleLossless, append(packed, 1, 1, 2, 0xFF, 3)),
		ramp.encapsulated(rleLossless, append(slices.Concat([]byte{2, 0, 0, 0, 64, 0, 0, 0, 66, 0, 0, 0}, make([]byte, 52)), 0xC1, 7, 0xC1, 9)))
	for _, picture := range seedPictures() {
		files = append(files, picture, grey8(2, 1, 2, 3, 4).with(named).encapsulated(jpegBaseline, picture))
		if at := bytes.Index(picture, []byte{0xFF, 0xC0}); at >= 0 { // a JPEG without columns
			none := bytes.Clone(picture)
			copy(none[at+7:], []byte{0, 0})
			files = append(files, none, grey8(2, 1, 2, 3, 4).with(named).encapsulated(jpegBaseline, none))
		}
	}
	return append(files, ramp.elements(uid.ImplicitVRLittleEndian), ramp.elements(uid.ExplicitVRBigEndian), deep(40), deep(20))
}

func slope(slope, intercept string) fixture {
	return fixture{tag.RescaleSlope: str("DS", slope), tag.RescaleIntercept: str("DS", intercept)}
}

// colour returns a picture of three samples a pixel.
func colour(photometric string) fixture {
	return grey8(4, make([]byte, 16)...).with(fixture{
		tag.SamplesPerPixel: us(3), tag.PlanarConfiguration: us(0), tag.PhotometricInterpretation: str("CS", photometric),
		tag.PixelData: bin("OB", bytes.Repeat([]byte{10, 200, 30, 90}, 12)...),
	})
}

// deep returns a file with sequences of undefined length inside one another.
func deep(levels int) []byte {
	b := part10(uid.ExplicitVRLittleEndian)
	for range levels {
		b = appendElement(b, binary.LittleEndian, tag.ReferencedStudySequence, "SQ", nil)
		copy(b[len(b)-4:], "\xFF\xFF\xFF\xFF")
		b = appendItemHeader(b, itemTag, undefinedLength)
	}
	return append(b, grey8(2, 1, 2, 3, 4).elements(uid.ExplicitVRLittleEndian)...)
}

// addShared adds the real files of at most so many bytes where they are at hand. They are read when the fuzzing begins, and are not part
// of the repository; nor may be what the fuzzing makes of them.
func addShared(f *testing.F, most int64) {
	f.Helper()
	root := os.Getenv("IMAGINGROUTER_SHARED")
	if root == "" {
		root = filepath.Join("..", "..", "..", "..", "shared")
	}
	_ = filepath.WalkDir(filepath.Join(root, "dicom"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil //nolint:nilerr // where there are none, the drawn ones do
		}
		if known, err := e.Info(); err != nil || known.Size() > most {
			return err
		}
		file, err := os.ReadFile(path)
		if err == nil {
			f.Add(file)
		}
		return err
	})
}
