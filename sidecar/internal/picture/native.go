package picture

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/suyashkumar/dicom/pkg/tag"
)

// pixelFormat is the part of the Image Pixel module (PS3.3, C.7.6.3) that says how pixels lie in their bytes.
type pixelFormat struct {
	rows, columns int
	samples       int // 1 or 3
	allocated     int // 1, 8, 16 or 32
	stored        int // 1…allocated
	shift         int // bits below the stored ones
	signed        bool
	planar        bool
	photometric   string
}

func (f pixelFormat) pixels() int { return f.rows * f.columns }

// bytes returns the length of one frame.
func (f pixelFormat) bytes() int64 {
	return (int64(f.pixels())*int64(f.samples)*int64(f.allocated) + 7) / 8
}

// format reads and checks the description of the pixels; rows × columns is at most maxPixels.
func (d *dataset) format(maxPixels int64) (f pixelFormat, err error) {
	numbers := map[tag.Tag]int{}
	for t, missing := range map[tag.Tag]int{
		tag.Rows: -1, tag.Columns: -1, tag.BitsAllocated: -1, tag.BitsStored: 0, tag.HighBit: -1,
		tag.SamplesPerPixel: 1, tag.PixelRepresentation: 0, tag.PlanarConfiguration: 0,
	} {
		n, failed := d.integer(t, missing)
		if failed != nil {
			return f, failed
		}
		numbers[t] = n
	}
	for _, t := range []tag.Tag{tag.Rows, tag.Columns, tag.BitsAllocated} {
		switch {
		case numbers[t] == -1:
			return f, failure(Malformed, "%s is missing", name(t))
		case numbers[t] <= 0:
			return f, failure(Malformed, "%s is %d", name(t), numbers[t])
		}
	}
	if int64(numbers[tag.Rows])*int64(numbers[tag.Columns]) > maxPixels {
		return f, tooManyPixels(int64(numbers[tag.Columns]), int64(numbers[tag.Rows]), maxPixels)
	}
	f = pixelFormat{
		rows: numbers[tag.Rows], columns: numbers[tag.Columns], samples: numbers[tag.SamplesPerPixel],
		allocated: numbers[tag.BitsAllocated], stored: numbers[tag.BitsStored],
		signed: numbers[tag.PixelRepresentation] == 1, planar: numbers[tag.PlanarConfiguration] == 1,
		photometric: strings.ToUpper(d.text(tag.PhotometricInterpretation)),
	}
	return f.complete(numbers[tag.HighBit])
}

// exceeds says whether columns × rows is more than most, for numbers whose product no integer holds.
func exceeds(columns, rows, most int64) bool { return columns > 0 && rows > most/columns }

func tooManyPixels(columns, rows, most int64) *Error {
	return failure(TooLarge, "%d × %d pixels are more than %d (picture.max_pixels)", columns, rows, most)
}

// complete checks the numbers against each other. high is HighBit, or -1 when missing.
func (f pixelFormat) complete(high int) (pixelFormat, error) {
	switch f.allocated {
	case 1, 8, 16, 32:
	default:
		return f, failure(Malformed, "%s is %d, not 1, 8, 16 or 32", name(tag.BitsAllocated), f.allocated)
	}
	if f.samples != 1 && f.samples != 3 {
		return f, failure(Malformed, "%s is %d, not 1 or 3", name(tag.SamplesPerPixel), f.samples)
	}
	if f.samples == 3 && f.allocated == 1 {
		return f, failure(Malformed, "%s is %d for a colour picture", name(tag.BitsAllocated), f.allocated)
	}
	if f.stored == 0 {
		f.stored = f.allocated
	}
	if f.stored < 0 || f.stored > f.allocated {
		return f, failure(Malformed, "%s is %d of %d", name(tag.BitsStored), f.stored, f.allocated)
	}
	if high == -1 {
		high = f.stored - 1
	}
	f.shift = high + 1 - f.stored
	if f.shift < 0 || high >= f.allocated {
		return f, failure(Malformed, "%s is %d for %d bits stored of %d", name(tag.HighBit), high, f.stored, f.allocated)
	}
	if f.photometric == "" {
		f.photometric = map[int]string{1: "MONOCHROME2", 3: "RGB"}[f.samples]
	}
	switch {
	case f.samples == 1 && (strings.HasPrefix(f.photometric, "MONOCHROME") || f.photometric == "PALETTE COLOR"):
	case f.samples == 3 && (f.photometric == "RGB" || strings.HasPrefix(f.photometric, "YBR_")):
	default:
		return f, failure(Malformed, "%s does not go with %d samples a pixel", name(tag.PhotometricInterpretation), f.samples)
	}
	return f, nil
}

// raster is a picture before rescale. Either codes or values is set, with one entry a pixel, row-major.
type raster struct {
	format pixelFormat
	codes  []uint16  // stored bits without sign, < 1<<format.stored: grey up to 16 bits, or indices of a palette
	values []float32 // luminance of a colour picture, or grey stored values of more than 16 bits; NaN where padding or hidden
	hidden []bool    // nil, or which pixels a display shutter covers
}

