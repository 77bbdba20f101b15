package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const introduction = `# What the router can read

<!-- Written by make encodings (tests/encodings/document.go). A change by hand is lost. -->

For those who have to say beforehand whether the router will see what their modalities send. Every line below was measured on public test
files of DICOM libraries and viewers, and held against programs that others wrote.

* **It reads** single-frame grey and colour pictures of 1 to 32 bits in the transfer syntaxes below. Colour counts as its luminance.
* **Must be installed**: nothing for uncompressed pictures, RLE and JPEG baseline, which the router decodes itself ("Go" below).
  For lossless and 12-bit JPEG ` + "`dcmdjpeg`" + ` or ` + "`gdcmconv`" + `, for JPEG-LS ` + "`gdcmconv`" + ` or ` + "`dcmdjpls`" + `, for JPEG 2000 ` + "`opj_decompress`" + ` or
  ` + "`gdcmconv`" + `, for High-Throughput JPEG 2000 (HTJ2K) ` + "`opj_decompress`" + ` 2.5 or newer. Where both are there, the second reads what the first
  cannot. They come with Debian's ` + "`libgdcm-tools`" + `, ` + "`libopenjp2-tools`" + ` and ` + "`dcmtk`" + `; the router's image has all of them, its Debian package the
  first two, and recommends the third. ` + "`imaging-router check`" + ` says what is found and what that leaves out.
* **It never reads** objects of more than one frame (cine runs, tomosynthesis), objects without Pixel Data (reports, presentation states,
  PDF, waveforms, …), video, and Float Pixel Data. They end as ` + "`unreadable`" + `, with the reason, and harm nothing else.
* **Size**: up to ` + "`picture.max_pixels`" + ` (rows × columns, 100 million unless set otherwise) and ` + "`picture.max_file`" + `.
* **A picture that nothing decodes** ends as ` + "`undecodable`" + `, with the syntax and what to install;
  ` + "`imaging-router jobs retry --state undecodable`" + ` takes it up again afterwards.

`

const method = `## How it was compared

Files: %d, of %d test corpora. They are no part of this repository. %d of them are pictures to the router (%d blank), %d it refuses.
Programs: %s.

* **pydicom**: the stored values through Modality LUT or rescale, and the displayed picture (window, VOI LUT, polarity) of every file that
  both read. Lossless encodings must agree in every stored value (values of more than 24 bits: in their 24 highest), and to 1/100 of a grey
  level of 255 as displayed. JPEG of the discrete cosine transform and lossy JPEG 2000 are not defined to the last bit: one stored level.
  The reference's pixels come from pydicom itself (uncompressed, RLE), Pillow (8-bit JPEG by libjpeg-turbo; JPEG 2000 by OpenJPEG, as in
  the router's decoders), OpenJPH (HTJ2K) and GDCM (the rest). Where the router used ` + "`gdcmconv`" + ` as well, Orthanc's DCMTK is the independent word.
* **Orthanc** (` + "`/instances/{id}/rendered`" + `, without the GDCM plugin): the displayed picture at its full size, in 256 grey levels. The
  mean difference may be one grey level, and what one stored level is worth. Where the file has no usable window Orthanc would show the full
  range, so it is asked for the router's; colour, on which Orthanc puts no window, is compared before it. Behind a VOI LUT, a Modality LUT or
  a SIGMOID window, which Orthanc does not apply, only the order of the grey levels is compared (rank correlation above %g).
* Where the router has a rule of its own, the same rule was applied to the reference's pixels: percentiles where there is no usable window,
  black padding, bits above Bits Stored left out. Orthanc shows overlays that lie there, and what lies in padding; these pixels are left out.
  Pixels are compared as they are stored, before those that are not square are made so. A file with a Display Shutter, or with a
  collimation and no usable window, is not compared.

`

// document returns docs/encodings.md. tools is the line of what it was measured with.
func (b *bench) document(tools string) string {
	var d strings.Builder
	d.WriteString(introduction)
	b.writeTable(&d)
	pictures, blank, corpora := 0, 0, map[string]bool{}
	for _, r := range b.results {
		corpus, _, _ := strings.Cut(r.name, "/")
		corpora[corpus] = true
		if r.ours.Kind == "" {
			pictures++
		}
		if r.ours.Blank {
			blank++
		}
	}
	b.writeRefusals(&d)
	fmt.Fprintf(&d, method, len(b.results), len(corpora), pictures, blank, len(b.results)-pictures, tools, leastRank)
	b.writeDifferences(&d)
	return d.String()
}

func (b *bench) writeTable(d *strings.Builder) {
	d.WriteString("## By encoding\n\n*Pictures*: files that give a picture; the others are refused, for the reason in the last column. *pydicom*, *Orthanc*: pictures that agree; " +
		"\"3 of 5\": for the other two the reference has no picture, or there is nothing to see on it.\n\n")
	d.WriteString("| transfer syntax | photometric interpretation | bits | decoded by | files | pictures | pydicom | Orthanc | refused |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range b.rows() {
		d.WriteString(r.String() + "\n")
	}
	d.WriteString("\n")
}

func (b *bench) writeRefusals(d *strings.Builder) {
	d.WriteString("## Why files were refused\n\nOf all files, those of the table and those whose header is broken or promises no pixels. `undecodable` is the state in which an X-ray ends, " +
		"that of all others is `unreadable`.\n\n| kind | reason | files |\n|---|---|---|\n")
	type refusal struct{ kind, text string }
	counts := map[refusal]int{}
	for _, r := range b.results {
		if r.ours.Kind != "" {
			_, text := r.ours.refusal()
			counts[refusal{r.ours.Kind, text}]++
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(counts), func(x, y refusal) int {
		return cmp.Or(cmp.Compare(x.kind, y.kind), cmp.Compare(counts[y], counts[x]), cmp.Compare(x.text, y.text))
	}) {
		fmt.Fprintf(d, "| `%s` | %s | %d |\n", k.kind, k.text, counts[k])
	}
	d.WriteString("\n")
}

func (b *bench) writeDifferences(d *strings.Builder) {
	sums := map[string]*tally{"pydicom": {}, "Orthanc": {}}
	onlyHere := 0
	for _, r := range b.results {
		sums["pydicom"].add(r.pydicom)
		sums["Orthanc"].add(r.rendered())
		if r.pydicom.outcome == unreadable {
			onlyHere++
		}
	}
	p, o := sums["pydicom"], sums["Orthanc"]
	fmt.Fprintf(d, "## Result\n\n* pydicom: %d pictures agree, %d of them in every stored value; in the other %d, all lossy, no value is off by more than one level. "+
		"%d pictures it cannot read.\n", p.same, p.exact, p.same-p.exact, onlyHere)
	fmt.Fprintf(d, "* Orthanc: %d pictures agree; %d it cannot store or render (JPEG 2000 needs a plugin).\n", o.same, o.unreadable)
	d.WriteString("* What differs was looked into, file by file:\n\n| reference | files | reason |\n|---|---|---|\n")
	counts := map[known]int{}
	for _, k := range knownDifferences {
		counts[known{reference: k.reference, reason: k.reason}]++
	}
	for _, k := range slices.SortedFunc(maps.Keys(counts), func(x, y known) int {
		return cmp.Or(cmp.Compare(y.reference, x.reference), cmp.Compare(x.reason, y.reason))
	}) {
		fmt.Fprintf(d, "| %s | %d | %s |\n", k.reference, counts[k], k.reason)
	}
}
