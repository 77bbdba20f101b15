package mutations

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
)

// tag is group and element in one number: 0x00280010 is Rows.
type tag uint32

const (
	metaSOPInstance = tag(0x00020003)
	metaSyntax      = tag(0x00020010)
	sopClass        = tag(0x00080016)
	sopInstance     = tag(0x00080018)
	patientName     = tag(0x00100010)
	patientID       = tag(0x00100020)
	studyUID        = tag(0x0020000D)
	samplesPerPixel = tag(0x00280002)
	photometric     = tag(0x00280004)
	planar          = tag(0x00280006)
	numberOfFrames  = tag(0x00280008)
	rows            = tag(0x00280010)
	columns         = tag(0x00280011)
	bitsAllocated   = tag(0x00280100)
	bitsStored      = tag(0x00280101)
	highBit         = tag(0x00280102)
	representation  = tag(0x00280103)
	windowCenter    = tag(0x00281050)
	windowWidth     = tag(0x00281051)
	rescaleSlope    = tag(0x00281053)
	modalityLUT     = tag(0x00283000)
	pixelData       = tag(0x7FE00010)
	item            = tag(0xFFFEE000)
	itemEnd         = tag(0xFFFEE00D)
	sequenceEnd     = tag(0xFFFEE0DD)
)

const undefined = uint32(0xFFFFFFFF)

// Transfer syntaxes by their last arcs.
const (
	uidRoot        = "1.2.840.10008.1.2"
	implicitLittle = uidRoot
	explicitLittle = uidRoot + ".1"
	deflated       = uidRoot + ".1.99"
	explicitBig    = uidRoot + ".2"
	jpegBaseline   = uidRoot + ".4.50"
	rle            = uidRoot + ".5"
)

// element is one data element. Its value holds the items and the delimiter where its length is undefined.
type element struct {
	tag    tag
	vr     string // "" in implicit encodings
	value  []byte
	length uint32 // as it is written, which a mutation may make a lie
}

// file is a DICOM file taken apart as far as its top level.
type file struct {
	name      string
	meta, set []element
}

// take takes a file apart. ok is false for one that is broken already, or has no meta header.
func take(name string, content []byte) (f file, ok bool) {
	f.name = name
	if len(content) < 140 || string(content[128:132]) != "DICM" {
		return f, false
	}
	rest := content[132:]
	for len(rest) >= 8 && binary.LittleEndian.Uint16(rest) == 2 {
		e, n := next(rest, binary.LittleEndian, false)
		if n == 0 {
			return f, false
		}
		f.meta, rest = append(f.meta, e), rest[n:]
	}
	if f.syntax() == deflated {
		inflated, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(rest)), 64<<20))
		if err != nil {
			return f, false
		}
		rest = inflated
	}
	for len(rest) > 0 {
		e, n := next(rest, f.order(), f.syntax() == implicitLittle)
		if n == 0 || f.syntax() != implicitLittle && e.vr == "" {
			return f, false
		}
		f.set, rest = append(f.set, e), rest[n:]
	}
	return f, len(f.set) > 0
}

// next returns the first element of b and how many bytes it takes; 0 when it does not fit.
func next(b []byte, order endian, implicit bool) (e element, n int) {
	if len(b) < 8 {
		return e, 0
	}
	e.tag = tag(order.Uint16(b))<<16 | tag(order.Uint16(b[2:]))
	e.length, n = order.Uint32(b[4:]), 8
	if !implicit && e.tag>>16 != 0xFFFE {
		e.vr = string(b[4:6])
		if e.length = uint32(order.Uint16(b[6:])); long(e.vr) {
			if len(b) < 12 {
				return e, 0
			}
			e.length, n = order.Uint32(b[8:]), 12
		}
	}
	if e.length != undefined {
		if int64(e.length) > int64(len(b)-n) {
			return e, 0
		}
		e.value = b[n : n+int(e.length)]
		return e, n + int(e.length)
	}
	end := skip(b[n:], order, implicit || e.vr == "UN", 0)
	if end == 0 {
		return e, 0
	}
	e.value = b[n : n+end]
	return e, n + end
}

