package picture

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/suyashkumar/dicom"
	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// Transfer syntaxes that are read without a child process, beside the native ones of PS3.5.
const (
	jpegBaseline           = "1.2.840.10008.1.2.4.50"
	encapsulatedLittle     = "1.2.840.10008.1.2.1.98"
	deflatedImageFrame     = "1.2.840.10008.1.2.8.1"
	maxValue               = 1 << 20 // bytes of one value; the longest that is used is a lookup table of 65,536 × 4 bytes
	maxMetaSyntaxLength    = 64
	unknownSyntaxInReasons = "unnamed"
)

var (
	modalityLUTSequence = tag.ModalityLUTSequence
	voiLUTSequence      = tag.VOILUTSequence
	presentationShape   = tag.PresentationLUTShape
	voiLUTFunction      = tag.VOILUTFunction
)

// keep is every element that the picture or its header needs. SpecificCharacterSet is not among them: all that is read is ASCII by
// definition, so a broken one cannot matter.
var keep = map[tag.Tag]bool{
	tag.SOPClassUID: true, tag.SOPInstanceUID: true, tag.Modality: true, tag.StudyDate: true, tag.PatientBirthDate: true,
	tag.PatientAge: true, tag.BodyPartExamined: true,
	tag.SamplesPerPixel: true, tag.PhotometricInterpretation: true, tag.PlanarConfiguration: true, tag.NumberOfFrames: true,
	tag.Rows: true, tag.Columns: true, tag.BitsAllocated: true, tag.BitsStored: true, tag.HighBit: true,
	tag.PixelRepresentation: true, tag.PixelPaddingValue: true, tag.PixelPaddingRangeLimit: true,
	tag.RescaleIntercept: true, tag.RescaleSlope: true, modalityLUTSequence: true,
	tag.WindowCenter: true, tag.WindowWidth: true, voiLUTFunction: true, voiLUTSequence: true, presentationShape: true,
	tag.RedPaletteColorLookupTableDescriptor: true, tag.GreenPaletteColorLookupTableDescriptor: true,
	tag.BluePaletteColorLookupTableDescriptor: true, tag.RedPaletteColorLookupTableData: true,
	tag.GreenPaletteColorLookupTableData: true, tag.BluePaletteColorLookupTableData: true,
	tag.SegmentedRedPaletteColorLookupTableData: true, tag.SegmentedGreenPaletteColorLookupTableData: true,
	tag.SegmentedBluePaletteColorLookupTableData: true, tag.PixelDataProviderURL: true,
	tag.PixelSpacing: true, tag.ImagerPixelSpacing: true, tag.NominalScannedPixelSpacing: true, tag.PixelAspectRatio: true,
	pixelDataTag: true, floatPixelDataTag: true, doublePixelDataTag: true,
}

func init() {
	for _, t := range append(shutter.tags(), collimator.tags()...) {
		keep[t] = true
	}
}

// dataset is the wanted elements of one file.
type dataset struct {
	elements map[tag.Tag]element
	syntax   string // transfer syntax UID as written, "" when there is none
}

// open finds the elements of a DICOM file. It copes with a missing preamble, a missing meta header, a wrong group length and a
// dataset that is implicit where its transfer syntax says explicit, or the other way round. reserve hears the length of an inflated
// dataset before it is made, and may refuse it.
func open(file []byte, maxInflated int64, reserve func(n int64) error) (*dataset, error) {
	return openFor(func(t tag.Tag) bool { return keep[t] }, file, maxInflated, reserve)
}

// openFor is open for other elements.
func openFor(wanted func(tag.Tag) bool, file []byte, maxInflated int64, reserve func(n int64) error) (*dataset, error) {
	s := scanner{file: file, encoding: encoding{binary.LittleEndian, false}}
	switch {
	case len(file) >= preambleLength+4 && string(file[preambleLength:preambleLength+4]) == "DICM":
		s.pos = preambleLength + 4
	case bytes.HasPrefix(file, []byte("DICM")):
		s.pos = 4
	}
	d := &dataset{}
	for s.left() >= 8 && binary.LittleEndian.Uint16(s.file[s.pos:]) == 2 {
		e, err := s.next(0)
		if err != nil {
			return nil, err
		}
		if e.tag == tag.TransferSyntaxUID {
			d.syntax = strings.Trim(string(e.value), " \x00")
		}
	}
	if s.left() == 0 {
		return nil, failure(Malformed, "truncated: no dataset after the meta header")
	}
	if d.syntax == uid.DeflatedExplicitVRLittleEndian {
		inflated, err := inflate(s.file[s.pos:], maxInflated, reserve)
		if err != nil {
			return nil, err
		}
		s = scanner{file: inflated}
	}
	s.encoding = datasetEncoding(s.file[s.pos:], d.syntax)
	whole := s
	elements, err := s.scan(wanted)
	if err != nil {
		return nil, err
	}
	if whole.tooDeep() {
		return nil, failure(Malformed, "sequences nested deeper than %d", maxDepth)
	}
	d.elements = elements
	return d, nil
}

