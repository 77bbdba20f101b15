package picture

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// device returns the elements of a Display Shutter or an X-Ray Collimator.
func device(o outline, shape, edges, circle, vertices string) fixture {
	f := fixture{o.shape: str("CS", shape)}
	if left, right, upper, lower, ok := cut4(edges); ok {
		f[o.left], f[o.right], f[o.upper], f[o.lower] = str("IS", left), str("IS", right), str("IS", upper), str("IS", lower)
	}
	if centre, radius, ok := strings.Cut(circle, " "); ok {
		f[o.centre], f[o.radius] = str("IS", centre), str("IS", radius)
	}
	if vertices != "" {
		f[o.vertices] = str("IS", vertices)
	}
	return f
}

func cut4(s string) (a, b, c, d string, ok bool) {
	parts := strings.Split(s, " ")
	if len(parts) != 4 {
		return "", "", "", "", false
	}
	return parts[0], parts[1], parts[2], parts[3], true
}

// bright is 10 columns × 8 rows of values that are never black, with a bright frame around what the shutters below leave free.
func bright() fixture {
	values := make([]uint16, 80)
	for i := range values {
		x, y := i%10+1, i/10+1
		values[i] = uint16(1000 + 10*i)
		if x < 3 || x > 8 || y < 2 || y > 6 {
			values[i] = 4000
		}
	}
	return grey16(10, values...)
}

// drawn draws what is not black.
func drawn(p *Picture) string {
	var b strings.Builder
	for i, y := range p.Pixels {
		if i%p.Width == 0 && i > 0 {
			b.WriteByte('\n')
		}
		b.WriteByte(map[bool]byte{true: '#', false: '.'}[y > 0])
	}
	return b.String()
}

func TestShutter(t *testing.T) {
	all := strings.TrimSuffix(strings.Repeat("##########\n", 8), "\n")
	rectangle := "..........\n..######..\n..######..\n..######..\n..######..\n..######..\n..........\n.........."
	window := windowed("1500", "6000", "LINEAR_EXACT") // nothing of the picture is black by it
	for name, test := range map[string]struct {
		change fixture
		want   string
	}{
		"none":            {fixture{}, all},
		"rectangle":       {device(shutter, "RECTANGULAR", "3 8 2 6", "", ""), rectangle},
		"beyond the edge": {device(shutter, "RECTANGULAR", "-5 8 0 700", "", ""), strings.TrimSuffix(strings.Repeat("########..\n", 8), "\n")},
		"circle": {device(shutter, "CIRCULAR", "", `4\5 3`, ""),
			"....#.....\n..#####...\n..#####...\n.#######..\n..#####...\n..#####...\n....#.....\n.........."},
		"circle of high pixels": {device(shutter, "CIRCULAR", "", `4\5 3`, "").with(fixture{tag.PixelAspectRatio: str("IS", `2\1`)}),
			"..........\n..........\n..#####...\n.#######..\n..#####...\n..........\n..........\n.........."},
		"triangle": {device(shutter, "POLYGONAL", "", "", `1\1\1\7\7\1`),
			"#######...\n######....\n#####.....\n####......\n###.......\n##........\n..........\n.........."},
		"notch": {device(shutter, "POLYGONAL", "", "", `1\1\9\1\9\10\1\10\5\5`),
			"#........#\n##......##\n###....###\n####..####\n##########\n##########\n##########\n##########"},
		"two shapes": {device(shutter, `RECTANGULAR\POLYGONAL`, "3 8 2 6", "", `1\1\1\7\7\1`),
			"..........\n..####....\n..###.....\n..##......\n..#.......\n..........\n..........\n.........."},
		"edges crossed":                    {device(shutter, "RECTANGULAR", "8 3 2 6", "", ""), all},
		"an edge is missing":               {device(shutter, "RECTANGULAR", "", "", ""), all},
		"two vertices":                     {device(shutter, "POLYGONAL", "", "", `1\1\1\7`), all},
		"half a vertex":                    {device(shutter, "POLYGONAL", "", "", `1\1\1\7\7\1\3`), all},
		"no numbers":                       {device(shutter, "RECTANGULAR", "a b c d", "", ""), all},
		"no radius":                        {device(shutter, "CIRCULAR", "", `4\5 0`, ""), all},
		"bitmap":                           {device(shutter, "BITMAP", "", "", ""), all},
		"leaves nothing":                   {device(shutter, "RECTANGULAR", "30 40 2 6", "", ""), all},
		"elsewhere, leaves nothing of two": {device(shutter, `RECTANGULAR\CIRCULAR`, "1 2 1 2", `8\9 1`, ""), all},
	} {
		film := bright().with(window).with(test.change)
		if got := drawn(read(t, film.file(uid.ExplicitVRLittleEndian))); got != test.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, test.want)
		}
		inverse := film.with(fixture{tag.PhotometricInterpretation: str("CS", "MONOCHROME1")})
		if got := drawn(read(t, inverse.file(uid.ImplicitVRLittleEndian))); got != test.want {
			t.Errorf("%s, MONOCHROME1:\n%s\nwant\n%s", name, got, test.want)
		}
	}
}

