package phantom

import (
	"image"
	"image/color"
	"math"
	"math/rand/v2"

	"imagingrouter/sidecar/internal/bodypart"
)

const (
	sketchSide = 640 // longer side of what is drawn; it is then enlarged, and gets its grain in full size
	grain      = 0.012
)

// canvas is grey levels of 0…1, 0 = black as displayed, row-major. While it is drawn on, the values are attenuations instead: they
// add up where organs lie behind each other, as in a radiograph.
type canvas struct {
	width, height int
	grey          []float32
}

func newCanvas(width, height int) *canvas {
	return &canvas{width: width, height: height, grey: make([]float32, width*height)}
}

// draw returns the phantom of a class. The same seed gives the same picture.
func draw(class bodypart.Class, seed int64, rows, columns int) *canvas {
	scale := math.Min(1, sketchSide/float64(max(rows, columns)))
	sketch := newCanvas(max(1, int(float64(columns)*scale)), max(1, int(float64(rows)*scale)))
	s := &sketcher{canvas: sketch, random: rand.New(rand.NewPCG(uint64(seed), 0x9E3779B97F4A7C15))}
	s.side = float64(min(sketch.width, sketch.height)) / 2
	switch class {
	case bodypart.AdultChest:
		s.chest(adult)
	case bodypart.PediatricChest:
		s.chest(child)
	case bodypart.Abdominal:
		s.abdomen()
	case bodypart.Spine:
		s.spine()
	case bodypart.Others:
		if s.random.IntN(2) == 0 {
			s.hand()
		} else {
			s.knee()
		}
	}
	for i, a := range sketch.grey {
		sketch.grey[i] = float32(1 - math.Exp(-0.9*math.Max(float64(a), 0)))
	}
	full := sketch.enlarge(columns, rows)
	noise := rand.New(rand.NewPCG(uint64(seed), 1))
	for i, y := range full.grey {
		full.grey[i] = float32(math.Min(math.Max(float64(y)+grain*(noise.Float64()+noise.Float64()-1), 0), 1))
	}
	return full
}

// enlarge mixes linearly between the pixels' centres.
func (c *canvas) enlarge(width, height int) *canvas {
	if width == c.width && height == c.height {
		return c
	}
	to := newCanvas(width, height)
	at := func(i, out, in int) (low, high int, part float32) {
		x := math.Min(math.Max((float64(i)+0.5)*float64(in)/float64(out)-0.5, 0), float64(in-1))
		low = int(x)
		return low, min(low+1, in-1), float32(x - float64(low))
	}
	for y := range height {
		top, bottom, down := at(y, height, c.height)
		for x := range width {
			left, right, across := at(x, width, c.width)
			upper := c.grey[top*c.width+left]*(1-across) + c.grey[top*c.width+right]*across
			lower := c.grey[bottom*c.width+left]*(1-across) + c.grey[bottom*c.width+right]*across
			to.grey[y*width+x] = upper*(1-down) + lower*down
		}
	}
	return to
}

// wrap takes the grey levels of a given picture.
func wrap(img image.Image) *canvas {
	bounds := img.Bounds()
	c := newCanvas(bounds.Dx(), bounds.Dy())
	for y := range c.height {
		for x := range c.width {
			level, _ := color.Gray16Model.Convert(img.At(bounds.Min.X+x, bounds.Min.Y+y)).(color.Gray16) // the model returns nothing else
			c.grey[y*c.width+x] = float32(level.Y) / math.MaxUint16
		}
	}
	return c
}

// sketcher draws in units of half the shorter side; (0, 0) is the middle, x to the right, y down.
type sketcher struct {
	*canvas
	random *rand.Rand
	side   float64
}

// about returns v, up to share of it more or less.
func (s *sketcher) about(v, share float64) float64 {
	return v * (1 + share*(2*s.random.Float64()-1))
}

