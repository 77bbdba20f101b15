package picture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
)

// pgxPlane is one component of a picture as PGX holds it (ISO/IEC 15444-4, annex B): a line "PG ML + 12 2500 3000", then the samples
// in 1, 2 or 4 bytes each.
type pgxPlane struct {
	columns, rows, bits int
	signed              bool
	order               binary.ByteOrder
	samples             []byte
}

func parsePGX(content []byte) (pgxPlane, bool) {
	line, _, found := bytes.Cut(content[:min(len(content), 64)], []byte("\n"))
	if !found {
		return pgxPlane{}, false
	}
	var order, sign string
	p := pgxPlane{order: binary.BigEndian, samples: content[len(line)+1:]}
	if n, _ := fmt.Sscanf(string(line), "PG %s %1s%d %d %d", &order, &sign, &p.bits, &p.columns, &p.rows); n != 5 {
		return p, false
	}
	if order == "LM" {
		p.order = binary.LittleEndian
	}
	p.signed = sign == "-"
	return p, p.bits > 0 && p.bits <= 32 && p.columns > 0 && p.rows > 0
}

// allocated returns the bits that a sample takes.
func (p pgxPlane) allocated() int {
	switch {
	case p.bits <= 8:
		return 8
	case p.bits <= 16:
		return 16
	default:
		return 32
	}
}

// readPGX reads the components that opj_decompress has written. Of a picture of luminance and colour differences only the first
// counts. The codestream says how many bits there are, whatever the header says; they are signed where one of them says so, for some
// writers put two's complement into a stream that is not signed.
func (r *Reader) readPGX(program string, d *dataset, f pixelFormat, outputs []string) (*raster, error) {
	if len(outputs) != f.samples {
		return nil, failure(Undecodable, "%s wrote %d components of %d", program, len(outputs), f.samples)
	}
	if f.photometric == "YBR_RCT" || f.photometric == "YBR_ICT" {
		f.photometric = "RGB" // the decoder has turned the transform of the codestream round (PS3.5, 8.2.4)
	}
	if f.photometric != "RGB" {
		outputs = outputs[:1]
	}
	var first pgxPlane
	var samples []byte
	for i, path := range outputs {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		plane, ok := parsePGX(content)
		if i == 0 {
			first, samples = plane, plane.samples
		}
		if !ok || plane.columns != first.columns || plane.rows != first.rows || plane.bits != first.bits {
			return nil, failure(Undecodable, "%s wrote components that do not go together", program)
		}
		if i > 0 {
			samples = append(samples, plane.samples...)
		}
	}
	if int64(first.columns)*int64(first.rows) > r.options.MaxPixels {
		return nil, tooManyPixels(int64(first.columns), int64(first.rows), r.options.MaxPixels)
	}
	f.columns, f.rows, f.planar, f.signed = first.columns, first.rows, true, f.signed || first.signed
	f.allocated, f.stored, f.shift = first.allocated(), first.bits, 0
	if strings.HasPrefix(f.photometric, "YBR_") {
		f.samples, f.photometric = 1, "YBR_FULL" // one plane is left of it
		return decodeLuminance(f, samples, first.order)
	}
	return decodeNative(f, samples, first.order, false, d.padding(f))
}

// decodeLuminance reads the first component of a picture of luminance and colour differences.
func decodeLuminance(f pixelFormat, samples []byte, order binary.ByteOrder) (*raster, error) {
	if int64(len(samples)) < f.bytes() {
		return nil, failure(Malformed, "truncated: the decoder wrote %d bytes, %d × %d pixels need %d", len(samples), f.columns, f.rows, f.bytes())
	}
	values := luminances(f, samples, order)
	f.samples = 3
	return &raster{format: f, values: values}, nil
}