// datasetEncoding believes the first element rather than the transfer syntax.
func datasetEncoding(b []byte, syntax string) encoding {
	e := encoding{order: binary.LittleEndian, implicit: true}
	if len(b) >= 6 && isVR(b[4:6]) {
		e.implicit = false
	}
	if !e.implicit && (syntax == uid.ExplicitVRBigEndian || (binary.BigEndian.Uint16(b) == 8 && binary.LittleEndian.Uint16(b) != 8)) {
		e.order = binary.BigEndian
	}
	return e
}

// free reserves nothing.
func free(int64) error { return nil }

func inflate(b []byte, limit int64, reserve func(n int64) error) ([]byte, error) {
	// The first pass only counts: a buffer that grows by doubling would hold three times as much as the file has.
	n, err := io.Copy(io.Discard, io.LimitReader(flate.NewReader(bytes.NewReader(b)), limit+1))
	if n > limit {
		return nil, failure(TooLarge, "deflated data grows beyond %d bytes", limit)
	}
	// Some writers leave out the end of the stream; the scan says whether something is missing.
	if err != nil && (n == 0 || !errors.Is(err, io.ErrUnexpectedEOF)) {
		return nil, &Error{Kind: Malformed, Reason: "deflated data is broken", Err: err}
	}
	if err := reserve(n); err != nil {
		return nil, err
	}
	out := make([]byte, n)
	if _, err := io.ReadFull(flate.NewReader(bytes.NewReader(b)), out); err != nil {
		return nil, &Error{Kind: Malformed, Reason: "deflated data is broken", Err: err}
	}
	return out, nil
}

// appendElement writes an element with explicit VR. VRs with a long length take any value, others at most 65534 bytes.
func appendElement(b []byte, order binary.AppendByteOrder, t tag.Tag, vr string, value []byte) []byte {
	b = order.AppendUint16(b, t.Group)
	b = order.AppendUint16(b, t.Element)
	b = append(b, vr...)
	if hasLongLength(vr) {
		b = append(b, 0, 0)
		b = order.AppendUint32(b, uint32(len(value)))
	} else {
		b = order.AppendUint16(b, uint16(len(value)))
	}
	return append(b, value...)
}

// part10 starts a DICOM file: preamble, magic and a meta header with nothing but the transfer syntax.
func part10(syntax string) []byte {
	if len(syntax)%2 == 1 {
		syntax += "\x00"
	}
	meta := appendElement(nil, binary.LittleEndian, tag.TransferSyntaxUID, "UI", []byte(syntax))
	b := append(make([]byte, preambleLength, 512+len(meta)), "DICM"...)
	b = appendElement(b, binary.LittleEndian, tag.FileMetaInformationGroupLength, "UL",
		binary.LittleEndian.AppendUint32(nil, uint32(len(meta))))
	return append(b, meta...)
}

// knownVRs are those of PS3.5, 6.2, but UN. suyashkumar/dicom takes "NA" for one, with a length of its own inside the value, and makes as many
// bytes as that says.
var knownVRs = []string{
	"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "OB", "OD", "OF", "OL", "OV", "OW", "PN", "SH", "SL", "SQ", "SS", "ST", "SV",
	"TM", "UC", "UI", "UL", "UR", "US", "UT", "UV",
}

// effectiveVR returns the VR as written, or the dictionary's where the file has none that there is.
func (e element) effectiveVR() string {
	if slices.Contains(knownVRs, e.vr) {
		return e.vr
	}
	info, err := tag.Find(e.tag)
	if err != nil || len(info.VRs) == 0 {
		return "UN"
	}
	if e.tag == tag.LUTData { // US or OW: as OW it may be longer than 65534 bytes
		return "OW"
	}
	return info.VRs[0]
}