// decodeNative reads uncompressed pixels. padding tells which stored values of more than 16 bits to leave out.
func decodeNative(f pixelFormat, b []byte, order binary.ByteOrder, wordSwapped bool, padding paddingRange) (*raster, error) {
	n := f.pixels()
	if (f.photometric == "YBR_FULL_422" || f.photometric == "YBR_PARTIAL_422") && f.allocated == 8 && int64(len(b)) < f.bytes() {
		return decode422(f, b)
	}
	if int64(len(b)) < f.bytes() {
		return nil, failure(Malformed, "truncated: %s has %d bytes, %d × %d pixels need %d",
			name(pixelDataTag), len(b), f.columns, f.rows, f.bytes())
	}
	if wordSwapped {
		b = swapBytes(b[:min(int64(len(b)), f.bytes()+f.bytes()%2)]) // the last of an odd number shares its word with a byte of padding
	}
	if f.samples == 3 {
		return &raster{format: f, values: luminances(f, b, order)}, nil
	}
	if f.allocated == 32 {
		return &raster{format: f, values: decode32(f, b, order, padding)}, nil
	}
	codes := newCodes(n)
	mask := uint16(1<<f.stored - 1)
	switch {
	case f.allocated == 1:
		for i := range codes {
			codes[i] = uint16(b[i/8]>>(i%8)) & 1
		}
	case f.allocated == 8:
		for i, v := range b[:n] {
			codes[i] = uint16(v) >> f.shift & mask
		}
	case order == binary.BigEndian:
		for i := range codes {
			codes[i] = binary.BigEndian.Uint16(b[2*i:]) >> f.shift & mask
		}
	default:
		b = b[:2*n]
		for i := range codes {
			codes[i] = binary.LittleEndian.Uint16(b[2*i:]) >> f.shift & mask
		}
	}
	return &raster{format: f, codes: codes}, nil
}

// swapBytes undoes OW in big endian of 8-bit pixels: two of them share a word (PS3.5, 8.1.1).
func swapBytes(b []byte) []byte {
	swapped := make([]byte, len(b))
	copy(swapped, b)
	for i := 0; i+1 < len(b); i += 2 {
		swapped[i], swapped[i+1] = b[i+1], b[i]
	}
	return swapped
}

func decode32(f pixelFormat, b []byte, order binary.ByteOrder, padding paddingRange) []float32 {
	values := make([]float32, f.pixels())
	for i := range values {
		v := f.value(order.Uint32(b[4*i:]) >> f.shift)
		if padding.contains(v) {
			values[i] = float32(math.NaN())
			continue
		}
		values[i] = float32(v)
	}
	return values
}

// value extends the sign of stored bits.
func (f pixelFormat) value(code uint32) int64 {
	v := int64(code) & (1<<f.stored - 1)
	if f.signed && v >= 1<<(f.stored-1) {
		v -= 1 << f.stored
	}
	return v
}

// luminances mixes three samples into 0.299 R + 0.587 G + 0.114 B, in units of the samples. Of the YBR interpretations that is the
// first sample itself.
func luminances(f pixelFormat, b []byte, order binary.ByteOrder) []float32 {
	n := f.pixels()
	mask := uint32(uint64(1)<<f.stored - 1)
	sample := func(i int) float32 {
		switch f.allocated {
		case 8:
			return float32(uint32(b[i]) >> f.shift & mask)
		case 16:
			return float32(uint32(order.Uint16(b[2*i:])) >> f.shift & mask)
		default:
			return float32(order.Uint32(b[4*i:]) >> f.shift & mask)
		}
	}
	step, plane := 3, 1
	if f.planar {
		step, plane = 1, n
	}
	values := make([]float32, n)
	for i := range values {
		if f.photometric == "RGB" {
			values[i] = luminance(sample(i*step), sample(i*step+plane), sample(i*step+2*plane))
		} else {
			values[i] = sample(i * step)
		}
	}
	return values
}

func luminance(r, g, b float32) float32 { return 0.299*r + 0.587*g + 0.114*b }

// decode422 reads YBR_FULL_422 and YBR_PARTIAL_422: Y1 Y2 Cb Cr for two pixels of a row (PS3.3, C.7.6.3.1.2).
func decode422(f pixelFormat, b []byte) (*raster, error) {
	if f.columns%2 == 1 || len(b) < 2*f.pixels() {
		return nil, failure(Malformed, "truncated: %s has %d bytes, %d × %d pixels of %s need %d",
			name(pixelDataTag), len(b), f.columns, f.rows, f.photometric, 2*f.pixels())
	}
	values := make([]float32, f.pixels())
	for i := range values {
		values[i] = float32(b[i/2*4+i%2])
	}
	return &raster{format: f, values: values}, nil
}

// paddingRange is the stored values that stand for "no picture here", both ends included.
type paddingRange struct {
	low, high int64
	set       bool
}

func (p paddingRange) contains(v int64) bool { return p.set && v >= p.low && v <= p.high }

// padding reads PixelPaddingValue and PixelPaddingRangeLimit (PS3.3, C.7.5.1.1.2). A broken one is none.
func (d *dataset) padding(f pixelFormat) paddingRange {
	if f.samples != 1 || f.photometric == "PALETTE COLOR" {
		return paddingRange{}
	}
	values, err := ints(d.elements, tag.PixelPaddingValue)
	if err != nil || len(values) == 0 {
		return paddingRange{}
	}
	p := paddingRange{low: f.signedWord(values[0]), set: true}
	p.high = p.low
	if limits, err := ints(d.elements, tag.PixelPaddingRangeLimit); err == nil && len(limits) > 0 {
		limit := f.signedWord(limits[0])
		p.low, p.high = min(p.low, limit), max(p.high, limit)
	}
	return p
}

// signedWord reads a value of VR "US or SS" as the pixels are read; in implicit files, and in some others, the VR does not tell.
func (f pixelFormat) signedWord(v int) int64 {
	if f.signed {
		return int64(int16(v))
	}
	return int64(uint16(v))
}
