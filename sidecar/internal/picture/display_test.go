package picture

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

func windowed(center, width, function string) fixture {
	return fixture{tag.WindowCenter: str("DS", center), tag.WindowWidth: str("DS", width), voiLUTFunction: str("CS", function)}
}

func TestVOI(t *testing.T) {
	base := grey16(100, ramp16(10000, 4000)...)
	lut := func(entries ...uint16) fixture {
		return fixture{voiLUTSequence: {vr: "SQ", item: fixture{tag.LUTDescriptor: us(uint16(len(entries)), 1000, 8), tag.LUTData: us(entries...)}}}
	}
	tests := []struct {
		name   string
		change fixture
		detail string          // of the step voi
		at     map[int]float64 // index → what is shown
	}{
		{"no window", nil, "percentiles 0.5 and 99.5, 19…3979 (no window)", map[int]float64{0: 0, 5000: 0.5, 9999: 1}},
		{"linear", windowed("2048", "2000", "LINEAR"), "window 2048/2000", map[int]float64{5000: (2000-2047.5)/1999 + 0.5, 0: 0, 9999: 1}},
		{"first of two windows", windowed(`2048\100`, `2000\1`, ""), "window 2048/2000", map[int]float64{5000: (2000-2047.5)/1999 + 0.5}},
		{"exact", windowed("2000", "1000", "LINEAR_EXACT"), "window 2000/1000 LINEAR_EXACT", map[int]float64{5000: 0.5, 4375: 0.25}},
		{"sigmoid", windowed("2000", "1000", "SIGMOID"), "window 2000/1000 SIGMOID", map[int]float64{5000: 0.5, 5625: 1 / (1 + math.Exp(-1))}},
		{"width 1", windowed("2000", "1", "LINEAR"), "window 2000/1", map[int]float64{4900: 0, 5100: 1}},
		{"width 0", windowed("2000", "0", "LINEAR"), "(window unusable: width 0)", map[int]float64{5000: 0.5}},
		{"width 0 of a sigmoid", windowed("2000", "0", "SIGMOID"), "(window unusable: width 0)", map[int]float64{5000: 0.5}},
		{"not finite", windowed("NaN", "100", "LINEAR"), "(window unusable: no finite numbers)", map[int]float64{5000: 0.5}},
		{"no numbers", windowed("bright", "100", "LINEAR"), "(window unusable: no finite numbers)", map[int]float64{5000: 0.5}},
		{"all black", windowed("9000", "100", "LINEAR"), "(window unusable: 100.0 % of the pixels black)", map[int]float64{5000: 0.5}},
		{"all white", windowed("-50", "99", "LINEAR"), "(window unusable: 100.0 % of the pixels white)", map[int]float64{5000: 0.5}},
		{"98 % white is usable", windowed("0", "160", "LINEAR_EXACT"), "window 0/160 LINEAR_EXACT", map[int]float64{5000: 1}},
		{"VOI LUT", lut(0, 51, 102, 255), "VOI LUT", map[int]float64{0: 0, 2503: 0.2, 9999: 1}},
		{"VOI LUT and window", lut(0, 51, 102, 255).with(windowed("2000", "1000", "LINEAR_EXACT")), "window 2000/1000", map[int]float64{5000: 0.5}},
		{"broken VOI LUT", fixture{voiLUTSequence: {vr: "SQ", item: fixture{tag.LUTDescriptor: us(9, 0, 8), tag.LUTData: us(1)}}},
			"(VOI LUT broken)", map[int]float64{5000: 0.5}},
		{"modality LUT", fixture{modalityLUTSequence: {vr: "SQ", item: fixture{tag.LUTDescriptor: us(2, 1999, 16), tag.LUTData: ow(10, 20)}}},
			"percentiles 0.5 and 99.5, 10…20", map[int]float64{0: 0, 4000: 0, 6000: 1}},
		{"negative slope", fixture{tag.RescaleSlope: str("DS", "-1")}, "percentiles 0.5 and 99.5, -3980…-20", map[int]float64{0: 1, 5000: 0.5, 9999: 0}},
		{"slope 0 is none", fixture{tag.RescaleSlope: str("DS", "0")}, "19…3979", map[int]float64{5000: 0.5}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := read(t, base.with(test.change).file(uid.ExplicitVRLittleEndian))
			voi := p.Steps[slices.IndexFunc(p.Steps, func(s Step) bool { return s.Name == "voi" })]
			if !strings.Contains(voi.Detail, test.detail) {
				t.Errorf("voi: %s, want %s", voi.Detail, test.detail)
			}
			for i, want := range test.at {
				if math.Abs(float64(p.Pixels[i])-want) > 0.001 {
					t.Errorf("pixel %d is %v, want %v", i, p.Pixels[i], want)
				}
			}
		})
	}
}