// decode lets suyashkumar/dicom decode one value, in a file that holds nothing else. The scan has checked the length.
func (e element) decode() (dicom.Value, *Error) {
	vr := e.effectiveVR()
	if len(e.value) > maxValue || (!hasLongLength(vr) && len(e.value) > math.MaxUint16-1) || vr == "SQ" {
		return nil, failure(Malformed, "%s with VR %s is %d bytes long", name(e.tag), vr, len(e.value))
	}
	syntax, order := uid.ExplicitVRLittleEndian, binary.AppendByteOrder(binary.LittleEndian)
	if e.order == binary.BigEndian {
		syntax, order = uid.ExplicitVRBigEndian, binary.BigEndian
	}
	file := appendElement(part10(syntax), order, e.tag, vr, e.value)
	parser, err := dicom.NewParser(bytes.NewReader(file), int64(len(file)), nil)
	if err != nil {
		return nil, failure(Malformed, "%s with VR %s cannot be read", name(e.tag), vr)
	}
	parsed, err := parser.Next()
	if err != nil {
		return nil, failure(Malformed, "%s with VR %s cannot be read", name(e.tag), vr)
	}
	return parsed.Value, nil
}

// text returns the first value of a string element, "" when it is missing or no string.
func (d *dataset) text(t tag.Tag) string {
	values := d.texts(t)
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

func (d *dataset) texts(t tag.Tag) []string {
	e, ok := d.elements[t]
	if !ok || len(e.value) == 0 {
		return nil
	}
	v, err := e.decode()
	if err != nil || v.ValueType() != dicom.Strings {
		return nil
	}
	values := append([]string(nil), dicom.MustGetStrings(v)...)
	for i := range values {
		values[i] = strings.Trim(values[i], " \x00")
	}
	return values
}

// ints returns an element's whole numbers, whatever integer or string VR they have. A missing or empty element gives none.
func ints(elements map[tag.Tag]element, t tag.Tag) ([]int, *Error) {
	e, ok := elements[t]
	if !ok || len(e.value) == 0 {
		return nil, nil
	}
	v, err := e.decode()
	if err != nil {
		return nil, err
	}
	if v.ValueType() != dicom.Ints {
		return nil, failure(Malformed, "%s has VR %s, which holds no whole number", name(t), e.effectiveVR())
	}
	return dicom.MustGetInts(v), nil
}

// integer returns the first whole number of an element, or missing when the element is missing or empty.
func (d *dataset) integer(t tag.Tag, missing int) (int, *Error) {
	values, err := ints(d.elements, t)
	if err != nil {
		return 0, err
	}
	if len(values) == 0 {
		return missing, nil
	}
	return values[0], nil
}

// number returns the first number of a DS, IS, FL, FD or integer element. ok is false when there is none that can be read.
func (d *dataset) number(t tag.Tag) (v float64, ok bool) {
	e, found := d.elements[t]
	if !found || len(e.value) == 0 {
		return 0, false
	}
	value, err := e.decode()
	if err != nil {
		return 0, false
	}
	switch value.ValueType() {
	case dicom.Strings:
		if s := dicom.MustGetStrings(value); len(s) > 0 {
			v, err := strconv.ParseFloat(strings.Trim(s[0], " \x00"), 64)
			return v, err == nil
		}
	case dicom.Floats:
		if f := dicom.MustGetFloats(value); len(f) > 0 {
			return f[0], true
		}
	case dicom.Ints:
		if n := dicom.MustGetInts(value); len(n) > 0 {
			return float64(n[0]), true
		}
	default:
	}
	return 0, false
}

// numbers returns all numbers of a DS or IS element, or none when one of them cannot be read or is not finite.
func (d *dataset) numbers(t tag.Tag) []float64 {
	var all []float64
	for _, s := range d.texts(t) {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || !finite(v) {
			return nil
		}
		all = append(all, v)
	}
	return all
}

// syntaxName spells a transfer syntax for people. A UID is digits and dots; whatever else stands there is not repeated.
func syntaxName(syntax string) string {
	if syntax == "" || len(syntax) > maxMetaSyntaxLength || strings.Trim(syntax, "0123456789.") != "" {
		return unknownSyntaxInReasons
	}
	if known := newerSyntaxes[syntax]; known != "" {
		return known + " (" + syntax + ")"
	}
	if info, err := uid.Lookup(syntax); err == nil && info.Name != "" {
		return info.Name + " (" + syntax + ")"
	}
	return syntax
}

// newerSyntaxes are not in the dictionary of suyashkumar/dicom v1.1.0.
var newerSyntaxes = map[string]string{
	"1.2.840.10008.1.2.4.110": "JPEG XL lossless",
	"1.2.840.10008.1.2.4.111": "JPEG XL JPEG recompression",
	"1.2.840.10008.1.2.4.112": "JPEG XL",
	"1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 lossless",
	"1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 RPCL lossless",
	"1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000",
	"1.2.840.10008.1.2.8.1":   "Deflated Image Frame Compression",
}
