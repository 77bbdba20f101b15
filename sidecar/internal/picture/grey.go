package picture

import (
	"cmp"
	"iter"
	"math"
	"slices"

	"github.com/suyashkumar/dicom/pkg/tag"
)

// grey is a picture after rescale. NaN marks padding, and what a shutter covers.
type grey struct {
	codes  []uint16
	table  []float64 // of codes: the rescaled value of every code
	counts []int     // of codes: how many visible pixels have it; 0 for padding
	hidden []bool    // of codes: nil, or which pixels a shutter covers
	values []float32 // instead of codes
}

// rescale applies the Modality LUT, or RescaleSlope and RescaleIntercept (PS3.3, C.11.1), or the palette.
func (d *dataset) rescale(r *raster, padding paddingRange, watch *stopwatch) (*grey, error) {
	if r.codes == nil {
		if r.format.samples == 3 {
			watch.step("luminance", "%s", photometricName(r.format.photometric))
			return &grey{values: r.values}, nil
		}
		slope, intercept := d.slope()
		for i, v := range r.values {
			r.values[i] = float32(float64(v)*slope + intercept)
		}
		watch.step("rescale", "slope %g, intercept %g", slope, intercept)
		return &grey{values: r.values}, nil
	}
	g := &grey{codes: r.codes, hidden: r.hidden, counts: histogram(r.codes, 1<<r.format.stored, r.hidden)}
	var err error
	if r.format.photometric == "PALETTE COLOR" {
		if g.table, err = d.palette(len(g.counts)); err != nil {
			return nil, err
		}
		watch.step("luminance", "palette")
		return g, nil
	}
	var detail string
	g.table, detail = d.rescaleTable(r.format)
	for code := range g.table {
		if padding.contains(r.format.value(uint32(code))) {
			g.table[code], g.counts[code] = math.NaN(), 0
		}
	}
	watch.step("rescale", "%s", detail)
	return g, nil
}

// histogram counts how often each code occurs, where hidden does not say that it is not seen.
// photometricName spells an interpretation of three samples for people. Whatever else stands after YBR_ is not repeated.
func photometricName(p string) string {
	if slices.Contains([]string{"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"}, p) {
		return p
	}
	return "YBR"
}

func histogram(codes []uint16, size int, hidden []bool) []int {
	counts := make([]int, size)
	if hidden == nil {
		for _, c := range codes {
			counts[c]++
		}
		return counts
	}
	for i, c := range codes {
		if !hidden[i] {
			counts[c]++
		}
	}
	return counts
}

// within returns what is left for statistics of a picture without the pixels outside of something.
func (g *grey) within(outside []bool) *grey {
	if g.codes == nil {
		inside := &grey{}
		for i, v := range g.values {
			if !outside[i] {
				inside.values = append(inside.values, v)
			}
		}
		return inside
	}
	if g.hidden != nil {
		for i, hidden := range g.hidden {
			outside[i] = outside[i] || hidden
		}
	}
	inside := &grey{codes: g.codes, table: g.table, counts: histogram(g.codes, len(g.counts), outside)}
	for code, n := range g.counts {
		if n == 0 { // padding
			inside.counts[code] = 0
		}
	}
	return inside
}

// rescaleTable returns the rescaled value of every code.
func (d *dataset) rescaleTable(f pixelFormat) (table []float64, detail string) {
	table = make([]float64, 1<<f.stored)
	if sequence, ok := d.elements[modalityLUTSequence]; ok {
		if l := readLookup(sequence.firstItem(), tag.LUTDescriptor, tag.LUTData, f.signed); l != nil {
			for code := range table {
				table[code] = float64(l.at(f.value(uint32(code))))
			}
			return table, "modality LUT"
		}
	}
	slope, intercept := d.slope()
	for code := range table {
		table[code] = float64(f.value(uint32(code)))*slope + intercept
	}
	return table, "slope " + short(slope) + ", intercept " + short(intercept)
}