// A film stored either way round is the same picture.
func TestPolarityMakesNoDifference(t *testing.T) {
	one, two := make([]uint16, 9900), make([]uint16, 9900)
	for i := range one {
		v := uint16((i*i*7 + i*13) % 4001)
		one[i], two[i] = 4095-v, v
	}
	for name, change := range map[string]fixture{
		"window": windowed("2048", "4096", "LINEAR_EXACT"), "percentile": {}, "padding": {tag.PixelPaddingValue: us(4095)},
	} {
		film := change.with(fixture{tag.PhotometricInterpretation: str("CS", "MONOCHROME1")})
		if name == "window" {
			film[tag.WindowCenter] = str("DS", "2047")
		}
		if _, ok := change[tag.PixelPaddingValue]; ok {
			change = fixture{tag.PixelPaddingValue: us(0)}
		}
		spec := Spec{Size: 64, Normalisation: PerImage}
		a := read(t, grey16(110, one...).with(film).file(uid.ExplicitVRLittleEndian)).Tensor(spec)
		b := read(t, grey16(110, two...).with(change).file(uid.ExplicitVRLittleEndian)).Tensor(spec)
		for i := range a {
			if math.Abs(float64(a[i]-b[i])) > 0.002 {
				t.Fatalf("%s: value %d is %v of MONOCHROME1 and %v of MONOCHROME2", name, i, a[i], b[i])
			}
		}
	}
}

func TestPadding(t *testing.T) {
	values := ramp16(1000, 1000)
	for i := range 400 {
		values[i] = 4000 // a bright border that is no picture
	}
	base := grey16(100, values...)
	p := read(t, base.with(fixture{tag.PixelPaddingValue: us(4000)}).file(uid.ExplicitVRLittleEndian))
	if p.Pixels[0] != 0 || p.Pixels[999] != 1 || math.Abs(float64(p.Pixels[700])-0.5) > 0.01 {
		t.Errorf("padding %v, middle %v, end %v, want 0, 0.5, 1", p.Pixels[0], p.Pixels[700], p.Pixels[999])
	}
	film := read(t, base.with(fixture{tag.PixelPaddingValue: us(3000), tag.PixelPaddingRangeLimit: us(4000),
		tag.PhotometricInterpretation: str("CS", "MONOCHROME1")}).file(uid.ImplicitVRLittleEndian))
	if film.Pixels[0] != 0 || film.Pixels[999] != 0 || math.Abs(float64(film.Pixels[700])-0.5) > 0.01 {
		t.Errorf("MONOCHROME1: padding %v, middle %v, end %v, want 0, 0.5, 0", film.Pixels[0], film.Pixels[700], film.Pixels[999])
	}
	if p := read(t, grey16(2, 7, 7, 7, 7).with(fixture{tag.PixelPaddingValue: us(7)}).file(uid.ExplicitVRLittleEndian)); !p.Blank || p.Pixels[0] != 0 {
		t.Errorf("nothing but padding: blank %v, %v", p.Blank, p.Pixels)
	}
}

func TestBlank(t *testing.T) {
	spot := make([]uint16, 100_000)
	for i := range spot {
		spot[i] = 2000
	}
	flat := slices.Clone(spot)
	spot[5] = 4000 // one dead pixel: a spread of 1 and a deviation of 0.003
	for name, test := range map[string]struct {
		f    fixture
		want bool
	}{
		"flat":            {grey16(1000, flat...), true},
		"flat in window":  {grey16(1000, flat...).with(windowed("2000", "4000", "LINEAR")), true},
		"one dead pixel":  {grey16(1000, spot...), true},
		"ramp":            {grey16(100, ramp16(1000, 4095)...), false},
		"ramp too narrow": {grey16(100, ramp16(1000, 9)...).with(windowed("2000", "4000", "LINEAR")), true},
	} {
		p := read(t, test.f.file(uid.ExplicitVRLittleEndian))
		if p.Blank != test.want {
			t.Errorf("%s: blank is %v", name, p.Blank)
		}
		for _, v := range p.Tensor(Spec{Size: 8, Normalisation: PerImage}) {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				t.Fatalf("%s: tensor holds %v", name, v)
			}
		}
	}
}

