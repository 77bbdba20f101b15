package picture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/suyashkumar/dicom/pkg/tag"
)

// The scan finds elements without reading their values. It stands before github.com/suyashkumar/dicom (which then decodes single
// values) because that library believes lengths before it has the bytes (make([]byte, length), up to 4 GiB), recurses once for
// every nested sequence (a Go stack overflow cannot be recovered), and has no byte order for a transfer syntax that it does not know.

const (
	undefinedLength = 0xFFFFFFFF
	maxDepth        = 32      // of nested sequences; real files have fewer than ten
	maxFragments    = 1 << 16 // that are kept; of a single frame they are far fewer
	preambleLength  = 128
)

type format int

const (
	formatUnknown format = iota
	formatDICOM
	formatPNG
	formatJPEG
)

// sniff names the format of a file by its first bytes. DICOM goes first: its preamble may hold the magic of another format.
func sniff(file []byte) format {
	switch {
	case len(file) >= preambleLength+4 && string(file[preambleLength:preambleLength+4]) == "DICM":
		return formatDICOM
	case bytes.HasPrefix(file, []byte("\x89PNG\r\n\x1a\n")):
		return formatPNG
	case bytes.HasPrefix(file, []byte{0xFF, 0xD8, 0xFF}):
		return formatJPEG
	case bytes.HasPrefix(file, []byte("DICM")) || startsWithElement(file):
		return formatDICOM
	default:
		return formatUnknown
	}
}

// startsWithElement recognises a dataset without preamble: its first element is of group 0002 or 0008, in either byte order, with
// a VR of two capitals (explicit) or a length that fits into the file (implicit).
func startsWithElement(file []byte) bool {
	if len(file) < 8 {
		return false
	}
	little, big := binary.LittleEndian.Uint16(file), binary.BigEndian.Uint16(file)
	if isVR(file[4:6]) {
		return little == 2 || little == 8 || big == 2 || big == 8
	}
	return (little == 2 || little == 8) && int64(binary.LittleEndian.Uint32(file[4:])) <= int64(len(file)-8)
}

func isVR(b []byte) bool {
	return b[0] >= 'A' && b[0] <= 'Z' && b[1] >= 'A' && b[1] <= 'Z'
}

// hasLongLength says whether an explicit VR is followed by two reserved bytes and four of length (PS3.5, 7.1.2).
func hasLongLength(vr string) bool {
	switch vr {
	case "OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV":
		return true
	default:
		return false
	}
}

type encoding struct {
	order    binary.ByteOrder
	implicit bool
}

var implicitLittle = encoding{binary.LittleEndian, true}

// element is one data element whose value lies in the file.
type element struct {
	tag   tag.Tag
	vr    string // "" in implicit encodings
	value []byte // nil when encapsulated
	encoding
	encapsulated bool
	fragments    [][]byte // of encapsulated pixel data, without the basic offset table
}

type scanner struct {
	file []byte
	pos  int
	encoding
}

func (s *scanner) left() int { return len(s.file) - s.pos }

// header reads an element's tag, VR and length, and leaves pos at its value.
func (s *scanner) header() (t tag.Tag, vr string, length uint32, err *Error) {
	if s.left() < 8 {
		return t, "", 0, failure(Malformed, "truncated: %d bytes at byte %d are too few for an element", s.left(), s.pos)
	}
	b := s.file[s.pos:]
	t = tag.Tag{Group: s.order.Uint16(b), Element: s.order.Uint16(b[2:])}
	// Some writers switch to implicit headers in the middle of an explicit file; no VR looks like a length.
	if s.implicit || t.Group == 0xFFFE || !isVR(b[4:6]) {
		s.pos += 8
		return t, "", s.order.Uint32(b[4:]), nil
	}
	vr = string(b[4:6])
	if !hasLongLength(vr) {
		s.pos += 8
		return t, vr, uint32(s.order.Uint16(b[6:])), nil
	}
	if s.left() < 12 {
		return t, vr, 0, failure(Malformed, "truncated: no length of %s", name(t))
	}
	s.pos += 12
	return t, vr, s.order.Uint32(b[8:]), nil
}

// take returns the next length bytes, which are t's value.
func (s *scanner) take(t tag.Tag, length uint32) ([]byte, *Error) {
	if int64(length) > int64(s.left()) {
		return nil, failure(Malformed, "truncated: %s claims %d bytes, %d are left", name(t), length, s.left())
	}
	v := s.file[s.pos : s.pos+int(length) : s.pos+int(length)]
	s.pos += int(length)
	return v, nil
}

var (
	itemTag            = tag.Tag{Group: 0xFFFE, Element: 0xE000}
	itemEndTag         = tag.Tag{Group: 0xFFFE, Element: 0xE00D}
	sequenceEndTag     = tag.Tag{Group: 0xFFFE, Element: 0xE0DD}
	pixelDataTag       = tag.PixelData
	floatPixelDataTag  = tag.Tag{Group: 0x7FE0, Element: 0x0008}
	doublePixelDataTag = tag.Tag{Group: 0x7FE0, Element: 0x0009}
)

