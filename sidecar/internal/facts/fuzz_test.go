package facts

import (
	"bytes"
	"runtime/metrics"
	"strings"
	"testing"

	"imagingrouter/sidecar/internal/picture"
	"imagingrouter/sidecar/internal/rules"
	"imagingrouter/sidecar/phantom"
)

// FuzzFileTags looks for a DICOM file that breaks the reading of its tags: those that come are keywords with texts no longer than the file, and
// no more memory is taken than the file explains.
func FuzzFileTags(f *testing.F) {
	var file bytes.Buffer
	if _, err := phantom.Write(&file, phantom.Options{Class: "spine", Seed: 1, Rows: 8, Columns: 8, PatientAge: "041Y", BodyPartExamined: "LSPINE"}); err != nil {
		f.Fatal(err)
	}
	whole := file.Bytes()
	f.Add(whole)
	f.Add(whole[:len(whole)-40])
	for _, change := range [][2]string{
		{"UI\x1a\x00", "OB\x00\x00\xff\xff\xff\x7f"}, // a length of 2 GB
		{"1.2.840.10008.1.2.1\x00", "1.2.840.10008.1.2.2\x00"}, {"1.2.840.10008.1.2.1\x00", "1.2.840.10008.1.2\x00\x00\x00"},
		{"1.2.840.10008.1.2.1\x00", "1.2.840.10008.1.2.4.50"}, {"LSPINE", "\xff\xfe\x00\x00AB"},
	} {
		f.Add(bytes.Replace(whole, []byte(change[0]), []byte(change[1]), 1))
	}
	deep := bytes.Clone(whole[:bytes.Index(whole, []byte{0x08, 0x00, 0x16, 0x00})])
	for range 200 {
		deep = append(deep, "\x08\x00\x10\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"...)
	}
	f.Add(deep)
	f.Fuzz(func(t *testing.T, file []byte) {
		before := allocated()
		tags := FileTags(file, picture.Header{Modality: "DX"})
		if used, limit := allocated()-before, int64(16<<20)+256*int64(len(file)); used > limit {
			t.Errorf("%d bytes were allocated for a file of %d", used, len(file))
		}
		for keyword, value := range tags {
			if keyword != strings.TrimSpace(keyword) || keyword == "PixelData" || len(value) > max(len(file), 2) {
				t.Errorf("%q of %d bytes", keyword, len(value))
			}
		}
		known := TagsOf(tags)
		if known.AgeKnown && !(known.AgeYears >= 0 && known.AgeYears <= 150) {
			t.Errorf("an age of %v", known.AgeYears)
		}
		switch Priority(known) {
		case rules.High, rules.Normal, rules.Low:
		default:
			t.Errorf("a priority of %q", Priority(known))
		}
	})
}

func allocated() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}