// The nearest-rank percentile agrees with sorting, by codes and by floats.
func TestPercentile(t *testing.T) {
	g := grey{table: make([]float64, 1000), counts: make([]int, 1000)}
	var all []float32
	for i := range g.table {
		g.table[i] = float64((i*617)%1000) - 300 // not in ascending order
		g.counts[i] = i % 7
		for range g.counts[i] {
			all = append(all, float32(g.table[i]))
		}
		g.codes = append(g.codes, 0)
	}
	floats := grey{values: append(slices.Clone(all), float32(math.NaN()))}
	slices.Sort(all)
	for _, p := range []float64{0.01, 0.5, 25, 50, 99.5, 100} {
		want := float64(all[rankOf(p, len(all))-1])
		if a, b := g.percentile(p), floats.percentile(p); a != want || b != want {
			t.Errorf("percentile %v is %v by codes and %v by floats, want %v", p, a, b, want)
		}
	}
	if rankOf(0.5, 1000) != 5 || rankOf(99.5, 1000) != 995 || rankOf(0.5, 3) != 1 {
		t.Error("rank is not ceil(p·n/100)")
	}
}

func TestAge(t *testing.T) {
	for _, test := range []struct {
		age, born, studied string
		want               float64
		known              bool
	}{
		{"045Y", "", "", 45, true}, {"006M", "", "", 0.5, true}, {"026W", "", "", 26 * 7 / 365.25, true}, {"010D", "", "", 10 / 365.25, true},
		{" 12y ", "", "", 12, true}, {"000Y", "", "", 0, true},
		{"", "20000615", "20130614", 13 - 1.0/365, true}, {"", "20000615", "20130615", 13, true}, {"", "2000.06.15", "20130615", 13, true},
		{"045X", "20000101", "20100101", 10, true}, {"999Y", "", "", 0, false}, {"-05Y", "", "", 0, false}, {"Y", "", "", 0, false}, {"045", "", "", 0, false},
		{"", "20130615", "20000615", 0, false}, {"", "17000101", "20000101", 0, false}, {"", "20001345", "20200101", 0, false}, {"", "", "20200101", 0, false},
	} {
		got, known := Age(test.age, test.born, test.studied)
		if known != test.known || known && math.Abs(got-test.want) > 0.001 {
			t.Errorf("age %q, born %q, studied %q: %v, %v; want %v, %v", test.age, test.born, test.studied, got, known, test.want, test.known)
		}
	}
	p := read(t, grey16(1, 1, 2).with(fixture{tag.PatientAge: str("AS", "007Y"), tag.BodyPartExamined: str("CS", "CHEST"),
		tag.PatientBirthDate: str("DA", "nonsense")}).file(uid.ImplicitVRLittleEndian))
	if h := p.Header; !h.AgeKnown || h.AgeYears != 7 || h.BodyPartExamined != "CHEST" || h.Modality != "DX" || h.Frames != 1 || h.BitsStored != 12 {
		t.Errorf("header %+v", h)
	}
}

// A picture of one pixel, with a character set that does not exist and bytes that no code has: all that can be said of it is said.
func TestOnePixelAndBrokenText(t *testing.T) {
	p := read(t, grey16(1, 7).with(fixture{tag.SpecificCharacterSet: bin("CS", 0xFF, 0xFE), tag.Modality: bin("CS", 'D', 'X', 0x1B, 0x0A),
		tag.BodyPartExamined: bin("CS", 'A', 0xC3, 0x28, 0xFF), tag.PatientName: bin("PN", 0x80, 0xFE)}).file(uid.ExplicitVRLittleEndian))
	if !p.Blank || p.Width != 1 || p.Height != 1 || p.Header.Modality != "DX??" || p.Header.BodyPartExamined != "A?(?" {
		t.Errorf("%+v", p)
	}
	for _, v := range p.Tensor(Spec{Size: 8, Normalisation: PerImage}) {
		if v != 0 {
			t.Fatalf("the tensor holds %v", v)
		}
	}
}
