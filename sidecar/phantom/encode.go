package phantom

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"sort"
	"strconv"
	"strings"

	"github.com/suyashkumar/dicom/pkg/tag"
)

const (
	explicitLittle = "1.2.840.10008.1.2.1"
	implementation = "2.25.315217041968104173012350190826430172309" // a random number of this program
)

// entry is one data element of the file.
type entry struct {
	tag   tag.Tag
	vr    string
	value []byte
}

// file gathers elements and sorts them at the end.
type file struct{ entries []entry }

func (f *file) text(t tag.Tag, vr, value string) {
	pad := " "
	if vr == "UI" {
		pad = "\x00"
	}
	if len(value)%2 == 1 {
		value += pad
	}
	f.entries = append(f.entries, entry{t, vr, []byte(value)})
}

func (f *file) short(t tag.Tag, values ...int) {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint16(b, uint16(v))
	}
	f.entries = append(f.entries, entry{t, "US", b})
}

// sequence adds a sequence of one item, or an empty one.
func (f *file) sequence(t tag.Tag, item *file) {
	var b []byte
	if item != nil {
		content := item.bytes()
		b = binary.LittleEndian.AppendUint16(b, 0xFFFE)
		b = binary.LittleEndian.AppendUint16(b, 0xE000)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(content)))
		b = append(b, content...)
	}
	f.entries = append(f.entries, entry{t, "SQ", b})
}

// bytes returns the elements in ascending order, explicit VR little endian.
func (f *file) bytes() []byte {
	sort.Slice(f.entries, func(i, j int) bool {
		a, b := f.entries[i].tag, f.entries[j].tag
		return a.Group < b.Group || (a.Group == b.Group && a.Element < b.Element)
	})
	size := 0
	for _, e := range f.entries {
		size += 12 + len(e.value)
	}
	b := make([]byte, 0, size)
	for _, e := range f.entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag.Group)
		b = binary.LittleEndian.AppendUint16(b, e.tag.Element)
		b = append(b, e.vr...)
		switch e.vr {
		case "OB", "OW", "SQ", "UN", "UT":
			b = append(b, 0, 0)
			b = binary.LittleEndian.AppendUint32(b, uint32(len(e.value)))
		default:
			b = binary.LittleEndian.AppendUint16(b, uint16(len(e.value)))
		}
		b = append(b, e.value...)
	}
	return b
}

// encode returns the whole file.
func encode(o Options, levels *canvas) []byte {
	meta := &file{}
	meta.entries = append(meta.entries, entry{tag.FileMetaInformationVersion, "OB", []byte{0, 1}})
	meta.text(tag.MediaStorageSOPClassUID, "UI", o.SOPClass)
	meta.text(tag.MediaStorageSOPInstanceUID, "UI", o.SOPInstanceUID)
	meta.text(tag.TransferSyntaxUID, "UI", explicitLittle)
	meta.text(tag.ImplementationClassUID, "UI", implementation)
	meta.text(tag.ImplementationVersionName, "SH", "IMAGINGROUTER")
	group := meta.bytes()

	b := append(make([]byte, 128), "DICM"...)
	length := &file{entries: []entry{{tag.FileMetaInformationGroupLength, "UL", binary.LittleEndian.AppendUint32(nil, uint32(len(group)))}}}
	b = append(b, length.bytes()...)
	b = append(b, group...)

	set := &file{}
	set.study(o)
	set.series(o)
	set.image(o)
	set.pixels(o, levels)
	return append(b, set.bytes()...)
}

// study writes the Patient, General Study and Patient Study modules (PS3.3, C.7.1.1, C.7.2.1, C.7.2.2).
func (f *file) study(o Options) {
	number := fnv.New32a() // the same study is the same patient
	_, _ = number.Write([]byte(o.StudyUID))
	id := fmt.Sprintf("PHANTOM-%08X", number.Sum32())
	f.text(tag.PatientName, "PN", "PHANTOM^"+strings.ToUpper(strings.ReplaceAll(or(o.Class, "WRAPPED"), "_", " ")))
	f.text(tag.PatientID, "LO", id)
	f.text(tag.PatientBirthDate, "DA", "")
	f.text(tag.PatientSex, "CS", "O")
	f.text(tag.PatientAge, "AS", o.PatientAge)
	f.text(tag.StudyInstanceUID, "UI", o.StudyUID)
	f.text(tag.StudyDate, "DA", o.When.Format("20060102"))
	f.text(tag.StudyTime, "TM", o.When.Format("150405"))
	f.text(tag.ReferringPhysicianName, "PN", "")
	f.text(tag.StudyID, "SH", "1")
	f.text(tag.AccessionNumber, "SH", "")
	f.text(tag.StudyDescription, "LO", "PHANTOM (no patient)")
}

