package picture

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// Sequences are counted however their lengths are written, before the pixels and behind them.
func TestSequencesInsideOneAnother(t *testing.T) {
	picture := grey8(2, 1, 2, 3, 4)
	for name, lengths := range map[string]struct{ sequence, item bool }{ // true: undefined
		"defined": {}, "undefined": {true, true}, "undefined items": {false, true}, "undefined sequences": {true, false},
	} {
		for _, syntax := range []string{uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian} {
			for levels, tooDeep := range map[int]bool{1: false, maxDepth: false, maxDepth + 1: true, 60: true, 500: true} {
				before := append(part10(syntax), nested(levels, lengths.sequence, lengths.item, syntax, tag.ReferencedImageSequence)...)
				before = append(before, picture.elements(syntax)...)
				behind := append(picture.file(syntax), nested(levels, lengths.sequence, lengths.item, syntax, tag.DigitalSignaturesSequence)...)
				for where, file := range map[string][]byte{"before the pixels": before, "behind them": behind} {
					_, err := NewReader(Options{}).Read(t.Context(), file)
					if (err != nil) != tooDeep || tooDeep && !strings.Contains(err.Error(), "sequences nested deeper than 32") {
						t.Errorf("%d levels, %s, %s, %s: %v", levels, name, where, syntax, err)
					}
				}
			}
		}
	}
}

// nested returns so many sequences inside one another.
func nested(levels int, undefinedSequence, undefinedItem bool, syntax string, t tag.Tag) []byte {
	little := binary.LittleEndian
	content := fixture{tag.Modality: str("CS", "DX")}.elements(syntax)
	for range levels {
		length := uint32(len(content))
		if undefinedItem {
			length, content = undefinedLength, appendItemHeader(content, itemEndTag, 0)
		}
		content = append(appendItemHeader(nil, itemTag, length), content...)
		length = uint32(len(content))
		if undefinedSequence {
			length, content = undefinedLength, appendItemHeader(content, sequenceEndTag, 0)
		}
		head := little.AppendUint16(little.AppendUint16(nil, t.Group), t.Element)
		if syntax != uid.ImplicitVRLittleEndian {
			head = append(head, "SQ\x00\x00"...)
		}
		content = append(little.AppendUint32(head, length), content...)
	}
	return content
}
