package picture

import (
	"fmt"
	"math"
	"slices"

	"github.com/suyashkumar/dicom/pkg/tag"
)

// outline is the elements that describe what a Display Shutter (PS3.3, C.7.6.11) or an X-Ray Collimator (C.8.7.3) leaves free.
type outline struct {
	shape, left, right, upper, lower, centre, radius, vertices tag.Tag
}

var (
	shutter = outline{
		tag.ShutterShape, tag.ShutterLeftVerticalEdge, tag.ShutterRightVerticalEdge, tag.ShutterUpperHorizontalEdge, tag.ShutterLowerHorizontalEdge,
		tag.CenterOfCircularShutter, tag.RadiusOfCircularShutter, tag.VerticesOfThePolygonalShutter,
	}
	collimator = outline{
		tag.CollimatorShape, tag.CollimatorLeftVerticalEdge, tag.CollimatorRightVerticalEdge, tag.CollimatorUpperHorizontalEdge, tag.CollimatorLowerHorizontalEdge,
		tag.CenterOfCircularCollimator, tag.RadiusOfCircularCollimator, tag.VerticesOfThePolygonalCollimator,
	}
)

func (o outline) tags() []tag.Tag {
	return []tag.Tag{o.shape, o.left, o.right, o.upper, o.lower, o.centre, o.radius, o.vertices}
}

// leastCollimated is the least share of a picture that a collimator leaves free. What leaves less is no collimation but a slip.
const leastCollimated = 0.1

// maxVertices is the most that a polygon is believed to have; every row asks all of its edges.
const maxVertices = 1000

// covered returns which pixels lie outside of an outline, true for each, and how many lie inside; nil where there is no outline that
// can be read. Several shapes leave what is inside of all of them. Rows and columns count from 1, and edges belong to what is free.
// aspect is a pixel's height by its width: a radius is given in columns.
func (d *dataset) covered(o outline, columns, rows int, aspect float64) (outside []bool, inside int) {
	shapes := d.texts(o.shape)
	for _, shape := range []string{"RECTANGULAR", "CIRCULAR", "POLYGONAL"} { // each at most once
		if !slices.Contains(shapes, shape) {
			continue
		}
		free := d.freeOf(o, shape, aspect)
		if free == nil {
			continue
		}
		if outside == nil {
			outside = make([]bool, columns*rows)
		}
		for y := range rows {
			cover(outside[y*columns:(y+1)*columns], free(float64(y+1)))
		}
	}
	if outside == nil {
		return nil, 0
	}
	for _, out := range outside {
		if !out {
			inside++
		}
	}
	return outside, inside
}

// cover marks the pixels of a row that lie in none of the spans: pairs of first and last column, from 1, in ascending order.
func cover(row []bool, spans []float64) {
	next := 0
	for ; len(spans) >= 2; spans = spans[2:] {
		first := int(min(max(math.Ceil(spans[0]), 1), float64(len(row)+1))) - 1
		last := int(min(max(math.Floor(spans[1]), 0), float64(len(row))))
		for x := next; x < first; x++ {
			row[x] = true
		}
		next = max(next, last)
	}
	for x := next; x < len(row); x++ {
		row[x] = true
	}
}

// freeOf returns what one shape leaves free of a row, as cover takes it, or nil when the shape's numbers make no sense.
func (d *dataset) freeOf(o outline, shape string, aspect float64) func(row float64) []float64 {
	switch shape {
	case "RECTANGULAR":
		left, right, upper, lower := d.numbers(o.left), d.numbers(o.right), d.numbers(o.upper), d.numbers(o.lower)
		if len(left) == 0 || len(right) == 0 || len(upper) == 0 || len(lower) == 0 || left[0] > right[0] || upper[0] > lower[0] {
			return nil
		}
		return func(row float64) []float64 {
			if row < upper[0] || row > lower[0] {
				return nil
			}
			return []float64{left[0], right[0]}
		}
	case "CIRCULAR":
		centre, radius := d.numbers(o.centre), d.numbers(o.radius)
		if len(centre) < 2 || len(radius) == 0 || radius[0] <= 0 {
			return nil
		}
		return func(row float64) []float64 {
			high := (row - centre[0]) * aspect
			half := radius[0]*radius[0] - high*high
			if half < 0 {
				return nil
			}
			half = math.Sqrt(half)
			return []float64{centre[1] - half, centre[1] + half}
		}
	case "POLYGONAL":
		vertices := d.numbers(o.vertices)
		if len(vertices) < 6 || len(vertices)%2 == 1 || len(vertices) > 2*maxVertices {
			return nil
		}
		return func(row float64) []float64 { return crossings(vertices, row) }
	default:
		return nil
	}
}

// crossings returns where a row meets the edges of a polygon, whose vertices are pairs of row and column, in ascending order. An edge
// holds its upper end and not its lower one.
func crossings(vertices []float64, row float64) []float64 {
	var at []float64
	y1, x1 := vertices[len(vertices)-2], vertices[len(vertices)-1]
	for v := vertices; len(v) > 0; v = v[2:] {
		y2, x2 := v[0], v[1]
		if (y1 <= row) != (y2 <= row) {
			at = append(at, x1+(row-y1)*(x2-x1)/(y2-y1))
		}
		y1, x1 = y2, x2
	}
	slices.Sort(at)
	return at
}

// hide takes what a display shutter covers out of a raster. A shutter that leaves nothing is none.
func (d *dataset) hide(r *raster, aspect float64, watch *stopwatch) {
	outside, inside := d.covered(shutter, r.format.columns, r.format.rows, aspect)
	switch {
	case outside == nil:
		return
	case inside == 0:
		watch.step("shutter", "left out: it leaves nothing")
		return
	}
	watch.step("shutter", "%.1f %% of the pixels are covered", 100*float64(len(outside)-inside)/float64(len(outside)))
	r.hidden = outside
	for i := range r.values {
		if outside[i] {
			r.values[i] = float32(math.NaN())
		}
	}
}

// The least and the greatest height of a pixel by its width that is believed, and the difference from 1 from which on it counts.
const (
	leastAspect    = 0.1
	greatestAspect = 10
	squareEnough   = 0.001
)

// pixelAspect returns the height of a pixel by its width, 1 for square ones, and what says so. PS3.3, C.7.6.3 has PixelAspectRatio
// only where no spacing says the same, so the first spacing that can be read counts before it: PixelSpacing, ImagerPixelSpacing,
// NominalScannedPixelSpacing. All four have the vertical number first.
func (d *dataset) pixelAspect() (aspect float64, source string) {
	for _, t := range []tag.Tag{tag.PixelSpacing, tag.ImagerPixelSpacing, tag.NominalScannedPixelSpacing, tag.PixelAspectRatio} {
		n := d.numbers(t)
		if len(n) < 2 || n[0] <= 0 || n[1] <= 0 {
			continue
		}
		aspect = n[0] / n[1]
		if aspect < leastAspect || aspect > greatestAspect {
			continue
		}
		if math.Abs(aspect-1) < squareEnough {
			return 1, name(t)
		}
		return aspect, fmt.Sprintf("%s: pixels %s times as high as wide", name(t), short(aspect))
	}
	return 1, ""
}