// next reads one element at the given nesting depth.
func (s *scanner) next(depth int) (element, *Error) {
	t, vr, length, err := s.header()
	if err != nil {
		return element{}, err
	}
	e := element{tag: t, vr: vr, encoding: s.encoding}
	if vr == "" && t.Group != 0xFFFE {
		e.implicit = true
	}
	switch {
	case length != undefinedLength:
		e.value, err = s.take(t, length)
	case t == pixelDataTag:
		e.encapsulated = true
		e.fragments, err = s.readFragments()
	default:
		start := s.pos
		inside := *s
		if vr == "UN" { // PS3.5, 6.2.2: a sequence of unknown VR is implicit little endian inside
			inside.encoding = implicitLittle
		}
		err = inside.skipItems(t, depth)
		s.pos = inside.pos
		if err == nil {
			e.value = s.file[start:s.pos]
		}
	}
	return e, err
}

// skipItems goes over the items of a sequence of undefined length and its delimiter.
func (s *scanner) skipItems(sequence tag.Tag, depth int) *Error {
	if depth >= maxDepth {
		return failure(Malformed, "%s: sequences nested deeper than %d", name(sequence), maxDepth)
	}
	for {
		t, _, length, err := s.header()
		switch {
		case err != nil:
			return err
		case t == sequenceEndTag:
			return nil
		case t != itemTag:
			return failure(Malformed, "%s: %s where an item must be", name(sequence), name(t))
		case length != undefinedLength:
			if _, err := s.take(sequence, length); err != nil {
				return err
			}
		default:
			if err := s.skipElements(depth + 1); err != nil {
				return err
			}
		}
	}
}

// skipElements goes over the elements of an item of undefined length and its delimiter.
func (s *scanner) skipElements(depth int) *Error {
	for {
		e, err := s.next(depth)
		if err != nil {
			return err
		}
		if e.tag == itemEndTag {
			return nil
		}
	}
}

// readFragments reads the items of encapsulated pixel data and drops the first one, the basic offset table (PS3.5, A.4).
// A missing sequence delimiter at the end of the file is forgiven. Those above maxFragments are read over: so many belong to many frames.
func (s *scanner) readFragments() ([][]byte, *Error) {
	var items [][]byte
	for s.left() > 0 {
		t, _, length, err := s.header()
		if err != nil {
			return nil, err
		}
		if t == sequenceEndTag {
			break
		}
		if t != itemTag || length == undefinedLength {
			return nil, failure(Malformed, "%s: %s where a fragment must be", name(pixelDataTag), name(t))
		}
		item, err := s.take(pixelDataTag, length)
		if err != nil {
			return nil, err
		}
		if len(items) <= maxFragments {
			items = append(items, item)
		}
	}
	if len(items) < 2 {
		return nil, failure(Malformed, "%s holds no fragment", name(pixelDataTag))
	}
	return slices.Clip(items[1:]), nil
}

// scan returns the wanted elements of a dataset up to its pixel data. Of an element that occurs twice, the last one counts.
func (s *scanner) scan(wanted func(tag.Tag) bool) (map[tag.Tag]element, *Error) {
	found := make(map[tag.Tag]element)
	for s.left() > 0 {
		e, err := s.next(0)
		if err != nil {
			return nil, err
		}
		if wanted(e.tag) {
			found[e.tag] = e
		}
		if e.tag == pixelDataTag { // what follows is padding and signatures
			break
		}
	}
	return found, nil
}

// keepInItem is what is needed of a sequence's items.
var keepInItem = map[tag.Tag]bool{tag.LUTDescriptor: true, tag.LUTData: true}

// firstItem returns the needed elements of a sequence's first item. Errors inside it give an empty item.
func (e element) firstItem() map[tag.Tag]element {
	s := scanner{file: e.value, encoding: e.encoding}
	if e.vr == "UN" {
		s.encoding = implicitLittle
	}
	t, _, length, err := s.header()
	if err != nil || t != itemTag {
		return nil
	}
	if length != undefinedLength {
		content, err := s.take(t, length)
		if err != nil {
			return nil
		}
		s = scanner{file: content, encoding: s.encoding}
	}
	found := make(map[tag.Tag]element)
	for s.left() > 0 {
		e, err := s.next(1)
		if err != nil || e.tag == itemEndTag {
			break
		}
		if keepInItem[e.tag] { // an item can hold millions
			found[e.tag] = e
		}
	}
	return found
}

// name spells a tag for people: Rows (0028,0010).
func name(t tag.Tag) string {
	number := fmt.Sprintf("(%04X,%04X)", t.Group, t.Element)
	if found, err := tag.Find(t); err == nil && found.Keyword != "" {
		return found.Keyword + " " + number
	}
	return number
}