// What a shutter covers counts nowhere: not in the percentiles, not in a window's use, not in blankness.
func TestShutterIsNotCounted(t *testing.T) {
	closed := device(shutter, "RECTANGULAR", "3 8 2 6", "", "")
	for name, f := range map[string]fixture{
		"grey": bright(),
		"32 bits": bright().with(fixture{tag.BitsAllocated: us(32), tag.BitsStored: us(32), tag.HighBit: us(31), tag.PixelData: ow(func() (w []uint16) {
			for _, v := range bright()[tag.PixelData].words {
				w = append(w, v, 0)
			}
			return w
		}()...)}),
	} {
		p := read(t, f.with(closed).file(uid.ExplicitVRLittleEndian))
		if p.Pixels[12] != 0 || p.Pixels[57] != 1 || p.Blank {
			t.Errorf("%s: the percentiles of the free part are %v…%v, want 0…1", name, p.Pixels[12], p.Pixels[57])
		}
		if voi := step(p, "voi"); !strings.Contains(voi, "percentiles 0.5 and 99.5, 1120…1570") {
			t.Errorf("%s: %s", name, voi)
		}
	}
	if p := read(t, bright().with(closed).with(windowed("3500", "200", "LINEAR_EXACT")).file(uid.ExplicitVRLittleEndian)); !strings.Contains(step(p, "voi"), "window unusable") {
		t.Errorf("a window that shows only what is covered is used: %s", step(p, "voi"))
	}
	flat := make([]uint16, 80)
	flat[0] = 4000
	if p := read(t, grey16(10, flat...).with(closed).file(uid.ExplicitVRLittleEndian)); !p.Blank {
		t.Error("a picture of which nothing but the covered part has anything to see is not blank")
	}
}

func step(p *Picture, name string) string {
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Name == name })
	if i < 0 {
		return ""
	}
	return p.Steps[i].Detail
}

// A collimator's blades are shown, and only the percentiles are those of what it leaves free.
func TestCollimator(t *testing.T) {
	free := device(collimator, "RECTANGULAR", "3 8 2 6", "", "")
	tests := map[string]struct {
		f      fixture
		detail string
	}{
		"none":                        {bright(), "1120…4000 (no window)"},
		"free":                        {bright().with(free), "1120…1570 (no window, inside the collimation)"},
		"unusable window":             {bright().with(free).with(windowed("9000", "10", "")), "1120…1570 (window unusable"},
		"window":                      {bright().with(free).with(windowed("2000", "3000", "")), "window 2000/3000"},
		"with a shutter":              {bright().with(free).with(device(shutter, "RECTANGULAR", "4 10 1 8", "", "")), "1130…1570"},
		"leaves a tenth":              {bright().with(device(collimator, "RECTANGULAR", "3 6 2 3", "", "")), "1120…1250"},
		"leaves next to nothing":      {bright().with(device(collimator, "RECTANGULAR", "3 6 2 2", "", "")), "1120…4000"},
		"free of nothing but padding": {bright().with(device(collimator, "RECTANGULAR", "1 10 1 1", "", "")).with(fixture{tag.PixelPaddingValue: us(4000)}), "1120…1570 (no window)"},
	}
	for name, test := range tests {
		p := read(t, test.f.file(uid.ExplicitVRLittleEndian))
		if voi := step(p, "voi"); !strings.Contains(voi, test.detail) {
			t.Errorf("%s: %s, want …%s", name, voi, test.detail)
		}
		if name == "free" && p.Pixels[0] != 1 {
			t.Errorf("%s: a blade is %v, want 1", name, p.Pixels[0])
		}
	}
}

