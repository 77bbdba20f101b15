package picture

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/suyashkumar/dicom/pkg/tag"
)

const (
	lowPercentile  = 0.5
	highPercentile = 99.5
	saturated      = 0.99      // share of the pixels at one end of a window from which on it is unusable
	blankRange     = 1.0 / 255 // least difference of two grey levels on an 8-bit display
	blankDeviation = 0.004
)

// curve maps a rescaled value to 0…1.
type curve func(x float64) float64

// chooseVOI returns the values-of-interest transformation (PS3.3, C.11.2) and says which one it is and why. It is the file's first
// window; the first item of its VOI LUT Sequence when it has no window; and a window over the percentiles 0.5 and 99.5 when there
// is neither or the window is unusable: not finite, too narrow, or leaving 99 % of the pixels black or 99 % white.
// flat: all pixels are alike, and there is nothing to choose. The percentiles are those of framed(): g, or the part of it that lies
// inside the collimation.
func (d *dataset) chooseVOI(g *grey, framed func() *grey, signed bool) (c curve, detail string, flat bool) {
	low, high, pixels := g.bounds()
	why := "no window"
	switch {
	case has(d.elements, tag.WindowCenter) && has(d.elements, tag.WindowWidth):
		if c, detail, why = d.window(); c != nil {
			if why = g.saturation(c, pixels); why == "" {
				return c, detail, false
			}
		}
	case has(d.elements, voiLUTSequence):
		if l := readLookup(d.elements[voiLUTSequence].firstItem(), tag.LUTDescriptor, tag.LUTData, signed || low < 0); l != nil {
			top := float64(int(1)<<l.bits - 1)
			return func(x float64) float64 { return min(float64(l.at(whole(x)))/top, 1) }, "VOI LUT", false
		}
		why = "VOI LUT broken"
	}
	if pixels == 0 {
		return nil, "nothing but padding", true
	}
	if low == high {
		return nil, "all pixels are alike", true
	}
	f := framed()
	if f != g {
		why += ", inside the collimation"
	}
	l, h := f.percentile(lowPercentile), f.percentile(highPercentile)
	if l == h {
		return ramp(low, high), fmt.Sprintf("least to greatest value, %s…%s (%s, percentiles alike)", short(low), short(high), why), false
	}
	return ramp(l, h), fmt.Sprintf("percentiles %g and %g, %s…%s (%s)", lowPercentile, highPercentile, short(l), short(h), why), false
}

// framed returns the part of a picture that lies inside its collimation, or all of it where there is none, where less than a tenth of
// the picture would be left, or where all that is left is padding or covered.
func (d *dataset) framed(g *grey, f pixelFormat, aspect float64) *grey {
	outside, inside := d.covered(collimator, f.columns, f.rows, aspect)
	if outside == nil || float64(inside) < leastCollimated*float64(f.pixels()) {
		return g
	}
	part := g.within(outside)
	if _, _, pixels := part.bounds(); pixels == 0 {
		return g
	}
	return part
}

// has says whether an element is there and not empty.
func has(elements map[tag.Tag]element, t tag.Tag) bool { return len(elements[t].value) > 0 }

// whole rounds a value to the index of a table. What no table reaches is brought nearer: the conversion of larger ones is not defined.
func whole(x float64) int64 { return int64(math.Floor(min(max(x, -1<<40), 1<<40) + 0.5)) }

func ramp(low, high float64) curve {
	return func(x float64) float64 { return min(max((x-low)/(high-low), 0), 1) }
}

// window returns the file's window, or nil and why it is unusable.
func (d *dataset) window() (c curve, detail, unusable string) {
	function := strings.ToUpper(d.text(voiLUTFunction))
	center, isNumber := d.number(tag.WindowCenter)
	width, isNumberToo := d.number(tag.WindowWidth)
	if !isNumber || !isNumberToo || !reasonable(center) || !reasonable(width) {
		return nil, "", "window unusable: no finite numbers"
	}
	detail = fmt.Sprintf("window %s/%s", short(center), short(width))
	switch function {
	case "LINEAR_EXACT", "SIGMOID":
		if width < 1/farthest || center-width/2 == center+width/2 {
			return nil, "", "window unusable: width " + short(width)
		}
		detail += " " + function
		if function == "SIGMOID" {
			return func(x float64) float64 { return 1 / (1 + math.Exp(-4*(x-center)/width)) }, detail, ""
		}
		return ramp(center-width/2, center+width/2), detail, ""
	}
	if width < 1 {
		return nil, "", "window unusable: width " + short(width)
	}
	middle, span := center-0.5, width-1
	return func(x float64) float64 { // PS3.3, C.11.2.1.2.1
		switch {
		case x <= middle-span/2:
			return 0
		case x > middle+span/2:
			return 1
		default:
			return (x-middle)/span + 0.5
		}
	}, detail, ""
}

// saturation returns why c shows nothing of the picture, or "".
func (g *grey) saturation(c curve, pixels int) string {
	black, white := 0, 0
	for x, n := range g.levels() {
		switch y := c(x); {
		case y <= 0:
			black += n
		case y >= 1:
			white += n
		}
	}
	limit := saturated * float64(pixels)
	switch {
	case float64(black) >= limit:
		return fmt.Sprintf("window unusable: %.1f %% of the pixels black", 100*float64(black)/float64(max(pixels, 1)))
	case float64(white) >= limit:
		return fmt.Sprintf("window unusable: %.1f %% of the pixels white", 100*float64(white)/float64(max(pixels, 1)))
	default:
		return ""
	}
}

// display maps every pixel through c, turned round where inverted says so. Padding and what a shutter covers is black.
func (g *grey) display(c curve, inverted bool) []float32 {
	shown := func(x float64) float32 {
		switch {
		case math.IsNaN(x):
			return 0
		case inverted:
			return float32(1 - c(x))
		default:
			return float32(c(x))
		}
	}
	if g.codes == nil {
		for i, v := range g.values {
			g.values[i] = shown(float64(v))
		}
		return g.values
	}
	table := make([]float32, 1<<16) // one entry for every uint16: no bounds check in the loop below
	for code, x := range g.table {
		table[code] = shown(x)
	}
	pixels := newPixels(len(g.codes))
	whole := (*[1 << 16]float32)(table)
	for i, code := range g.codes {
		pixels[i] = whole[code]
	}
	for i, hidden := range g.hidden {
		if hidden {
			pixels[i] = 0
		}
	}
	return pixels
}

// blank says whether a person would see nothing but one grey.
func (g *grey) blank(c curve) bool {
	low, high, sum, squares, n := math.Inf(1), math.Inf(-1), 0.0, 0.0, 0
	for x, count := range g.levels() {
		y := c(x)
		low, high, n = min(low, y), max(high, y), n+count
		sum += y * float64(count)
		squares += y * y * float64(count)
	}
	return isBlank(low, high, sum, squares, n)
}

func isBlank(low, high, sum, squares float64, n int) bool {
	if n == 0 || high-low < blankRange {
		return true
	}
	mean := sum / float64(n)
	return math.Sqrt(max(squares/float64(n)-mean*mean, 0)) < blankDeviation
}

func short(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
