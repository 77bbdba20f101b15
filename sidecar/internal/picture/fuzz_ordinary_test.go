package picture

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"testing"
)

// FuzzOrdinary looks for a PNG or a JPEG that breaks the reader, or its promises (see checkRead). The checksums of a PNG's chunks are put
// right first: else nearly every change would end at the first of them.
func FuzzOrdinary(f *testing.F) {
	for _, file := range seedPictures() {
		f.Add(file)
	}
	reader := fuzzReader()
	f.Fuzz(func(t *testing.T, file []byte) {
		if sniff(file) == formatPNG {
			file = withChecksums(file)
		}
		checkRead(t, reader, file)
	})
}

// seedPictures returns PNGs and JPEGs of each kind that Go writes.
func seedPictures() [][]byte {
	area := image.Rect(0, 0, 16, 12)
	kinds := []interface {
		image.Image
		Set(x, y int, c color.Color)
	}{
		image.NewGray(area), image.NewGray16(area), image.NewNRGBA(area), image.NewNRGBA64(area), image.NewRGBA(area),
		image.NewPaletted(area, color.Palette{color.Black, color.White, color.Transparent}),
	}
	var files [][]byte
	for _, kind := range kinds {
		for i := range area.Dx() * area.Dy() {
			kind.Set(i%area.Dx(), i/area.Dx(), color.NRGBA64{R: uint16(i * 300), G: uint16(i * 200), B: uint16(i), A: uint16(60000 + i)})
		}
		var asPNG, asJPEG bytes.Buffer
		_ = png.Encode(&asPNG, kind) // writes to memory do not fail
		_ = jpeg.Encode(&asJPEG, kind, nil)
		files = append(files, asPNG.Bytes(), asJPEG.Bytes())
	}
	return files
}

// withChecksums returns the PNG with the CRC of each whole chunk computed anew.
func withChecksums(file []byte) []byte {
	file = bytes.Clone(file)
	for rest := file[8:]; len(rest) >= 12; {
		n := int64(binary.BigEndian.Uint32(rest))
		if n > int64(len(rest)-12) {
			break
		}
		binary.BigEndian.PutUint32(rest[8+n:], crc32.ChecksumIEEE(rest[4:8+n]))
		rest = rest[12+n:]
	}
	return file
}
