package picture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"strings"
	"testing"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// ledger notes what was reserved and what was given back.
type ledger struct {
	limit, held, most int64
}

var errNoMemory = errors.New("memory.limit leaves too little")

func (l *ledger) reserve(_ context.Context, n int64) (func(), error) {
	if n > l.limit {
		return nil, errNoMemory
	}
	l.held += n
	l.most = max(l.most, l.held)
	return func() { l.held -= n }, nil
}

// Whatever becomes of a file, its memory is reserved once, is enough, and is given back.
func TestReserve(t *testing.T) {
	big := grey16(600, make([]uint16, 600*500)...)
	var photo, baseline bytes.Buffer
	if err := errors.Join(png.Encode(&photo, image.NewRGBA(image.Rect(0, 0, 64, 64))), jpeg.Encode(&baseline, image.NewGray(image.Rect(0, 0, 300, 200)), nil)); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name      string
		file      []byte
		least     int64 // that must be reserved
		succeeds  bool
		remaining int64 // in the hands of the picture, as a share of most: all of it
	}{
		{"native", big.file(uid.ExplicitVRLittleEndian), 600 * 500 * 6, true, 1},
		{"big endian", big.file(uid.ExplicitVRBigEndian), 600 * 500 * 8, true, 1},
		{"deflated", big.file(uid.DeflatedExplicitVRLittleEndian), 600 * 500 * 8, true, 1},
		{"truncated", big.file(uid.ExplicitVRLittleEndian)[:5000], 0, false, 0},
		{"too few pixels", big.with(fixture{tag.Rows: us(501)}).file(uid.ExplicitVRLittleEndian), 600 * 501 * 6, false, 0},
		{"deflated, then broken", big.with(fixture{tag.Rows: us(501)}).file(uid.DeflatedExplicitVRLittleEndian), 600 * 500 * 8, false, 0},
		{"JPEG larger than its header", grey8(2, 1, 2, 3, 4).encapsulated(jpegBaseline, baseline.Bytes()), 300 * 200 * 9, true, 1},
		{"PNG", photo.Bytes(), 64 * 64 * 12, true, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := &ledger{limit: 1 << 40}
			p, err := NewReader(Options{GDCMConv: "-", Reserve: l.reserve}).Read(t.Context(), test.file)
			if (err == nil) != test.succeeds {
				t.Fatalf("%v", err)
			}
			if l.most < test.least || l.held != test.remaining*l.most {
				t.Errorf("%d reserved, %d held at the end; want at least %d", l.most, l.held, test.least)
			}
			if p != nil {
				p.Release()
			}
			if l.held != 0 {
				t.Errorf("%d are held for ever", l.held)
			}
		})
	}
}

// What there is no memory for is refused with the reason that Reserve gives; a wait that was interrupted is another matter.
func TestReserveRefuses(t *testing.T) {
	file := grey16(600, make([]uint16, 600*500)...).file(uid.ExplicitVRLittleEndian)
	l := &ledger{limit: 1 << 20}
	if failed := fails(t, Options{Reserve: l.reserve}, file); failed.Kind != TooLarge || failed.Temporary || failed.Reason != errNoMemory.Error() {
		t.Errorf("%+v", failed)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := NewReader(Options{Reserve: func(ctx context.Context, _ int64) (func(), error) {
		cancel()
		return nil, ctx.Err()
	}}).Read(ctx, file)
	var failed *Error
	if !errors.As(err, &failed) || !failed.Temporary || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// A file of nothing but structure costs memory in proportion to its own size.
func TestStructureBombs(t *testing.T) {
	var items fixture = map[tag.Tag]field{}
	for i := range 20_000 {
		items[tag.Tag{Group: uint16(0x1001 + i/250*2), Element: uint16(0x1000 + i%250)}] = us(1)
	}
	windows := grey16(2, 0, 1, 2, 3).with(fixture{voiLUTSequence: {vr: "SQ", item: items}}).file(uid.ExplicitVRLittleEndian)
	fragments := make([][]byte, maxFragments+10)
	many := grey8(2, 1, 2, 3, 4).encapsulated(jpegBaseline, fragments...)
	bytesOf := func(file []byte) float64 {
		result := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if p, err := NewReader(Options{GDCMConv: "-"}).Read(context.Background(), file); err == nil {
					p.Release()
				}
			}
		})
		return float64(result.AllocedBytesPerOp())
	}
	if each := bytesOf(windows) / float64(len(windows)); each > 6 { // its value, tables of 65,536 levels, and nothing for each element
		t.Errorf("a sequence of %d bytes takes %.1f bytes for each of them", len(windows), each)
	}
	if each := bytesOf(many) / float64(len(many)); each > 20 {
		t.Errorf("%d fragments take %.1f bytes for each byte of the file", len(fragments), each)
	}
	if failed := fails(t, Options{GDCMConv: "-"}, many); failed.Kind != Malformed || !strings.Contains(failed.Reason, fmt.Sprint(maxFragments)) {
		t.Errorf("%v", failed)
	}
}
