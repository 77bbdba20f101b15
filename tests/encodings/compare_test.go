package main

import (
	"math"
	"strings"
	"testing"
)

// one is a result of three pixels with the values 0, 50 and 100, shown by a window over all of them, and what the router saw of it.
func one(syntax string) (r *result, values, seenValues, shown, ours []float32) {
	r = &result{entry: entry{syntax: syntax}, expected: expected{Level: 1, Gain: 0.01, Span: []float64{-10, 110}}}
	values, shown, ours = []float32{0, 50, 100}, []float32{0, 0.5, 1}, []float32{0, 0.5, 1}
	for _, x := range values {
		seenValues = append(seenValues, (x+10)/120)
	}
	return r, values, seenValues, shown, ours
}

func TestJudge(t *testing.T) {
	const native, baseline = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
	for name, test := range map[string]struct {
		syntax        string
		levels, greys float32 // that the middle pixel is off, in stored levels and grey levels
		want          outcome
	}{
		"alike":                         {native, 0, 0, same},
		"a level off":                   {native, 1, 0, different},
		"a grey level off":              {native, 0, 1, different},
		"JPEG, a level off":             {baseline, 1, 2, same},
		"JPEG, two levels off":          {baseline, 2, 2, different},
		"JPEG, shown far from its like": {baseline, 0, 8, different},
	} {
		r, values, seenValues, shown, ours := one(test.syntax)
		seenValues[1] += test.levels / 120
		ours[1] += test.greys / 255
		if v := judge(r, values, seenValues, shown, ours); v.outcome != test.want {
			t.Errorf("%s: %v, want %s", name, v, test.want)
		}
	}
	r, values, seenValues, shown, ours := one(native)
	values[1], seenValues[1] = float32(math.NaN()), 0.9 // padding has no value
	if v := judge(r, values, seenValues, shown, ours); v.outcome != same || !v.exact {
		t.Errorf("padding: %v", v)
	}
	ours[1] = float32(math.NaN())
	if v := judge(r, values, seenValues, shown, ours); v.outcome != different {
		t.Errorf("no number: %v", v)
	}
}

func TestJudgeRendered(t *testing.T) {
	ramp := make([]float64, 256)
	for i := range ramp {
		ramp[i] = float64(i)
	}
	change := func(f func(x float64) float64) []float64 {
		out := make([]float64, len(ramp))
		for i, x := range ramp {
			out[i] = f(x)
		}
		return out
	}
	e := expected{Window: "window", Gain: 1.0 / 4095, Level: 1}
	for name, test := range map[string]struct {
		e      expected
		theirs []float64
		want   outcome
	}{
		"alike":              {e, ramp, same},
		"rounded down":       {e, change(func(x float64) float64 { return x - 0.9 }), same},
		"turned round":       {e, change(func(x float64) float64 { return 255 - x }), different},
		"another window":     {e, change(func(x float64) float64 { return min(x*1.2, 255) }), different},
		"a curve":            {e, change(func(x float64) float64 { return x * x / 255 }), different},
		"a curve it ignores": {expected{Window: "VOI LUT"}, change(func(x float64) float64 { return x * x / 255 }), same},
		"another order":      {expected{Window: "VOI LUT"}, change(func(x float64) float64 { return math.Mod(x*37, 256) }), different},
	} {
		if v := judgeRendered(test.e, ramp, test.theirs); v.outcome != test.want {
			t.Errorf("%s: %v, want %s", name, v, test.want)
		}
	}
}

func TestRanks(t *testing.T) {
	got := ranks([]float64{5, 1, 5, 9})
	for i, want := range []float64{1.5, 0, 1.5, 3} {
		if got[i] != want {
			t.Errorf("rank of the %d. is %v, want %v", i+1, got[i], want)
		}
	}
}

// What strangers wrote into their files stays out of the document.
func TestTheIndexIsNotBelieved(t *testing.T) {
	for text, want := range map[string]string{"1.2.840.10008.1.2": "1.2.840.10008.1.2", "1.2|<script>": "", strings.Repeat("1", 65): ""} {
		if got := only(plainUID, text); got != want {
			t.Errorf("%q gave %q", text, got)
		}
	}
}
