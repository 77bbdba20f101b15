package orthanctest

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"math/big"
)

// SOP classes that tests name.
const (
	ComputedRadiography = "1.2.840.10008.5.1.4.1.1.1"
	DigitalXRay         = "1.2.840.10008.5.1.4.1.1.1.1"
	CT                  = "1.2.840.10008.5.1.4.1.1.2"
	SecondaryCapture    = "1.2.840.10008.5.1.4.1.1.7"
)

// File describes a small DICOM file: a grey square of invented content, for tests that need something stored and do not look at it.
// Empty UIDs are made up.
type File struct {
	SOPClass, Modality                  string // DX when empty
	StudyUID, SeriesUID, SOPInstanceUID string
	PatientID                           string // TEST when empty; the same study is of the same patient
	Side                                int    // rows and columns; 16 when zero
	Grey                                byte
}

// Bytes returns the file: explicit VR little endian, 8 bits, MONOCHROME2.
func (f File) Bytes() []byte {
	if f.SOPClass == "" {
		f.SOPClass, f.Modality = DigitalXRay, "DX"
	}
	if f.PatientID == "" {
		f.PatientID = "TEST"
	}
	if f.Side == 0 {
		f.Side = 16
	}
	for _, uid := range []*string{&f.StudyUID, &f.SeriesUID, &f.SOPInstanceUID} {
		if *uid == "" {
			*uid = NewUID()
		}
	}
	var meta, set elements
	meta.raw(0x0002, 0x0001, "OB", []byte{0, 1})
	meta.text(0x0002, 0x0002, "UI", f.SOPClass)
	meta.text(0x0002, 0x0003, "UI", f.SOPInstanceUID)
	meta.text(0x0002, 0x0010, "UI", "1.2.840.10008.1.2.1")
	meta.text(0x0002, 0x0012, "UI", "2.25.1")

	set.text(0x0008, 0x0016, "UI", f.SOPClass)
	set.text(0x0008, 0x0018, "UI", f.SOPInstanceUID)
	set.text(0x0008, 0x0060, "CS", f.Modality)
	set.text(0x0010, 0x0010, "PN", "Test^Phantom")
	set.text(0x0010, 0x0020, "LO", f.PatientID)
	set.text(0x0020, 0x000d, "UI", f.StudyUID)
	set.text(0x0020, 0x000e, "UI", f.SeriesUID)
	set.number(0x0002, 1)
	set.text(0x0028, 0x0004, "CS", "MONOCHROME2")
	set.number(0x0010, f.Side)
	set.number(0x0011, f.Side)
	set.number(0x0100, 8)
	set.number(0x0101, 8)
	set.number(0x0102, 7)
	set.number(0x0103, 0)
	set.raw(0x7fe0, 0x0010, "OB", bytes.Repeat([]byte{f.Grey}, f.Side*f.Side))

	var length elements
	length.raw(0x0002, 0x0000, "UL", binary.LittleEndian.AppendUint32(nil, uint32(meta.Len())))
	out := append(make([]byte, 128), "DICM"...)
	out = append(out, length.Bytes()...)
	out = append(out, meta.Bytes()...)
	return append(out, set.Bytes()...)
}

// NewUID returns a UID of the kind that is derived from a UUID (PS3.5 B.2).
func NewUID() string {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	return "2.25." + new(big.Int).SetBytes(random).String()
}

// elements is a run of data elements in explicit VR little endian.
type elements struct{ bytes.Buffer }

func (e *elements) raw(group, element uint16, vr string, value []byte) {
	head := binary.LittleEndian.AppendUint16(nil, group)
	head = binary.LittleEndian.AppendUint16(head, element)
	head = append(head, vr...)
	if len(value)%2 == 1 {
		value = append(value, 0)
	}
	if vr == "OB" {
		head = append(head, 0, 0)
		head = binary.LittleEndian.AppendUint32(head, uint32(len(value)))
	} else {
		head = binary.LittleEndian.AppendUint16(head, uint16(len(value)))
	}
	e.Write(head)
	e.Write(value)
}

func (e *elements) text(group, element uint16, vr, value string) {
	if len(value)%2 == 1 && vr != "UI" {
		value += " "
	}
	e.raw(group, element, vr, []byte(value))
}

// number adds a US element of the group that describes the picture.
func (e *elements) number(element uint16, value int) {
	e.raw(0x0028, element, "US", binary.LittleEndian.AppendUint16(nil, uint16(value)))
}
