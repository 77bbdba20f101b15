package picture

import "encoding/binary"

const (
	rleLossless  = "1.2.840.10008.1.2.5"
	rleHeader    = 64 // bytes: the number of segments and 15 offsets (PS3.5, G.5)
	rleSegments  = 15 // at most
	rleNoOperand = -128
)

// decodeRLE reads RLE Lossless (PS3.5, annex G): one segment for each byte of each sample, most significant first.
func decodeRLE(f pixelFormat, stream []byte, padding paddingRange) (*raster, error) {
	width := f.allocated / 8
	if width == 0 {
		return nil, failure(Malformed, "RLE of %d bits a pixel", f.allocated)
	}
	if len(stream) < rleHeader {
		return nil, failure(Malformed, "truncated: %d bytes are too few for an RLE header", len(stream))
	}
	segments, wanted := int64(binary.LittleEndian.Uint32(stream)), f.samples*width
	if segments != int64(wanted) || wanted > rleSegments {
		return nil, failure(Malformed, "RLE of %d segments where %d samples of %d bits need %d", segments, f.samples, f.allocated, wanted)
	}
	n := f.pixels()
	frame := newFrame(n * wanted)
	defer giveToPool(&frameBuffers, frame)
	for s := range wanted {
		start, end := int64(binary.LittleEndian.Uint32(stream[4+4*s:])), int64(len(stream))
		if s+1 < wanted {
			end = int64(binary.LittleEndian.Uint32(stream[8+4*s:]))
		}
		if start < rleHeader || start > end || end > int64(len(stream)) {
			return nil, failure(Malformed, "RLE segment %d lies at bytes %d to %d of %d", s+1, start, end, len(stream))
		}
		sample, significance := s/width, width-1-s%width // the frame is little endian, one plane for each sample
		got := unpack(frame[sample*n*width+significance:], stream[start:end], n, width)
		if got < n {
			return nil, failure(Malformed, "truncated: RLE segment %d ends after %d of %d pixels", s+1, got, n)
		}
	}
	f.planar = true
	return decodeNative(f, frame, binary.LittleEndian, false, padding)
}

// unpack writes n bytes of packed runs into every step-th byte of to, and returns how many there were (PS3.5, G.3).
func unpack(to, packed []byte, n, step int) int {
	got := 0
	for len(packed) > 1 && got < n {
		operand := int(int8(packed[0]))
		packed = packed[1:]
		switch {
		case operand >= 0:
			run := min(operand+1, len(packed), n-got)
			for i, v := range packed[:run] {
				to[(got+i)*step] = v
			}
			got += run
			packed = packed[run:]
		case operand != rleNoOperand:
			run := min(1-operand, n-got)
			for i := range run {
				to[(got+i)*step] = packed[0]
			}
			got += run
			packed = packed[1:]
		}
	}
	return got
}