// A value that is also seen somewhere does not count where a shutter covers it, inside the collimation or not.
func TestCollimatorUnderAShutter(t *testing.T) {
	values := make([]uint16, 400)
	for i := range values {
		values[i] = uint16(1000 + i%100)
		if i%10 < 5 || i == 99 {
			values[i] = 3000
		}
	}
	f := grey16(10, values...).with(device(shutter, "RECTANGULAR", "6 10 1 40", "", "")).with(device(collimator, "RECTANGULAR", "1 10 1 40", "", ""))
	if voi := step(read(t, f.file(uid.ExplicitVRLittleEndian)), "voi"); !strings.Contains(voi, "1005…1099 (no window, inside the collimation)") {
		t.Error(voi)
	}
}

func TestPixelAspect(t *testing.T) {
	spacing := func(t tag.Tag, s string) fixture { return fixture{t: str("DS", s)} }
	ratio := fixture{tag.PixelAspectRatio: str("IS", `3\1`)}
	tests := map[string]struct {
		f    fixture
		want float64
	}{
		"nothing":             {fixture{}, 1},
		"spacing":             {spacing(tag.PixelSpacing, `0.4\0.2`), 2},
		"square":              {spacing(tag.PixelSpacing, `0.143\0.143`), 1},
		"nearly square":       {spacing(tag.PixelSpacing, `0.1430\0.14301`), 1},
		"imager":              {spacing(tag.ImagerPixelSpacing, `0.1\0.2`), 0.5},
		"scanned":             {spacing(tag.NominalScannedPixelSpacing, `0.1\0.2`), 0.5},
		"ratio":               {ratio, 3},
		"spacing and ratio":   {ratio.with(spacing(tag.PixelSpacing, `0.2\0.2`)), 1},
		"two spacings":        {spacing(tag.ImagerPixelSpacing, `0.1\0.2`).with(spacing(tag.PixelSpacing, `0.3\0.2`)), 1.5},
		"one number":          {ratio.with(spacing(tag.PixelSpacing, `0.2`)), 3},
		"zero":                {ratio.with(spacing(tag.PixelSpacing, `0\0.2`)), 3},
		"negative":            {ratio.with(spacing(tag.PixelSpacing, `-1\-2`)), 3},
		"no number":           {ratio.with(spacing(tag.PixelSpacing, `a\b`)), 3},
		"not finite":          {ratio.with(spacing(tag.PixelSpacing, `Inf\1`)), 3},
		"beyond belief":       {ratio.with(spacing(tag.PixelSpacing, `50\1`)), 3},
		"a ratio beyond that": {fixture{tag.PixelAspectRatio: str("IS", `1\40`)}, 1},
	}
	for name, test := range tests {
		p := read(t, grey16(20, ramp16(200, 4000)...).with(test.f).file(uid.ExplicitVRLittleEndian))
		if math.Abs(p.PixelAspect-test.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", name, p.PixelAspect, test.want)
		}
		if shown := step(p, "aspect"); (shown != "") != (test.want != 1) {
			t.Errorf("%s: step %q", name, shown)
		}
		// 20 columns × 10 rows: as wide as the square, and as high as the rows are.
		out := p.Tensor(Spec{Size: 40, Normalisation: PerImage, Pad: -9})
		high := 0
		for y := range 40 {
			if out[y*40+20] != -9 {
				high++
			}
		}
		if want := int(math.Round(20 * test.want)); high != min(want, 40) {
			t.Errorf("%s: %d rows of the square, want %d", name, high, want)
		}
	}
}