// slope returns RescaleSlope and RescaleIntercept, or 1 and 0 where they are missing or useless.
func (d *dataset) slope() (slope, intercept float64) {
	slope, ok := d.number(tag.RescaleSlope)
	if !ok || !reasonable(slope) || math.Abs(slope) < 1/farthest {
		slope = 1
	}
	intercept, ok = d.number(tag.RescaleIntercept)
	if !ok || !reasonable(intercept) {
		intercept = 0
	}
	return slope, intercept
}

// farthest is the greatest number of a file that is calculated with: a stored value of 32 bits times it still is a float32.
const farthest = 1e25

// reasonable says whether a file's number can be calculated with.
func reasonable(v float64) bool { return math.Abs(v) <= farthest }

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// levels yields every rescaled value with the number of its pixels, in no order; a value may come more than once.
func (g *grey) levels() iter.Seq2[float64, int] {
	return func(yield func(float64, int) bool) {
		for code, n := range g.counts {
			if n > 0 && !yield(g.table[code], n) {
				return
			}
		}
		for _, v := range g.values {
			if v == v && !yield(float64(v), 1) { // v != v: NaN, padding
				return
			}
		}
	}
}

// bounds returns the least and the greatest value and the number of pixels that are no padding.
func (g *grey) bounds() (low, high float64, pixels int) {
	low, high = math.Inf(1), math.Inf(-1)
	for x, n := range g.levels() {
		low, high, pixels = min(low, x), max(high, x), pixels+n
	}
	return low, high, pixels
}

// percentile returns the nearest-rank percentile of the values at all pixels but padding: the value of rank ceil(p·n/100), 1 being
// the first. There must be such a pixel.
func (g *grey) percentile(p float64) float64 {
	if g.codes == nil {
		return percentile32(g.values, p)
	}
	type level struct {
		x float64
		n int
	}
	levels := make([]level, 0, len(g.counts))
	total := 0
	for x, n := range g.levels() {
		levels = append(levels, level{x, n})
		total += n
	}
	ascending := func(a, b level) int { return cmp.Compare(a.x, b.x) }
	if !slices.IsSortedFunc(levels, ascending) {
		slices.SortFunc(levels, ascending)
	}
	rank := rankOf(p, total)
	for _, l := range levels {
		if rank -= l.n; rank <= 0 {
			return l.x
		}
	}
	return levels[len(levels)-1].x
}

func rankOf(p float64, n int) int {
	return min(max(int(math.Ceil(p*float64(n)/100)), 1), n)
}

// percentile32 finds the value by two histograms over the bits of the floats, whose order is that of the floats once the sign is
// turned round: 65,536 buckets by the upper half, then those of the one bucket that holds the rank.
func percentile32(values []float32, p float64) float64 {
	key := func(v float32) uint32 {
		b := math.Float32bits(v)
		if b>>31 == 1 {
			return ^b
		}
		return b | 1<<31
	}
	upper := make([]int, 1<<16)
	total := 0
	for _, v := range values {
		if v == v {
			upper[key(v)>>16]++
			total++
		}
	}
	bucket, rank := find(upper, rankOf(p, total))
	lower := make([]int, 1<<16)
	for _, v := range values {
		if k := key(v); v == v && k>>16 == bucket {
			lower[k&0xFFFF]++
		}
	}
	low, _ := find(lower, rank)
	b := bucket<<16 | low
	if b>>31 == 1 {
		return float64(math.Float32frombits(b &^ (1 << 31)))
	}
	return float64(math.Float32frombits(^b))
}

// find returns the index at which the counts reach rank, and what is left of rank there.
func find(counts []int, rank int) (index uint32, left int) {
	for i, n := range counts {
		if rank <= n {
			return uint32(i), rank
		}
		rank -= n
	}
	return uint32(len(counts) - 1), rank
}
