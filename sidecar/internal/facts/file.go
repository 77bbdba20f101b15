package facts

import (
	"bytes"
	"strings"

	"github.com/suyashkumar/dicom"
	"github.com/suyashkumar/dicom/pkg/tag"

	"imagingrouter/sidecar/internal/picture"
)

// FileTags returns the tags of a DICOM file by keyword, as Tags of Orthanc would: no sequences, no private ones, several values joined by
// a backslash. Of a file that is no DICOM, or that cannot be read to its end, it returns what the header of its picture holds.
func FileTags(content []byte, h picture.Header) map[string]string {
	values := map[string]string{}
	if h.Modality != "" || h.BodyPartExamined != "" {
		values["Modality"], values["BodyPartExamined"] = h.Modality, h.BodyPartExamined
	}
	texts := picture.Texts(content)
	set, err := dicom.Parse(bytes.NewReader(texts), int64(len(texts)), nil)
	if err != nil {
		return values
	}
	for _, e := range set.Elements {
		known, err := tag.Find(e.Tag)
		if err != nil || e.Tag.Group == tag.MetadataGroup { // of the file, not of the picture
			continue
		}
		if texts, ok := e.Value.GetValue().([]string); ok {
			values[known.Keyword] = strings.Trim(strings.Join(texts, `\`), " \x00")
		}
	}
	return values
}