// series writes the General Series, DX Series and General Equipment modules (C.7.3.1, C.8.11.1, C.7.5.1).
func (f *file) series(o Options) {
	f.text(tag.Modality, "CS", o.Modality)
	f.text(tag.SeriesInstanceUID, "UI", o.SeriesUID)
	f.text(tag.SeriesNumber, "IS", "1")
	f.text(tag.SeriesDate, "DA", o.When.Format("20060102"))
	f.text(tag.SeriesTime, "TM", o.When.Format("150405"))
	f.text(tag.Manufacturer, "LO", "imaging router")
	f.text(tag.ManufacturerModelName, "LO", "phantom")
	if o.BodyPartExamined != "" || o.SOPClass == CR {
		f.text(tag.BodyPartExamined, "CS", o.BodyPartExamined)
	}
	if o.SOPClass != CR {
		f.text(tag.PresentationIntentType, "CS", map[bool]string{true: "FOR PRESENTATION", false: "FOR PROCESSING"}[o.SOPClass == DXForPresentation])
	}
}

// image writes the General Image, DX Image, DX Detector, DX Positioning, CR and SOP Common modules (C.7.6.1, C.8.11, C.8.1, C.12.1).
func (f *file) image(o Options) {
	f.text(tag.SOPClassUID, "UI", o.SOPClass)
	f.text(tag.SOPInstanceUID, "UI", o.SOPInstanceUID)
	f.text(tag.SpecificCharacterSet, "CS", "ISO_IR 100")
	f.text(tag.InstanceNumber, "IS", "1")
	f.text(tag.ImageType, "CS", `ORIGINAL\PRIMARY`)
	f.text(tag.ContentDate, "DA", o.When.Format("20060102"))
	f.text(tag.ContentTime, "TM", o.When.Format("150405"))
	f.text(tag.AcquisitionDate, "DA", o.When.Format("20060102"))
	f.text(tag.AcquisitionTime, "TM", o.When.Format("150405"))
	f.text(tag.AcquisitionNumber, "IS", "1")
	f.text(tag.BurnedInAnnotation, "CS", "NO")
	f.text(tag.LossyImageCompression, "CS", "00")
	f.text(tag.PatientOrientation, "CS", `L\F`)
	spacing := strconv.FormatFloat(400/float64(max(o.Rows, o.Columns)), 'f', 4, 64) // a plate of 40 cm
	f.text(tag.ImagerPixelSpacing, "DS", spacing+`\`+spacing)
	if o.SOPClass == CR {
		f.text(tag.ViewPosition, "CS", "")
		if o.BodyPartExamined == "" { // required, may be empty, unless a body part is named that has no sides
			f.text(tag.Laterality, "CS", "")
		}
		return
	}
	f.text(tag.ImageLaterality, "CS", "U")
	f.text(tag.DetectorType, "CS", "DIRECT")
	f.sequence(tag.AnatomicRegionSequence, nil)
	f.text(tag.PositionerType, "CS", "")
	f.sequence(tag.AcquisitionContextSequence, nil)
}

// pixels writes the Image Pixel, Modality LUT and VOI LUT modules (C.7.6.3, C.11.1, C.11.2).
func (f *file) pixels(o Options, levels *canvas) {
	top := float64(int(1)<<o.Bits - 1)
	allocated, photometric, shape, sign := 16, "MONOCHROME2", "IDENTITY", []byte{0xFF, 0xFF} // -1: bright is less beam
	if o.Bits == 8 {
		allocated = 8
	}
	if o.Monochrome1 {
		photometric, shape, sign = "MONOCHROME1", "INVERSE", []byte{1, 0}
	}
	f.short(tag.SamplesPerPixel, 1)
	f.text(tag.PhotometricInterpretation, "CS", photometric)
	f.short(tag.Rows, o.Rows)
	f.short(tag.Columns, o.Columns)
	f.short(tag.BitsAllocated, allocated)
	f.short(tag.BitsStored, o.Bits)
	f.short(tag.HighBit, o.Bits-1)
	f.short(tag.PixelRepresentation, 0)
	f.text(tag.RescaleIntercept, "DS", "0")
	f.text(tag.RescaleSlope, "DS", "1")
	f.text(tag.RescaleType, "LO", "US")
	f.text(tag.PresentationLUTShape, "CS", shape)
	if o.SOPClass != CR {
		f.text(tag.PixelIntensityRelationship, "CS", "LOG")
		f.entries = append(f.entries, entry{tag.PixelIntensityRelationshipSign, "SS", sign})
	}
	if o.Window {
		f.text(tag.WindowCenter, "DS", strconv.FormatFloat((top+1)/2, 'f', -1, 64))
		f.text(tag.WindowWidth, "DS", strconv.FormatFloat(top+1, 'f', -1, 64))
	}
	data := make([]byte, 0, len(levels.grey)*allocated/8+1)
	for _, y := range levels.grey {
		if o.Monochrome1 {
			y = 1 - y
		}
		v := uint16(float64(y)*top + 0.5)
		data = append(data, byte(v))
		if allocated == 16 {
			data = append(data, byte(v>>8))
		}
	}
	vr := "OW"
	if allocated == 8 {
		vr = "OB"
		if len(data)%2 == 1 {
			data = append(data, 0)
		}
	}
	f.entries = append(f.entries, entry{tag.PixelData, vr, data})
}
