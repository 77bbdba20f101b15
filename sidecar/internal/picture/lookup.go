package picture

import (
	"encoding/binary"

	"github.com/suyashkumar/dicom"
	"github.com/suyashkumar/dicom/pkg/tag"
)

// lookup is a table of a Modality LUT, VOI LUT or palette (PS3.3, C.11.1.1). Values before first take the first entry, values
// behind the table the last one.
type lookup struct {
	first   int64
	entries []uint16
	bits    int // of an entry, 8…16
}

func (l *lookup) at(v int64) uint16 {
	i := min(max(v-l.first, 0), int64(len(l.entries)-1))
	return l.entries[i]
}

// readDescriptor returns a table without its entries, and how many there must be; nil when its description makes no sense.
func readDescriptor(elements map[tag.Tag]element, descriptor tag.Tag, signed bool) (l *lookup, count int) {
	d, err := ints(elements, descriptor)
	if err != nil || len(d) != 3 {
		return nil, 0
	}
	count = d[0] & 0xFFFF
	if count == 0 {
		count = 1 << 16
	}
	l = &lookup{first: int64(uint16(d[1])), bits: d[2]}
	if signed {
		l.first = int64(int16(d[1]))
	}
	if l.bits < 8 || l.bits > 16 {
		return nil, 0
	}
	return l, count
}

// readLookup returns nil when the table is missing or makes no sense. signed: its input may be negative.
func readLookup(elements map[tag.Tag]element, descriptor, data tag.Tag, signed bool) *lookup {
	l, count := readDescriptor(elements, descriptor, signed)
	if l == nil {
		return nil
	}
	l.entries = elements[data].words(count)
	if len(l.entries) < count {
		return nil
	}
	l.entries = l.entries[:count]
	return l
}

// words reads a table's data, in VR US, SS, OW or OB, with 16 bits an entry or 8 packed ones.
func (e element) words(count int) []uint16 {
	if len(e.value) == 0 {
		return nil
	}
	v, err := e.decode()
	if err != nil {
		return nil
	}
	var words []uint16
	switch v.ValueType() {
	case dicom.Ints:
		for _, n := range dicom.MustGetInts(v) {
			words = append(words, uint16(n))
		}
	case dicom.Bytes: // little endian whatever the file's order: suyashkumar/dicom turns OW round
		b := dicom.MustGetBytes(v)
		if len(b) < 2*count && len(b) >= count {
			for _, n := range b {
				words = append(words, uint16(n))
			}
			return words
		}
		for ; len(b) >= 2; b = b[2:] {
			words = append(words, binary.LittleEndian.Uint16(b))
		}
	default:
	}
	return words
}

// palette returns the luminance of every index of a PALETTE COLOR picture (PS3.3, C.7.6.3.1.5), in units of the palette.
func (d *dataset) palette(size int) ([]float64, error) {
	var colours [3]*lookup
	for i, t := range []struct{ descriptor, data, segmented tag.Tag }{
		{tag.RedPaletteColorLookupTableDescriptor, tag.RedPaletteColorLookupTableData, tag.SegmentedRedPaletteColorLookupTableData},
		{tag.GreenPaletteColorLookupTableDescriptor, tag.GreenPaletteColorLookupTableData, tag.SegmentedGreenPaletteColorLookupTableData},
		{tag.BluePaletteColorLookupTableDescriptor, tag.BluePaletteColorLookupTableData, tag.SegmentedBluePaletteColorLookupTableData},
	} {
		data := t.data
		if colours[i] = readLookup(d.elements, t.descriptor, t.data, false); colours[i] == nil && has(d.elements, t.segmented) {
			data = t.segmented
			colours[i] = readSegmented(d.elements, t.descriptor, t.segmented)
		}
		if colours[i] == nil {
			return nil, failure(Malformed, "%s or its %s is missing or broken", name(t.descriptor), name(data))
		}
	}
	luminances := make([]float64, size)
	for i := range luminances {
		v := int64(i)
		luminances[i] = 0.299*float64(colours[0].at(v)) + 0.587*float64(colours[1].at(v)) + 0.114*float64(colours[2].at(v))
	}
	return luminances, nil
}
