package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// kindOfPixels is a row of the document's table.
type kindOfPixels struct {
	syntax, photometric string
	bits                int // stored; 0 where the header does not say
}

// row is the files of one kind.
type row struct {
	kindOfPixels
	decoders map[string]bool
	files    []*result
}

// rows sorts the files whose header promises pixels.
func (b *bench) rows() []*row {
	rows := map[kindOfPixels]*row{}
	for _, r := range b.results {
		if !r.hasPixels || r.photometric == "" {
			continue
		}
		bits, _ := strconv.Atoi(r.bits) // "" is 0
		k := kindOfPixels{r.syntax, r.photometric, bits}
		if rows[k] == nil {
			rows[k] = &row{kindOfPixels: k, decoders: map[string]bool{}}
		}
		rows[k].files = append(rows[k].files, r)
		if who := decodedBy(r.ours.decoder()); who != "" {
			rows[k].decoders[who] = true
		}
	}
	return slices.SortedFunc(maps.Values(rows), func(a, b *row) int {
		return cmp.Or(
			cmp.Compare(syntaxOrder(a.syntax), syntaxOrder(b.syntax)), cmp.Compare(a.syntax, b.syntax),
			cmp.Compare(a.photometric, b.photometric), cmp.Compare(a.bits, b.bits),
		)
	})
}

// String returns the row in Markdown.
func (k *row) String() string {
	pictures := 0
	pydicom, orthanc := &tally{}, &tally{}
	why := map[string]int{}
	for _, r := range k.files {
		if r.ours.Kind != "" {
			short, _ := r.ours.refusal()
			why[short]++
			continue
		}
		pictures++
		pydicom.add(r.pydicom)
		orthanc.add(r.rendered())
	}
	var refusals []string
	for _, short := range slices.Sorted(maps.Keys(why)) {
		refusals = append(refusals, fmt.Sprintf("%d %s", why[short], short))
	}
	bits := "?"
	if k.bits > 0 {
		bits = strconv.Itoa(k.bits)
	}
	who := strings.Join(slices.Sorted(maps.Keys(k.decoders)), ", ")
	return fmt.Sprintf("| %s | %s | %s | %s | %d | %d | %s | %s | %s |", syntaxName(k.syntax), k.photometric, bits, cmp.Or(who, "–"),
		len(k.files), pictures, pydicom.cell(pictures), orthanc.cell(pictures), strings.Join(refusals, ", "))
}

// rendered sums the verdicts of all versions of Orthanc up: a version that differs counts more than one that agrees, and that more than one
// that cannot render the file.
func (r *result) rendered() verdict {
	sum := verdict{outcome: unasked}
	order := []outcome{unasked, unreadable, same, different}
	for _, line := range r.lines() {
		if v := r.orthanc[line]; slices.Index(order, v.outcome) > slices.Index(order, sum.outcome) {
			sum = v
		}
	}
	return sum
}

// tally counts the verdicts over some pictures.
type tally struct{ same, exact, different, unreadable int }

func (t *tally) add(v verdict) {
	switch v.outcome {
	case same:
		t.same++
		if v.exact {
			t.exact++
		}
	case different:
		t.different++
	case unreadable:
		t.unreadable++
	case refused, unasked:
	}
}

// cell says how many of the pictures agree: "3", "3 (±1)" where decoders may disagree by a stored level and do, "3 of 5" where there was
// nothing to compare for others.
func (t *tally) cell(pictures int) string {
	text := strconv.Itoa(t.same)
	switch {
	case pictures == 0 || (t.same == 0 && t.different == 0):
		return "–"
	case t.same < pictures:
		text += fmt.Sprintf(" of %d", pictures)
	}
	if t.different > 0 {
		text += fmt.Sprintf(", **%d differ**", t.different)
	}
	return text
}
