package picture

import (
	"math"

	"github.com/suyashkumar/dicom/pkg/tag"
)

// The segments of a segmented palette (PS3.3, C.7.9.2).
const (
	segmentDiscrete = 0 // length, then that many entries
	segmentLinear   = 1 // length, then the entry at its end
	segmentIndirect = 2 // number of segments, then the offset in bytes at which they are, in two words; not from an indirect one
)

// expand returns the entries of a segmented palette, or nil where its segments make no sense. wide: of 16 bits, else of 8; then an
// offset takes four of them.
func expand(words []uint16, wide bool) []uint16 {
	e := expander{words: words, wide: wide}
	if !e.segments(0, math.MaxInt, true) {
		return nil
	}
	return e.entries
}

type expander struct {
	words   []uint16
	wide    bool
	entries []uint16
	read    int // segments, those that were pointed to each time
}

// maxSegments is more than a table of 65,536 entries needs; empty segments could go on for ever.
const maxSegments = 1 << 17

// segments expands some segments that begin at a word. It stops at the end of the words.
func (e *expander) segments(at, number int, mayPoint bool) bool {
	for ; number > 0 && at+2 <= len(e.words); number-- {
		code, length := e.words[at], int(e.words[at+1])
		at += 2
		switch {
		case code == segmentDiscrete && at+length <= len(e.words):
			e.entries = append(e.entries, e.words[at:at+length]...)
			at += length
		case code == segmentLinear && at < len(e.words) && len(e.entries) > 0 && length > 0:
			from, to := float64(e.entries[len(e.entries)-1]), float64(e.words[at])
			for i := 1; i <= length; i++ {
				e.entries = append(e.entries, uint16(math.RoundToEven(from+(to-from)*float64(i)/float64(length))))
			}
			at++
		case code == segmentIndirect && mayPoint:
			target, width, ok := e.offset(at)
			if !ok || !e.segments(target, length, false) {
				return false
			}
			at += width
		default:
			return false
		}
		if e.read++; e.read > maxSegments || len(e.entries) > 1<<16 {
			return false
		}
	}
	return true
}

// offset reads the offset of an indirect segment, and returns it and its length in words.
func (e *expander) offset(at int) (target, width int, ok bool) {
	step, unit := 16, 2
	width = 2
	if !e.wide {
		step, unit, width = 8, 1, 4
	}
	if at+width > len(e.words) {
		return 0, width, false
	}
	for i := range width {
		target |= int(e.words[at+i]) << (i * step)
	}
	return target / unit, width, target/unit < len(e.words)
}

// readSegmented returns nil when the table is missing or makes no sense.
func readSegmented(elements map[tag.Tag]element, descriptor, data tag.Tag) *lookup {
	l, count := readDescriptor(elements, descriptor, false)
	if l == nil {
		return nil
	}
	packed := elements[data]
	if l.bits > 8 {
		l.entries = expand(packed.words(len(packed.value)/2), true)
	} else {
		l.entries = expand(packed.words(len(packed.value)), false)
	}
	if len(l.entries) < count {
		return nil
	}
	l.entries = l.entries[:count]
	return l
}
