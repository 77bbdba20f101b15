package picture

// tooDeep says whether sequences stand inside one another deeper than maxDepth anywhere in a dataset, behind its pixels too. The scan need not
// look into what has a length of its own, but Orthanc does, and dies of some fifty levels: 1.12.7 when it is asked for the tags, it and 1.13.0
// when they are sent the file by REST. Such a file must end here, before any rule asks for its tags, again and again.
func (s scanner) tooDeep() bool {
	type level struct {
		end     int // -1 where a delimiter ends it
		outside encoding
	}
	var open []level
	leave := func() {
		s.encoding, open = open[len(open)-1].outside, open[:len(open)-1]
	}
	for s.left() > 0 {
		for len(open) > 0 && open[len(open)-1].end >= 0 && s.pos >= open[len(open)-1].end {
			leave()
		}
		t, vr, length, err := s.header()
		switch {
		case err != nil:
			return false
		case t == itemTag || t == itemEndTag: // what is in an item comes next
		case t == sequenceEndTag:
			if len(open) > 0 && open[len(open)-1].end < 0 {
				leave()
			}
		case t == pixelDataTag && length == undefinedLength:
			if s.skipItems(t, 0) != nil {
				return false
			}
		case vr == "SQ" || length == undefinedLength || vr == "" && s.beginsItem():
			inside := level{end: -1, outside: s.encoding}
			if length != undefinedLength {
				inside.end = s.pos + int(length)
			}
			if open = append(open, inside); len(open) > maxDepth {
				return true
			}
			if vr == "UN" { // PS3.5, 6.2.2
				s.encoding = implicitLittle
			}
		case int64(length) > int64(s.left()):
			return false
		default:
			s.pos += int(length)
		}
	}
	return false
}

func (s scanner) beginsItem() bool {
	return s.left() >= 4 && s.order.Uint16(s.file[s.pos:]) == itemTag.Group && s.order.Uint16(s.file[s.pos+2:]) == itemTag.Element
}
