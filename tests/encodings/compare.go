package main

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

// outcome is how a file stands to a reference.
type outcome string

// The outcomes. Different is the only one that is wrong unless known.go explains it.
const (
	same       outcome = "same"       // within the tolerance of its encoding
	different  outcome = "different"  // beyond it, or only one of the two sees a picture
	unreadable outcome = "unreadable" // the reference cannot read it; the router can
	refused    outcome = "refused"    // the router refuses it, and the reference has no picture of it either
	unasked    outcome = "unasked"    // nothing to compare: a blank picture, or one that the router refuses
)

// verdict is an outcome with its figures.
type verdict struct {
	outcome outcome
	exact   bool    // stored values agree to the last digit that a float32 holds
	values  float64 // greatest difference of the rescaled values, in stored levels
	shown   float64 // greatest difference of the pictures, in grey levels of 255
	mean    float64 // mean difference of the pictures, in grey levels of 255
	detail  string
}

func (v verdict) String() string {
	return fmt.Sprintf("%s (values %.3g stored levels; shown %.3g grey levels at most, %.3g on average) %s", v.outcome, v.values, v.shown, v.mean, v.detail)
}

// Tolerances against pydicom.
const (
	// A float32 has 24 bits, and the picture and the reference's values are rounded to it once each.
	roundedValue = 5e-7 // of the span of the values
	roundedGrey  = 0.01 // grey levels of 255
	// The discrete cosine transform, and the 9/7 wavelet of JPEG 2000, are not defined to the last bit (ISO/IEC 10918-2 lets a decoder
	// err by one level; PS3.5, 8.2.1): decoders may disagree by one stored level.
	lossyLevels = 1.01
)

// transformed are the encodings whose decoders may disagree.
var transformed = map[string]bool{
	"1.2.840.10008.1.2.4.50": true, "1.2.840.10008.1.2.4.51": true, "1.2.840.10008.1.2.4.53": true, "1.2.840.10008.1.2.4.55": true,
	"1.2.840.10008.1.2.4.91": true, "1.2.840.10008.1.2.4.203": true,
}

// againstPydicom compares the rescaled values and the shown picture.
func (b *bench) againstPydicom(r *result) (verdict, error) {
	e := r.expected
	switch {
	case r.ours.Kind != "" && e.Error != "":
		return verdict{outcome: refused}, nil
	case r.ours.Kind != "":
		return verdict{outcome: different, detail: "only pydicom reads it; the router: " + r.ours.Kind + ": " + r.ours.Reason}, nil
	case e.Error != "":
		return verdict{outcome: unreadable, detail: e.Error}, nil
	case r.ours.Width != e.Columns || r.ours.Height != e.Rows:
		return verdict{outcome: different, detail: fmt.Sprintf("%d × %d pixels, pydicom has %d × %d", r.ours.Width, r.ours.Height, e.Columns, e.Rows)}, nil
	case r.values == nil:
		return verdict{outcome: different, detail: "no file of values: " + e.NoValues}, nil
	case r.values.Kind != "":
		return verdict{outcome: different, detail: "its file of values was refused: " + r.values.Reason}, nil
	}
	values, err := floats(b.path("expected", r.n, "values.f32"))
	if err != nil {
		return verdict{}, err
	}
	seenValues, err := floats(b.path("values", r.values.N, "f32"))
	if err != nil {
		return verdict{}, err
	}
	shown, err := floats(b.path("expected", r.n, "shown.f32"))
	if err != nil {
		return verdict{}, err
	}
	ours, err := floats(b.path("ours", r.n, "f32"))
	if err != nil {
		return verdict{}, err
	}
	if len(values) != len(seenValues) || len(shown) != len(ours) || len(values) != len(shown) {
		return verdict{outcome: different, detail: "the numbers of pixels differ"}, nil
	}
	return judge(r, values, seenValues, shown, ours), nil
}

func judge(r *result, values, seenValues, shown, ours []float32) verdict {
	e := r.expected
	span := e.Span[1] - e.Span[0]
	v := verdict{outcome: same}
	for i, x := range values {
		grey := 255 * math.Abs(float64(shown[i]-ours[i]))
		v.shown, v.mean = max(v.shown, grey), v.mean+grey/float64(len(values))
		if x == x { // no padding
			v.values = max(v.values, math.Abs(float64(x)-(float64(seenValues[i])*span+e.Span[0]))/e.Level)
		}
	}
	v.exact = v.values <= span*roundedValue/e.Level
	allowedValues, allowedGrey := span*roundedValue/e.Level, roundedGrey
	if transformed[r.syntax] || strings.HasPrefix(r.ours.decoder(), "JPEG baseline") { // whatever the file calls it
		allowedValues = lossyLevels
		allowedGrey = max(roundedGrey, 255*2*lossyLevels*e.Level*e.Gain) // the pixel, and the ends of the ramp
	}
	if !(v.values <= allowedValues && v.shown <= allowedGrey) {
		v.outcome = different
	}
	return v
}

// correlation is Pearson's; 1 for two pictures without any difference in them.
func correlation(a, b []float64) float64 {
	n := float64(len(a))
	var meanA, meanB float64
	for i := range a {
		meanA, meanB = meanA+a[i]/n, meanB+b[i]/n
	}
	var ab, aa, bb float64
	for i := range a {
		ab += (a[i] - meanA) * (b[i] - meanB)
		aa += (a[i] - meanA) * (a[i] - meanA)
		bb += (b[i] - meanB) * (b[i] - meanB)
	}
	if aa == 0 && bb == 0 {
		return 1
	}
	return ab / math.Sqrt(aa*bb)
}

// ranks replaces every value by its mean rank, so that the correlation is Spearman's.
func ranks(v []float64) []float64 {
	order := make([]int, len(v))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(i, j int) bool { return v[order[i]] < v[order[j]] })
	out := make([]float64, len(v))
	for from := 0; from < len(order); {
		to := from + 1
		for to < len(order) && v[order[to]] == v[order[from]] {
			to++
		}
		for _, i := range order[from:to] {
			out[i] = float64(from+to-1) / 2
		}
		from = to
	}
	return out
}

// lines returns the versions' lines that a result was held against, oldest first.
func (r *result) lines() []string {
	var names []string
	for name := range r.orthanc {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
