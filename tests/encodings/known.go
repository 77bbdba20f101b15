package main

// known is a difference that has been looked into. One without a difference behind it fails the test, like a difference without a known.
type known struct {
	file      string // of the corpus
	reference string // pydicom or Orthanc
	reason    reason
}

// reason is why a difference is none of the router's; it goes into the document, the file's name does not.
type reason string

const (
	nonsenseHeader reason = "The header contradicts itself (no rows, more bits than there is room for, a length beyond the end of the file). pydicom makes an array of it all the same, an empty one or one of zeros; the router names the tag."
	brokenStream   reason = "The compressed stream is broken on purpose. GDCM's Python binding hides the error and returns what was in memory; `gdcmconv` refuses it, and so does the router."
	unknownVR      reason = "Window and rescale have the VR UN, which Orthanc does not read: it shows the full range. pydicom agrees with the router, and so does Orthanc once the VRs are put right."
	deepSequences  reason = "Its sequences stand inside one another deeper than any real file's. The router refuses it: Orthanc dies when it is asked for the tags of such a file."
)

var knownDifferences = []known{
	{"pydicom/b1fd9301d9d0.dcm", "pydicom", brokenStream},
	{"fuzz-pwnlab/37cdbf98d3ca.dcm", "pydicom", brokenStream},
	{"fuzz-pwnlab/d999c8b91332.dcm", "pydicom", brokenStream},
	{"fuzz-pwnlab/fe567c40237c.dcm", "pydicom", nonsenseHeader},
	{"fuzz-pwnlab/46c80048328a.dcm", "pydicom", nonsenseHeader},
	{"fuzz-pwnlab/0ffa2d05ba94.dcm", "pydicom", nonsenseHeader},
	{"fuzz-pwnlab/7d699716719e.dcm", "pydicom", nonsenseHeader},
	{"fuzz-pwnlab/9e2f08154775.dcm", "pydicom", nonsenseHeader},
	{"fuzz-pwnlab/84b7ad16db7c.dcm", "pydicom", deepSequences},
	{"cornerstone-wado/9428a7a92aad.dcm", "Orthanc", unknownVR},
}

// unexplained returns what differs without being known, and what is known and does not differ, one line each.
func (b *bench) unexplained() []string {
	type key struct{ file, reference string }
	open := map[key]bool{}
	for _, k := range knownDifferences {
		open[key{k.file, k.reference}] = true
	}
	seen := map[key]bool{}
	var lines []string
	report := func(r *result, reference, version string, v verdict) {
		if v.outcome != different {
			return
		}
		k := key{r.name, reference}
		if seen[k] = true; !open[k] {
			lines = append(lines, r.name+" ("+syntaxName(r.syntax)+" "+r.photometric+" "+r.bits+", "+r.ours.decoder()+") against "+reference+version+": "+v.String())
		}
	}
	for _, r := range b.results {
		report(r, "pydicom", "", r.pydicom)
		for _, line := range r.lines() {
			report(r, "Orthanc", " "+line, r.orthanc[line])
		}
	}
	for _, k := range knownDifferences {
		if !seen[key{k.file, k.reference}] {
			lines = append(lines, k.file+" does not differ from "+k.reference+" any more: take it out of known.go")
		}
	}
	return lines
}