// drawnFiles returns files of what Go and Python must read alike and no real file at hand has.
func drawnFiles(t *testing.T) []string {
	t.Helper()
	const columns, rows = 61, 47
	values := make([]uint16, columns*rows)
	for i := range values {
		x, y := i%columns, i/columns
		values[i] = uint16(400 + 1500*math.Exp(-float64((x-25)*(x-25)+(y-20)*(y-20))/300) + float64(x*20) + float64((x*31+y*17)%97))
		if x < 6 || y > 41 {
			values[i] = 4000
		}
	}
	base := grey16(columns, values...).with(fixture{tag.SOPInstanceUID: str("UI", "2.25.1")})
	wide := make([]uint16, 0, 2*len(values))
	halves := make([]byte, 0, 2*len(values))
	for i, v := range values {
		wide = append(wide, v, v&1)
		halves = append(halves, byte(v>>4))
		if i%2 == 1 {
			halves = append(halves, 128, 128)
		}
	}
	inverse := fixture{tag.PhotometricInterpretation: str("CS", "MONOCHROME1")}
	polygon := device(shutter, "POLYGONAL", "", "", `3\5\10\50\40\55\44\20\20\12`)
	segmented := ow(0, 3, 100, 900, 3000, 1, 40, 60000, 0, 2, 7, 9, 1, 211, 21)
	files := map[string]fixture{
		"shutter":                       base.with(device(shutter, "RECTANGULAR", "8 55 3 40", "", "")),
		"shutter, inverse":              base.with(device(shutter, "RECTANGULAR", "8 55 3 40", "", "")).with(inverse),
		"circle":                        base.with(device(shutter, "CIRCULAR", "", `20\30 18`, "")),
		"circle, not square":            base.with(device(shutter, "CIRCULAR", "", `20\30 18`, "")).with(fixture{tag.PixelSpacing: str("DS", `0.3\0.2`)}),
		"polygon":                       base.with(polygon),
		"three shapes":                  base.with(polygon).with(device(shutter, `POLYGONAL\CIRCULAR\RECTANGULAR`, "9 50 5 44", `22\30 20`, `3\5\10\50\40\55\44\20\20\12`)),
		"useless shutter":               base.with(device(shutter, "RECTANGULAR", "900 950 3 40", "", "")),
		"shutter, window":               base.with(polygon).with(windowed("1500", "2500", "")),
		"shutter, padding":              base.with(polygon).with(fixture{tag.PixelPaddingValue: us(4000)}),
		"collimator":                    base.with(device(collimator, "RECTANGULAR", "8 58 1 40", "", "")),
		"both":                          base.with(device(collimator, "RECTANGULAR", "8 58 1 40", "", "")).with(device(shutter, "CIRCULAR", "", `20\30 25`, "")),
		"narrow collimator":             base.with(device(collimator, "RECTANGULAR", "8 12 1 40", "", "")),
		"polygonal collimator, inverse": base.with(device(collimator, "POLYGONAL", "", "", `1\8\1\58\40\58\40\8`)).with(inverse),
		"high pixels":                   base.with(fixture{tag.PixelSpacing: str("DS", `0.31\0.2`)}),
		"wide pixels":                   base.with(fixture{tag.ImagerPixelSpacing: str("DS", `0.1\0.27`)}),
		"ratio":                         base.with(fixture{tag.PixelAspectRatio: str("IS", `4\3`)}),
		"spacing over ratio":            base.with(fixture{tag.PixelAspectRatio: str("IS", `4\3`), tag.NominalScannedPixelSpacing: str("DS", `0.2\0.2`)}),
		"32 bits, shutter":              base.with(fixture{tag.BitsAllocated: us(32), tag.BitsStored: us(32), tag.HighBit: us(31), tag.PixelData: ow(wide...)}).with(polygon),
		"32 bits, collimator": base.with(fixture{tag.BitsAllocated: us(32), tag.BitsStored: us(32), tag.HighBit: us(31), tag.PixelData: ow(wide...)}).
			with(device(collimator, "RECTANGULAR", "8 58 1 40", "", "")),
		"partial 422": base.with(fixture{tag.SamplesPerPixel: us(3), tag.PhotometricInterpretation: str("CS", "YBR_PARTIAL_422"), tag.PlanarConfiguration: us(0),
			tag.BitsAllocated: us(8), tag.BitsStored: us(8), tag.HighBit: us(7), tag.Columns: us(60), tag.PixelData: bin("OB", halves[:60*rows*2]...)}),
		"segmented palette": paletteOf(0, 0, 0, 0).with(fixture{tag.Rows: us(rows), tag.Columns: us(columns), tag.PixelData: bin("OB", bytesOf(values)...),
			tag.WindowCenter: {}, tag.WindowWidth: {}, tag.SOPInstanceUID: str("UI", "2.25.1"),
			tag.RedPaletteColorLookupTableDescriptor: us(256, 0, 16), tag.GreenPaletteColorLookupTableDescriptor: us(256, 0, 16), tag.BluePaletteColorLookupTableDescriptor: us(256, 0, 16),
			tag.RedPaletteColorLookupTableData: {}, tag.GreenPaletteColorLookupTableData: {}, tag.BluePaletteColorLookupTableData: {},
			tag.SegmentedRedPaletteColorLookupTableData: segmented, tag.SegmentedGreenPaletteColorLookupTableData: segmented, tag.SegmentedBluePaletteColorLookupTableData: segmented}),
	}
	dir := t.TempDir()
	var paths []string
	for name, f := range files {
		path := filepath.Join(dir, fmt.Sprintf("%s.dcm", name))
		if err := os.WriteFile(path, f.file(uid.ExplicitVRLittleEndian), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

func bytesOf(values []uint16) []byte {
	b := make([]byte, len(values))
	for i, v := range values {
		b[i] = byte(v >> 4)
	}
	return b
}
