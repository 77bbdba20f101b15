package picture

import "math"

// The normalisations of Spec, as model.yaml spells them.
const (
	PerImage = "per_image" // (y - mean) / max(std, 0.001) over the content, population standard deviation
	MeanStd  = "mean_std"  // (y - Spec.Mean) / Spec.Std
)

// leastDeviation keeps the noise of a nearly blank plate from being blown up to a picture.
const leastDeviation = 1e-3

// Spec says what a network wants to see.
type Spec struct {
	Size          int     // pixels of each side
	Normalisation string  // PerImage or MeanStd
	Mean, Std     float32 // of MeanStd
	Pad           float32 // of the letterbox's bars, in normalised units
}

// Tensor returns the picture as a network's input: Size × Size values, row-major, one channel. The picture keeps its aspect as
// displayed (with pixels that are not square, that of the anatomy), fills the longer side and is centred (the letterbox's bars hold Pad); it is reduced by area average with exact fractional coverage, or
// enlarged linearly with half-pixel centres; only its own pixels count in the normalisation.
func (p *Picture) Tensor(s Spec) []float32 {
	out := make([]float32, s.Size*s.Size)
	for i := range out {
		out[i] = s.Pad
	}
	aspect := p.PixelAspect
	if aspect == 0 {
		aspect = 1
	}
	width, height := letterbox(float64(p.Width), float64(p.Height)*aspect, s.Size)
	content := resize(p.Pixels, p.Width, p.Height, width, height)
	normalise(content, s)
	left, top := (s.Size-width)/2, (s.Size-height)/2
	for y := range height {
		copy(out[(top+y)*s.Size+left:], content[y*width:(y+1)*width])
	}
	return out
}

// letterbox returns the size of a picture whose longer side is size.
func letterbox(width, height float64, size int) (w, h int) {
	scale := float64(size) / max(width, height)
	fit := func(n float64) int { return min(max(1, int(math.Round(n*scale))), size) }
	return fit(width), fit(height)
}

// span is the input pixels start…start+len(weights)-1 that one output pixel is mixed from. The weights sum to 1.
type span struct {
	start   int
	weights []float32
}

// spans returns one span for each of out pixels of an axis of in pixels.
func spans(in, out int) []span {
	s := make([]span, out)
	ratio := float64(in) / float64(out)
	for i := range s {
		if in >= out {
			s[i] = covered(float64(i)*ratio, float64(i+1)*ratio, in)
		} else {
			s[i] = between((float64(i)+0.5)*ratio-0.5, in)
		}
	}
	return s
}

// covered weighs the pixels of low…high by how much of each lies inside.
func covered(low, high float64, in int) span {
	first := min(int(low), in-1)
	last := min(max(int(math.Ceil(high))-1, first), in-1)
	weights := make([]float32, 0, last-first+1)
	sum := 0.0
	for i := first; i <= last; i++ {
		sum += max(min(high, float64(i+1))-max(low, float64(i)), 0)
	}
	for i := first; i <= last; i++ {
		weights = append(weights, float32(max(min(high, float64(i+1))-max(low, float64(i)), 0)/sum))
	}
	return span{first, weights}
}

// between mixes the two pixels beside centre; at the edges the outermost pixel stands for those that are not there.
func between(centre float64, in int) span {
	floor := math.Floor(centre)
	part := float32(centre - floor)
	switch i := int(floor); {
	case i < 0:
		return span{0, []float32{1}}
	case i >= in-1:
		return span{in - 1, []float32{1}}
	default:
		return span{i, []float32{1 - part, part}}
	}
}

// resize reduces or enlarges a picture, rows first. It holds one reduced row at a time: output rows gather the reduced input rows
// that they cover as these come by.
func resize(pixels []float32, width, height, toWidth, toHeight int) []float32 {
	out := make([]float32, toWidth*toHeight)
	across, down := spans(width, toWidth), spans(height, toHeight)
	row := make([]float32, toWidth)
	next := 0 // the first output row that is not finished
	for y := range height {
		for next < toHeight && down[next].start+len(down[next].weights) <= y {
			next++
		}
		reduced := false
		for i := next; i < toHeight && down[i].start <= y; i++ {
			if !reduced {
				reduceRow(row, pixels[y*width:(y+1)*width], across)
				reduced = true
			}
			k := y - down[i].start
			if k >= len(down[i].weights) {
				continue
			}
			weight, target := down[i].weights[k], out[i*toWidth:(i+1)*toWidth]
			for x, v := range row {
				target[x] += weight * v
			}
		}
	}
	return out
}

// reduceRow mixes one row. Inside a span all weights but the outer two are alike, and four sums go side by side because one would
// wait for itself.
func reduceRow(to, from []float32, across []span) {
	for x, s := range across {
		in := from[s.start : s.start+len(s.weights)]
		if len(in) < 4 {
			var sum float32
			for i, v := range in {
				sum += v * s.weights[i]
			}
			to[x] = sum
			continue
		}
		last := len(in) - 1
		outer := in[0]*s.weights[0] + in[last]*s.weights[last]
		inner := in[1:last]
		var a, b, c, d float32
		for len(inner) >= 4 {
			a, b, c, d = a+inner[0], b+inner[1], c+inner[2], d+inner[3]
			inner = inner[4:]
		}
		for _, v := range inner {
			a += v
		}
		to[x] = outer + (a+b+c+d)*s.weights[1]
	}
}

func normalise(content []float32, s Spec) {
	mean, deviation := float64(s.Mean), float64(s.Std)
	if s.Normalisation != MeanStd {
		mean, deviation = moments(content)
		deviation = max(deviation, leastDeviation)
	}
	if deviation == 0 {
		deviation = 1
	}
	for i, v := range content {
		content[i] = float32((float64(v) - mean) / deviation)
	}
}

// moments returns the mean and the population standard deviation.
func moments(v []float32) (mean, deviation float64) {
	for _, x := range v {
		mean += float64(x)
	}
	mean /= float64(len(v))
	squares := 0.0
	for _, x := range v {
		squares += (float64(x) - mean) * (float64(x) - mean)
	}
	return mean, math.Sqrt(squares / float64(len(v)))
}