// skip returns how many bytes the items of a sequence take, its delimiter included.
func skip(b []byte, order endian, implicit bool, depth int) int {
	at := 0
	for len(b)-at >= 8 && depth < 20 {
		t := tag(order.Uint16(b[at:]))<<16 | tag(order.Uint16(b[at+2:]))
		length := order.Uint32(b[at+4:])
		at += 8
		switch {
		case t == sequenceEnd:
			return at
		case t != item:
			return 0
		case length != undefined:
			if int64(length) > int64(len(b)-at) {
				return 0
			}
			at += int(length)
		default:
			for {
				e, n := next(b[at:], order, implicit)
				if n == 0 {
					return 0
				}
				if at += n; e.tag == itemEnd {
					break
				}
			}
		}
	}
	return 0
}

func long(vr string) bool {
	return slices.Contains([]string{"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}, vr)
}

func (f file) syntax() string { return f.text(metaSyntax) }

// endian reads and writes numbers.
type endian interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

func (f file) order() endian {
	if f.syntax() == explicitBig {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// at returns where an element stands among those of its level, -1 for nowhere.
func (f file) at(t tag) int {
	level := f.set
	if t>>16 == 2 {
		level = f.meta
	}
	return slices.IndexFunc(level, func(e element) bool { return e.tag == t })
}

func (f file) text(t tag) string {
	level, i := f.set, f.at(t)
	if t>>16 == 2 {
		level = f.meta
	}
	if i < 0 {
		return ""
	}
	return strings.Trim(string(level[i].value), " \x00")
}

// put sets an element, in its place where there is none yet. In implicit encodings the VR is left out.
func (f *file) put(t tag, vr string, value []byte) {
	if len(value)%2 == 1 {
		value = append(slices.Clip(value), map[bool]byte{true: 0, false: ' '}[vr == "UI" || vr == "OB"])
	}
	level := &f.set
	if t>>16 == 2 {
		level = &f.meta
	} else if f.syntax() == implicitLittle {
		vr = ""
	}
	e := element{t, vr, value, uint32(len(value))}
	if i := f.at(t); i >= 0 {
		(*level)[i] = e
		return
	}
	i := slices.IndexFunc(*level, func(e element) bool { return e.tag > t })
	if i < 0 {
		i = len(*level)
	}
	*level = slices.Insert(*level, i, e)
}

func (f *file) number(t tag, v int) { f.put(t, "US", f.order().AppendUint16(nil, uint16(v))) }

// bytes puts the file together again, with a true group length.
func (f file) bytes() []byte {
	var meta []byte
	for _, e := range f.meta {
		if e.tag != 0x00020000 {
			meta = write(meta, binary.LittleEndian, e)
		}
	}
	out := append(make([]byte, 128), "DICM"...)
	out = write(out, binary.LittleEndian, element{0x00020000, "UL", binary.LittleEndian.AppendUint32(nil, uint32(len(meta))), 4})
	out = append(out, meta...)
	var set []byte
	for _, e := range f.set {
		set = write(set, f.order(), e)
	}
	if f.syntax() == deflated {
		set = deflate(set)
	}
	return append(out, set...)
}

func write(b []byte, order endian, e element) []byte {
	b = order.AppendUint16(b, uint16(e.tag>>16))
	b = order.AppendUint16(b, uint16(e.tag))
	switch {
	case e.vr == "":
		b = order.AppendUint32(b, e.length)
	case long(e.vr):
		b = append(append(b, e.vr...), 0, 0)
		b = order.AppendUint32(b, e.length)
	default:
		b = append(b, e.vr...)
		b = order.AppendUint16(b, uint16(e.length))
	}
	return append(b, e.value...)
}

func deflate(b []byte) []byte {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, flate.BestCompression)
	_, _ = w.Write(b) // to memory
	_ = w.Close()
	return out.Bytes()
}

// clone returns a copy whose elements can be changed.
func (f file) clone() file {
	f.meta, f.set = slices.Clone(f.meta), slices.Clone(f.set)
	for i := range f.meta {
		f.meta[i].value = bytes.Clone(f.meta[i].value)
	}
	for i := range f.set {
		f.set[i].value = bytes.Clone(f.set[i].value)
	}
	return f
}

// rename makes the file a new instance of a patient of nobody, whose name must never be seen again.
func (f *file) rename(random *rand.Rand, patient string) {
	uid := []byte("2.25.")
	for len(uid) < 40 {
		uid = append(uid, byte('1'+random.IntN(9)))
	}
	f.put(metaSOPInstance, "UI", uid)
	f.put(sopInstance, "UI", uid)
	f.put(patientName, "PN", []byte(marked+"^"+patient))
	f.put(patientID, "LO", []byte(marked+patient))
}
