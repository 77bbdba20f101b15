// Package phantom writes valid DX and CR files of nobody: simple radiograph-like shapes of the five classes, or a given picture, with
// fresh identifiers. It is for demonstrations and tests, knows neither Orthanc nor the network, and no figure of accuracy counts it.
package phantom

import (
	"crypto/rand"
	"errors"
	"fmt"
	"image"
	"io"
	"math/big"
	"strings"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
)

// The SOP classes that Write knows.
const (
	DXForPresentation = "1.2.840.10008.5.1.4.1.1.1.1"
	DXForProcessing   = "1.2.840.10008.5.1.4.1.1.1.1.1"
	CR                = "1.2.840.10008.5.1.4.1.1.1"
)

// Limits of Options.
const (
	MaxSide     = 3000 // rows or columns of a drawn or wrapped picture
	DefaultSide = 1024
	DefaultBits = 12
)

// Options says what to write. The zero value of a field stands for its default.
type Options struct {
	Class         string      // a name of bodypart.Class, "-" allowed for "_"; may be empty when Picture is set
	Seed          int64       // the same seed draws the same picture
	Rows, Columns int         // DefaultSide each; of a wrapped Picture its own size
	Bits          int         // stored: 8, 12 or 16
	Monochrome1   bool        // small values bright, as a film
	Picture       image.Image // wrap this instead of drawing; its grey levels are spread over the bits
	// Window writes WindowCenter and WindowWidth over the whole range. The standard demands them of DX for presentation; a file
	// without them is what some modalities send all the same.
	Window bool

	PatientAge       string // VR AS, such as 054Y; by default one that suits Class
	BodyPartExamined string // left empty by default: the class is for the network to find
	SOPClass         string // DXForPresentation by default
	Modality         string // DX, or CR for SOP class CR, by default

	StudyUID, SeriesUID, SOPInstanceUID string    // fresh 2.25.… when empty
	When                                time.Time // of the study; now by default
}

// Identity is the identifiers of a file.
type Identity struct {
	StudyUID, SeriesUID, SOPInstanceUID string
}

// Write writes a DICOM Part 10 file, explicit VR little endian, and returns its identifiers.
func Write(w io.Writer, o Options) (Identity, error) {
	o, class, err := o.complete()
	if err != nil {
		return Identity{}, fmt.Errorf("write phantom: %w", err)
	}
	var levels *canvas
	if o.Picture != nil {
		levels = wrap(o.Picture)
	} else {
		levels = draw(class, o.Seed, o.Rows, o.Columns)
	}
	o.Rows, o.Columns = levels.height, levels.width
	if _, err := w.Write(encode(o, levels)); err != nil {
		return Identity{}, fmt.Errorf("write phantom: %w", err)
	}
	return Identity{StudyUID: o.StudyUID, SeriesUID: o.SeriesUID, SOPInstanceUID: o.SOPInstanceUID}, nil
}

// complete checks the options and fills in the defaults.
func (o Options) complete() (Options, bodypart.Class, error) {
	class := bodypart.Others
	if o.Class != "" || o.Picture == nil {
		var err error
		if class, err = bodypart.ParseClass(o.Class); err != nil {
			return o, "", err
		}
	}
	if o.Picture != nil {
		o.Rows, o.Columns = o.Picture.Bounds().Dy(), o.Picture.Bounds().Dx()
		if o.Picture.Bounds().Empty() {
			return o, "", errors.New("the picture to wrap has no pixels")
		}
	}
	o.Rows, o.Columns = or(o.Rows, DefaultSide), or(o.Columns, DefaultSide)
	o.Bits = or(o.Bits, DefaultBits)
	o.SOPClass = or(o.SOPClass, DXForPresentation)
	if o.Rows < 1 || o.Columns < 1 || o.Rows > MaxSide || o.Columns > MaxSide {
		return o, "", fmt.Errorf("%d rows × %d columns: 1…%d are possible", o.Rows, o.Columns, MaxSide)
	}
	if o.Bits != 8 && o.Bits != 12 && o.Bits != 16 {
		return o, "", fmt.Errorf("%d bits: 8, 12 and 16 are possible", o.Bits)
	}
	modality := "DX"
	switch o.SOPClass {
	case CR:
		modality = "CR"
	case DXForPresentation, DXForProcessing:
	default:
		return o, "", fmt.Errorf("SOP class %q: DX (%s, %s) and CR (%s) are possible", o.SOPClass, DXForPresentation, DXForProcessing, CR)
	}
	o.Modality = or(o.Modality, modality)
	o.PatientAge = or(o.PatientAge, usualAge(class))
	if len(o.PatientAge) != 4 || !strings.ContainsAny(o.PatientAge[3:], "DWMY") || strings.Trim(o.PatientAge[:3], "0123456789") != "" {
		return o, "", errors.New("patient age is not of the form 054Y")
	}
	if o.When.IsZero() {
		o.When = time.Now()
	}
	for _, uid := range []*string{&o.StudyUID, &o.SeriesUID, &o.SOPInstanceUID} {
		if *uid == "" {
			*uid = NewUID()
		}
		if len(*uid) > 64 || strings.Trim(*uid, "0123456789.") != "" {
			return o, "", fmt.Errorf("%q is no UID", *uid)
		}
	}
	return o, class, nil
}

func or[T comparable](value, missing T) T {
	var zero T
	if value == zero {
		return missing
	}
	return value
}

func usualAge(c bodypart.Class) string {
	if c == bodypart.PediatricChest {
		return "004Y"
	}
	return "052Y"
}

// NewUID returns a fresh identifier under 2.25, the root for random numbers (PS3.5, B.2).
func NewUID() string {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	random[6], random[8] = random[6]&0x0F|0x40, random[8]&0x3F|0x80
	return "2.25." + new(big.Int).SetBytes(random).String()
}
