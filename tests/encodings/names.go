package main

import (
	"regexp"
	"slices"
	"strings"
)

// syntaxes are the transfer syntaxes of the corpora in the order of the document, by short names.
var syntaxes = []struct{ uid, name string }{
	{"1.2.840.10008.1.2", "Implicit little endian"},
	{"1.2.840.10008.1.2.1", "Explicit little endian"},
	{"1.2.840.10008.1.2.2", "Explicit big endian"},
	{"1.2.840.10008.1.2.1.98", "Encapsulated uncompressed"},
	{"1.2.840.10008.1.2.1.99", "Deflated"},
	{"1.2.840.10008.1.2.8.1", "Deflated image frame"},
	{"1.2.840.10008.1.2.5", "RLE"},
	{"1.2.840.10008.1.2.4.50", "JPEG baseline (.50)"},
	{"1.2.840.10008.1.2.4.51", "JPEG extended (.51)"},
	{"1.2.840.10008.1.2.4.53", "JPEG spectral selection (.53)"},
	{"1.2.840.10008.1.2.4.55", "JPEG progressive (.55)"},
	{"1.2.840.10008.1.2.4.57", "JPEG lossless (.57)"},
	{"1.2.840.10008.1.2.4.70", "JPEG lossless (.70)"},
	{"1.2.840.10008.1.2.4.80", "JPEG-LS lossless (.80)"},
	{"1.2.840.10008.1.2.4.81", "JPEG-LS near-lossless (.81)"},
	{"1.2.840.10008.1.2.4.90", "JPEG 2000 lossless (.90)"},
	{"1.2.840.10008.1.2.4.91", "JPEG 2000 (.91)"},
	{"1.2.840.10008.1.2.4.201", "HTJ2K lossless (.201)"},
	{"1.2.840.10008.1.2.4.202", "HTJ2K RPCL lossless (.202)"},
	{"1.2.840.10008.1.2.4.203", "HTJ2K (.203)"},
	{"", "none, or not readable"},
}

func syntaxOrder(uid string) int {
	for i, s := range syntaxes {
		if s.uid == uid {
			return i
		}
	}
	return len(syntaxes)
}

func syntaxName(uid string) string {
	if i := syntaxOrder(uid); i < len(syntaxes) {
		return syntaxes[i].name
	}
	return uid
}

// programs are the decoders that are not the router's own. Everything else that a step names is Go.
var programs = []string{"gdcmconv", "dcmdjpeg", "dcmdjpls", "opj_decompress"}

// decodedBy says in the document's words who decoded the pixels.
func decodedBy(how string) string {
	if how == "" {
		return ""
	}
	for _, program := range programs {
		if strings.HasPrefix(how, program) {
			return "`" + program + "`"
		}
	}
	return "Go"
}

// refusals sort the router's reasons into those that a person would tell apart; the first that matches counts.
var refusals = []struct {
	pattern     *regexp.Regexp
	short, text string
}{
	{regexp.MustCompile(`^not_a_picture: multi-frame`), "multi-frame", "more than one frame"},
	{regexp.MustCompile(`^not_a_picture: no PixelData`), "no pixels", "no Pixel Data: reports, plans, waveforms, surfaces, presentation states, directories"},
	{regexp.MustCompile(`^not_a_picture: .* instead of`), "no pixels", "Float or Double Float Pixel Data instead of Pixel Data"},
	{regexp.MustCompile(`^not_a_picture: .* is empty`), "no pixels", "Pixel Data is empty"},
	{regexp.MustCompile(`^too_large`), "too large", "more pixels than `picture.max_pixels`, or more bytes than a decoder may write"},
	{regexp.MustCompile(`^malformed: neither`), "no DICOM", "neither DICOM, PNG nor JPEG"},
	{regexp.MustCompile(`^malformed: (truncated|deflated)`), "broken", "cut off, or an element's length goes beyond the end of the file"},
	{regexp.MustCompile(`^malformed: .*(Rows|Columns|BitsAllocated|BitsStored|HighBit|SamplesPerPixel|PhotometricInterpretation)`), "broken", "the description of the pixels is missing or contradicts itself"},
	{regexp.MustCompile(`^malformed`), "broken", "broken in another way"},
	{regexp.MustCompile(`^undecodable: .*(install|switched off)`), "no decoder", "a decoder is not installed"},
	{regexp.MustCompile(`^undecodable`), "no decoder", "no decoder at hand can read the compressed pixels"},
}

// refusal returns the document's words for a reason, short and long.
func (s seen) refusal() (short, long string) {
	whole := s.Kind + ": " + s.Reason
	i := slices.IndexFunc(refusals, func(r struct {
		pattern     *regexp.Regexp
		short, text string
	},
	) bool {
		return r.pattern.MatchString(whole)
	})
	if i < 0 {
		return s.Kind, s.Kind
	}
	return refusals[i].short, refusals[i].text
}