// add adds attenuation to the pixels in a box around (x, y), scaled by weight 0…1 of the distance from there.
func (s *sketcher) add(x, y, reachX, reachY, attenuation float64, weight func(dx, dy float64) float64) {
	column := func(u float64) int { return min(max(int(u*s.side+float64(s.width)/2), 0), s.width) }
	row := func(v float64) int { return min(max(int(v*s.side+float64(s.height)/2), 0), s.height) }
	for j := row(y - reachY); j < row(y+reachY); j++ {
		dy := (float64(j)+0.5-float64(s.height)/2)/s.side - y
		for i := column(x - reachX); i < column(x+reachX); i++ {
			dx := (float64(i)+0.5-float64(s.width)/2)/s.side - x
			if w := weight(dx, dy); w > 0 {
				s.grey[j*s.width+i] += float32(attenuation * w)
			}
		}
	}
}

// ellipse draws a body that is thickest in the middle; flat 0…1 makes its edge sharper. tilt is in radians.
func (s *sketcher) ellipse(x, y, radiusX, radiusY, tilt, attenuation, flat float64) {
	sin, cos := math.Sincos(tilt)
	reach := math.Max(radiusX, radiusY)
	power := 0.5 * (1 - flat)
	s.add(x, y, reach, reach, attenuation, func(dx, dy float64) float64 {
		u, v := (dx*cos+dy*sin)/radiusX, (dy*cos-dx*sin)/radiusY
		inside := 1 - u*u - v*v
		if inside <= 0 {
			return 0
		}
		return math.Pow(inside, power+0.05)
	})
}

// point is a place on a bone's axis.
type point struct{ x, y float64 }

// tube draws a bone of the given half width along a line: a bright cortex around a darker marrow.
func (s *sketcher) tube(from, to point, halfWidth, attenuation float64) {
	mx, my := (from.x+to.x)/2, (from.y+to.y)/2
	lx, ly := to.x-from.x, to.y-from.y
	length2 := math.Max(lx*lx+ly*ly, 1e-9)
	s.add(mx, my, math.Abs(lx)/2+halfWidth, math.Abs(ly)/2+halfWidth, attenuation, func(dx, dy float64) float64 {
		along := math.Min(math.Max(((dx+lx/2)*lx+(dy+ly/2)*ly)/length2, 0), 1)
		r := math.Hypot(dx+lx/2-along*lx, dy+ly/2-along*ly) / halfWidth
		if r >= 1 {
			return 0
		}
		return math.Min(1, 0.6+0.6*r*r) * math.Min(1, (1-r)*5)
	})
}

// band draws a curve as one even stripe, without the brighter knots that overlapping tubes would make.
func (s *sketcher) band(points []point, halfWidth, attenuation float64) {
	low, high := points[0], points[0]
	for _, p := range points {
		low = point{math.Min(low.x, p.x), math.Min(low.y, p.y)}
		high = point{math.Max(high.x, p.x), math.Max(high.y, p.y)}
	}
	middle := point{(low.x + high.x) / 2, (low.y + high.y) / 2}
	s.add(middle.x, middle.y, (high.x-low.x)/2+halfWidth, (high.y-low.y)/2+halfWidth, attenuation, func(dx, dy float64) float64 {
		nearest := math.Inf(1)
		for i := 1; i < len(points); i++ {
			a, b := points[i-1], points[i]
			px, py, lx, ly := middle.x+dx-a.x, middle.y+dy-a.y, b.x-a.x, b.y-a.y
			along := math.Min(math.Max((px*lx+py*ly)/math.Max(lx*lx+ly*ly, 1e-9), 0), 1)
			nearest = math.Min(nearest, math.Hypot(px-along*lx, py-along*ly))
		}
		r := nearest / halfWidth
		if r >= 1 {
			return 0
		}
		return math.Min(1, 0.55+0.6*r*r) * math.Min(1, (1-r)*4)
	})
}
