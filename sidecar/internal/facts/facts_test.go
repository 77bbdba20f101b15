package facts

import (
	"bytes"
	"maps"
	"testing"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/picture"
	"imagingrouter/sidecar/internal/rules"
	"imagingrouter/sidecar/phantom"
)

// What Orthanc numbers gets its keyword; what the dictionary does not know, or is no number, is left out.
func TestByKeyword(t *testing.T) {
	got := byKeyword(map[string]string{
		"0008,1030": "Thorax p.a. ", "0018,0015": "CHEST\x00", "0011,1001": "private", "0009,0010": "private creator", "nonsense": "x", "0010,zzzz": "x", "00100010": "x",
	})
	want := map[string]string{"StudyDescription": "Thorax p.a.", "BodyPartExamined": "CHEST"}
	if !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAge(t *testing.T) {
	for name, c := range map[string]struct {
		values map[string]string
		years  float64
		known  bool
	}{
		"age":     {map[string]string{"PatientAge": "006M", "PatientBirthDate": "19500101", "StudyDate": "20260101"}, 0.5, true},
		"dates":   {map[string]string{"PatientBirthDate": "20200101", "StudyDate": "20260101"}, 6, true},
		"nothing": {nil, 0, false},
	} {
		if got := TagsOf(c.values); got.AgeKnown != c.known || got.AgeYears != c.years {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A file is read as Orthanc would show it, and one that is none by its picture's header.
func TestFileTags(t *testing.T) {
	var file bytes.Buffer
	if _, err := phantom.Write(&file, phantom.Options{Class: "spine", Seed: 1, Rows: 32, Columns: 32, BodyPartExamined: "LSPINE", PatientAge: "041Y"}); err != nil {
		t.Fatal(err)
	}
	got := FileTags(file.Bytes(), picture.Header{})
	for keyword, want := range map[string]string{"BodyPartExamined": "LSPINE", "PatientAge": "041Y", "Modality": "DX", "AccessionNumber": "", "StudyDescription": "PHANTOM (no patient)"} {
		if got[keyword] != want {
			t.Errorf("%s is %q, want %q", keyword, got[keyword], want)
		}
	}
	if _, pixels := got["PixelData"]; pixels {
		t.Error("the pixels are among the tags")
	}
	got = FileTags([]byte("no DICOM"), picture.Header{Modality: "CR", BodyPartExamined: "CHEST"})
	if want := map[string]string{"Modality": "CR", "BodyPartExamined": "CHEST"}; !maps.Equal(got, want) {
		t.Errorf("no DICOM: %q", got)
	}
	if got := FileTags(nil, picture.Header{}); len(got) != 0 {
		t.Errorf("nothing: %q", got)
	}
}

func TestCertain(t *testing.T) {
	of := func(c bodypart.Class, review bool) bodypart.Result {
		return bodypart.Result{Prediction: bodypart.Prediction{Class: c}, Review: review}
	}
	got := Certain([]bodypart.Result{of("spine", false), of("others", true), of("abdominal", false)})
	if len(got) != 2 || got[0] != "spine" || got[1] != "abdominal" {
		t.Errorf("%v", got)
	}
}

// The order's priority is that of the requested procedure, else that of the study; what is no such word is ordinary.
func TestPriority(t *testing.T) {
	for name, c := range map[string]struct {
		procedure, study string
		want             rules.Priority
	}{
		"nothing":           {"", "", rules.Normal},
		"at once":           {"STAT", "", rules.High},
		"high":              {"HIGH", "LOW", rules.High},
		"low":               {"LOW", "HIGH", rules.Low},
		"in small letters":  {" stat ", "", rules.High},
		"of the study":      {"", "HIGH", rules.High},
		"routine":           {"ROUTINE", "HIGH", rules.Normal},
		"medium":            {"MEDIUM", "", rules.Normal},
		"low, of the study": {"", "LOW", rules.Low},
	} {
		tags := rules.Tags{Values: map[string]string{"RequestedProcedurePriority": c.procedure, "StudyPriorityID": c.study}}
		if got := Priority(tags); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := Priority(rules.Tags{}); got != rules.Normal {
		t.Errorf("without tags: %q", got)
	}
}
