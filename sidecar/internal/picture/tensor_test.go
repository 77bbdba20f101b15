package picture

import (
	"math"
	"math/rand/v2"
	"testing"
)

func plain(width, height int, at func(x, y int) float32) *Picture {
	p := &Picture{Width: width, Height: height}
	for y := range height {
		for x := range width {
			p.Pixels = append(p.Pixels, at(x, y))
		}
	}
	return p
}

func TestLetterboxGeometry(t *testing.T) {
	for _, test := range []struct{ width, height, size, w, h, left, top int }{
		{2000, 1000, 160, 160, 80, 0, 40}, {1000, 2000, 160, 80, 160, 40, 0}, {512, 512, 160, 160, 160, 0, 0}, {3000, 7, 160, 160, 1, 0, 79},
		{1, 1, 8, 8, 8, 0, 0}, {3, 2, 160, 160, 107, 0, 26}, {320, 5, 160, 160, 3, 0, 78} /* 2.5 is rounded away from zero */, {10000, 1, 16, 16, 1, 0, 7},
	} {
		spec := Spec{Size: test.size, Normalisation: MeanStd, Std: 1, Pad: -9}
		out := plain(test.width, test.height, func(int, int) float32 { return 0.5 }).Tensor(spec)
		for y := range test.size {
			for x := range test.size {
				inside := x >= test.left && x < test.left+test.w && y >= test.top && y < test.top+test.h
				if got := out[y*test.size+x]; inside && math.Abs(float64(got)-0.5) > 1e-6 || !inside && got != -9 {
					t.Fatalf("%d × %d in %d: (%d, %d) is %v, inside: %v", test.width, test.height, test.size, x, y, got, inside)
				}
			}
		}
	}
}

// resizeSlowly is the definition, without anything clever: every output pixel by the integral over its part of the input.
func resizeSlowly(p *Picture, w, h int) []float64 {
	weight := func(i, in, out, k int) float64 {
		ratio := float64(in) / float64(out)
		if in >= out {
			return math.Max(0, math.Min(float64(i+1)*ratio, float64(k+1))-math.Max(float64(i)*ratio, float64(k))) / ratio
		}
		at := math.Min(math.Max((float64(i)+0.5)*ratio-0.5, 0), float64(in-1))
		return math.Max(0, 1-math.Abs(at-float64(k)))
	}
	out := make([]float64, w*h)
	for y := range h {
		for x := range w {
			for j := range p.Height {
				if v := weight(y, p.Height, h, j); v > 0 {
					for i := range p.Width {
						out[y*w+x] += v * weight(x, p.Width, w, i) * float64(p.Pixels[j*p.Width+i])
					}
				}
			}
		}
	}
	return out
}

func TestResizeIsTheDefinition(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range [][4]int{{100, 80, 40, 32}, {101, 57, 40, 23}, {7, 5, 40, 29}, {40, 40, 40, 40}, {41, 3, 40, 3}, {130, 1, 16, 1}, {1, 9, 3, 16}, {257, 255, 64, 63}} {
		p := plain(size[0], size[1], func(int, int) float32 { return random.Float32() })
		want := resizeSlowly(p, size[2], size[3])
		for i, got := range resize(p.Pixels, p.Width, p.Height, size[2], size[3]) {
			if math.Abs(float64(got)-want[i]) > 1e-5 {
				t.Fatalf("%v: value %d is %v, want %v", size, i, got, want[i])
			}
		}
	}
}

func TestNormalisation(t *testing.T) {
	p := plain(300, 150, func(x, y int) float32 { return float32((x*7+y*3)%100) / 100 })
	out := p.Tensor(Spec{Size: 100, Normalisation: PerImage, Pad: -3})
	content := out[25*100 : 75*100]
	if mean, deviation := moments(content); math.Abs(mean) > 1e-5 || math.Abs(deviation-1) > 1e-5 {
		t.Errorf("mean %v and deviation %v of the content, want 0 and 1", mean, deviation)
	}
	if out[0] != -3 || out[99*100] != -3 {
		t.Errorf("pad is %v, %v", out[0], out[99*100])
	}
	fixed := p.Tensor(Spec{Size: 100, Normalisation: MeanStd, Mean: 0.4, Std: 0.2})
	raw := resize(p.Pixels, 300, 150, 100, 50)
	if got, want := fixed[30*100+7], (raw[5*100+7]-0.4)/0.2; math.Abs(float64(got-want)) > 1e-5 {
		t.Errorf("mean_std: %v, want %v", got, want)
	}
}
