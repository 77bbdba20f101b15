package picture

import (
	"bytes"
	"encoding/binary"
)

// claimedSize returns how large a JPEG, JPEG-LS or JPEG 2000 stream says it is; ok is false where it does not say. A decoder believes
// its stream, not the DICOM header.
func claimedSize(stream []byte) (columns, rows int64, ok bool) {
	// JPEG 2000: SOC and SIZ (ISO/IEC 15444-1, A.5.1), at the start or inside the boxes of a JP2 file.
	boxes := bytes.HasPrefix(stream, []byte("\x00\x00\x00\x0CjP  "))
	if at := bytes.Index(stream, []byte{0xFF, 0x4F, 0xFF, 0x51}); at == 0 || (at > 0 && boxes) {
		siz := stream[at+4:]
		if len(siz) < 20 {
			return 0, 0, false
		}
		at := func(i int) int64 { return int64(binary.BigEndian.Uint32(siz[i:])) }
		return at(4) - at(12), at(8) - at(16), true
	}
	if !bytes.HasPrefix(stream, []byte{0xFF, 0xD8}) {
		return 0, 0, false
	}
	for b := stream[2:]; len(b) >= 9; { // JPEG: the first frame header (ITU-T T.81, B.2.2; T.87 for JPEG-LS)
		switch {
		case b[0] != 0xFF:
			return 0, 0, false
		case b[1] == 0xFF: // a fill byte
			b = b[1:]
		case isFrameHeader(b[1]):
			return int64(binary.BigEndian.Uint16(b[7:])), int64(binary.BigEndian.Uint16(b[5:])), true
		default:
			b = b[min(2+int(binary.BigEndian.Uint16(b[2:])), len(b)):]
		}
	}
	return 0, 0, false
}

// isFrameHeader says whether a marker is one of SOF0…SOF15, or SOF55 of JPEG-LS; DHT, JPG and DAC lie among them.
func isFrameHeader(marker byte) bool {
	return marker == 0xF7 || (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC)
}
