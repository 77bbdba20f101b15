package picture

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/suyashkumar/dicom/pkg/tag"
)

const oldest = 150 // years; an age above is a slip of the pen

func (d *dataset) header() Header {
	h := Header{
		SOPClassUID:               d.text(tag.SOPClassUID),
		SOPInstanceUID:            d.text(tag.SOPInstanceUID),
		TransferSyntaxUID:         d.syntax,
		Modality:                  d.code(tag.Modality),
		PhotometricInterpretation: strings.ToUpper(d.text(tag.PhotometricInterpretation)),
		BodyPartExamined:          d.code(tag.BodyPartExamined),
		Frames:                    1,
	}
	h.AgeYears, h.AgeKnown = Age(d.text(tag.PatientAge), d.text(tag.PatientBirthDate), d.text(tag.StudyDate))
	if frames, ok := d.number(tag.NumberOfFrames); ok && frames >= 0 && frames < math.MaxInt32 {
		h.Frames = max(1, int(frames))
	}
	return h
}

// code returns the text of a code string (VR CS), which is ASCII whatever the file's character set. UTF-8 is let through; bytes that are
// none, and what a terminal would obey, become "?".
func (d *dataset) code(t tag.Tag) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return '?'
		}
		return r
	}, d.text(t))
}

// Age returns a patient's age in years from the texts of PatientAge, PatientBirthDate and StudyDate. It prefers PatientAge to the dates.
// What cannot be an age is as good as missing.
func Age(patientAge, birthDate, studyDate string) (years float64, known bool) {
	if years, ok := parseAge(patientAge); ok {
		return years, true
	}
	born, ok := parseDate(birthDate)
	if !ok {
		return 0, false
	}
	studied, ok := parseDate(studyDate)
	if !ok || studied.Before(born) {
		return 0, false
	}
	whole := studied.Year() - born.Year()
	if born.AddDate(whole, 0, 0).After(studied) {
		whole--
	}
	last, next := born.AddDate(whole, 0, 0), born.AddDate(whole+1, 0, 0)
	years = float64(whole) + studied.Sub(last).Hours()/next.Sub(last).Hours()
	return years, years <= oldest
}

// parseAge reads an age string (PS3.5, 6.2, VR AS): nnnD, nnnW, nnnM or nnnY, with fewer digits forgiven.
func parseAge(s string) (years float64, ok bool) {
	s = strings.ToUpper(strings.Trim(s, " \x00"))
	if len(s) < 2 || len(s) > 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 16)
	if err != nil {
		return 0, false
	}
	perYear := map[byte]float64{'D': 365.25, 'W': 365.25 / 7, 'M': 12, 'Y': 1}[s[len(s)-1]]
	if perYear == 0 {
		return 0, false
	}
	years = float64(n) / perYear
	return years, years <= oldest
}

// parseDate reads a date (VR DA): YYYYMMDD, or YYYY.MM.DD of ACR-NEMA.
func parseDate(s string) (time.Time, bool) {
	for _, layout := range []string{"20060102", "2006.01.02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
