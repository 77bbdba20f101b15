package picture

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// Texts returns a DICOM file of the given one's texts alone, flat and in explicit little endian, for github.com/suyashkumar/dicom to read: that library
// takes seconds and a gigabyte for 20 KB of nested sequences. What stands after the pixel data is left out, and so is everything of a file that
// cannot be read.
func Texts(file []byte) []byte {
	d, err := openFor(func(t tag.Tag) bool { return t.Group > 2 && t.Group%2 == 0 && t.Group < pixelDataTag.Group }, file, DefaultMaxOutput, free)
	if err != nil {
		return nil
	}
	found := make([]element, 0, len(d.elements))
	for _, e := range d.elements {
		long := hasLongLength(e.effectiveVR())
		if isText(e.effectiveVR()) && (len(e.value) < math.MaxUint16 || long && len(e.value) <= maxValue) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b element) int {
		return cmp.Or(cmp.Compare(a.tag.Group, b.tag.Group), cmp.Compare(a.tag.Element, b.tag.Element))
	})
	texts := part10(uid.ExplicitVRLittleEndian)
	for _, e := range found {
		texts = appendElement(texts, binary.LittleEndian, e.tag, e.effectiveVR(), e.value)
	}
	return texts
}

func isText(vr string) bool {
	switch vr {
	case "AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT":
		return true
	default:
		return false
	}
}
