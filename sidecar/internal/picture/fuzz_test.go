package picture

import (
	"errors"
	"strings"
	"testing"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// FuzzRead looks for a file that breaks the reader: go test -fuzz FuzzRead ./sidecar/internal/picture.
func FuzzRead(f *testing.F) {
	rich := paletteOf(1, 2, 3, 4).with(fixture{
		tag.PixelPaddingValue: us(1), tag.PatientAge: str("AS", "012Y"), tag.NumberOfFrames: str("IS", "1"),
		modalityLUTSequence: {vr: "SQ", item: fixture{tag.LUTDescriptor: us(2, 0, 16), tag.LUTData: ow(1, 2)}},
	})
	for _, syntax := range []string{uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian} {
		f.Add(rich.file(syntax))
		f.Add(grey16(2, 1, 2, 3, 4).with(windowed("2", "3", "SIGMOID")).elements(syntax))
	}
	f.Add(grey8(2, 1, 2, 3, 4).encapsulated(jpegBaseline, []byte{0xFF, 0xD8, 0xFF}))
	reader := NewReader(Options{GDCMConv: "-", MaxPixels: 1 << 16, MaxOutput: 1 << 20})
	f.Fuzz(func(t *testing.T, file []byte) {
		p, err := reader.Read(t.Context(), file)
		var failed *Error
		switch {
		case err == nil && len(p.Pixels) != p.Width*p.Height:
			t.Errorf("%d values for %d × %d", len(p.Pixels), p.Width, p.Height)
		case err != nil && (!errors.As(err, &failed) || strings.Contains(failed.Reason, "broke the reader")):
			t.Errorf("%v", err)
		}
	})
}
