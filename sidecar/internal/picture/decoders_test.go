package picture

import (
	"encoding/base64"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// needProgram skips without a program, and fails without it where nothing may be skipped.
func needProgram(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed (apt install %s)", name, debian)
		}
		t.Skipf("skipped: %s is not installed (apt install %s)", name, debian)
	}
	return path
}

func needGDCM(t *testing.T) string {
	t.Helper()
	return needProgram(t, gdcmconv.name, gdcmconv.debian)
}

// only switches every decoder off but the named ones; a name may have a path behind a colon.
func only(names ...string) Options {
	program := func(p *decoder) string {
		for _, n := range names {
			name, path, _ := strings.Cut(n, ":")
			if name == p.name {
				return path
			}
		}
		return switchedOff
	}
	return Options{GDCMConv: program(gdcmconv), DCMDJPEG: program(dcmdjpeg), DCMDJPLS: program(dcmdjpls), OPJDecompress: program(opjDecompress)}
}

// The same 12-bit film, compressed without loss in all ways that are at hand, reads as the uncompressed one does, by each of the
// programs that are asked for such a file.
func TestEveryDecoderReadsTheSame(t *testing.T) {
	encoder, encoderToo := needGDCM(t), needProgram(t, "dcmcjpeg", "dcmtk")
	values := make([]uint16, 64*48)
	for i := range values {
		values[i] = uint16(i%64*50 + i/64*18)
	}
	f := grey16(64, values...).with(fixture{tag.PhotometricInterpretation: str("CS", "MONOCHROME1"), tag.SOPInstanceUID: str("UI", "2.25.77"),
		tag.PatientID: str("LO", "SECRET"), tag.PatientName: str("PN", "DOE^JOHN")}).file(uid.ExplicitVRLittleEndian)
	want := read(t, f)
	dir := t.TempDir()
	in := filepath.Join(dir, "in.dcm")
	if err := os.WriteFile(in, f, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		encode []string
		syntax string
	}{
		"JPEG lossless, first order": {[]string{encoder, "--jpeg"}, "1.2.840.10008.1.2.4.70"},
		"JPEG lossless":              {[]string{encoderToo, "+el"}, "1.2.840.10008.1.2.4.57"},
		"JPEG 2000":                  {[]string{encoder, "--j2k"}, "1.2.840.10008.1.2.4.90"},
		"JPEG-LS":                    {[]string{encoder, "--jpegls"}, "1.2.840.10008.1.2.4.80"},
		"RLE":                        {[]string{encoder, "--rle"}, rleLossless},
	} {
		out := filepath.Join(dir, name)
		if said, err := exec.Command(test.encode[0], append(test.encode[1:], in, out)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: compress: %v: %s", name, err, said)
		}
		file, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		decoders := []string{"RLE"} // by Go
		if test.syntax != rleLossless {
			decoders = nil
			for _, p := range decodersOf(test.syntax) {
				decoders = append(decoders, p.name)
			}
		}
		for _, decoder := range decoders {
			t.Run(name+" by "+decoder, func(t *testing.T) {
				p, err := NewReader(only(decoder)).Read(t.Context(), file)
				if err != nil {
					t.Fatal(err)
				}
				if p.Header.TransferSyntaxUID != test.syntax || !strings.HasPrefix(p.Steps[1].Detail, decoder) {
					t.Errorf("%s, %+v; want %s by %s", p.Header.TransferSyntaxUID, p.Steps, test.syntax, decoder)
				}
				if !slices.Equal(p.Pixels, want.Pixels) {
					t.Error("the pixels are not those of the uncompressed file")
				}
			})
		}
	}
}

// highThroughput is 16 × 12 pixels of 12 bits, (250x + 18y) mod 4096, in HTJ2K without loss, made by OpenJPH 0.9.
const highThroughput = "/0//UQApQAAAAAAQAAAADAAAAAAAAAAAAAAAEAAAAAwAAAAAAAAAAAABCwEB/1AACAACAAAAB/9SAAwAAgABAAIEBEAB/1wACiBweHh4cHB4/2QAFgABT3Bl" +
	"bkpQSCBWZXIgMC45LjAu/5AACgAAAAAAaAAB/5PAAWyA/3/tL/j8F1yACIwse9/S4M0Bn/5CALc4AMAAqoABVGSQQcagojKCdgBQKBT6wBCBvrYAwAFbAAWg" +
	"8vLy8vLy54p6cYJ3AKIQQggh/voAAHv2AAHsugD/2Q=="

func TestHighThroughput(t *testing.T) {
	needProgram(t, opjDecompress.name, opjDecompress.debian)
	stream, err := base64.StdEncoding.DecodeString(highThroughput)
	if err != nil {
		t.Fatal(err)
	}
	values := make([]uint16, 16*12)
	for i := range values {
		values[i] = uint16((i%16*250 + i/16*18) % 4096)
	}
	f := grey16(16, values...)
	want := read(t, f.file(uid.ExplicitVRLittleEndian))
	for _, syntax := range []string{"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"} {
		if p := read(t, f.encapsulated(syntax, stream)); !slices.Equal(p.Pixels, want.Pixels) {
			t.Errorf("%s: not the pixels that were compressed", syntax)
		}
		if failed := fails(t, only(), f.encapsulated(syntax, stream)); failed.Kind != Undecodable || !strings.Contains(failed.Reason, "opj_decompress is switched off") {
			t.Errorf("%s: %v", syntax, failed)
		}
	}
}

// What one program cannot decode the next one may; when none can, all say why.
func TestDecodersAreTriedInOrder(t *testing.T) {
	jpegLS := grey16(2, 0, 0, 0, 0).encapsulated("1.2.840.10008.1.2.4.80", []byte{1, 2, 3, 4})
	good := standInFor(t, grey16(2, 0, 1000, 2000, 3000), "$3")
	for name, first := range map[string]string{
		"refuses": standIn(t, "exit 1"), "crashes": standIn(t, "kill -SEGV $$"), "writes nothing": standIn(t, "exit 0"), "is not there": "/nowhere/gdcmconv",
		"does not run": standIn(t, "exec /nowhere/gdcm"), "writes nonsense": standIn(t, `echo nonsense >"$3"`),
	} {
		p, err := NewReader(only("gdcmconv:"+first, "dcmdjpls:"+good)).Read(t.Context(), jpegLS)
		if err != nil || !strings.HasPrefix(p.Steps[1].Detail, "dcmdjpls") || p.Pixels[3] != 1 {
			t.Errorf("the first one %s: %v", name, err)
		}
	}
	failed := fails(t, only("gdcmconv:"+standIn(t, "exit 1"), "dcmdjpls:"+standIn(t, "exit 3")), jpegLS)
	if want := "gdcmconv cannot decode it (exit status 1); dcmdjpls cannot decode it (exit status 3)"; failed.Kind != Undecodable || failed.Temporary || !strings.Contains(failed.Reason, want) {
		t.Errorf("%v (temporary: %v), want …%s", failed, failed.Temporary, want)
	}
	failed = fails(t, only("gdcmconv:"+standIn(t, "exit 1"), "dcmdjpls:/nowhere/dcmdjpls"), jpegLS)
	if want := "exit status 1); install dcmdjpls (Debian: apt install dcmtk)"; failed.Temporary || !strings.HasSuffix(failed.Reason, want) {
		t.Errorf("%v, want …%s", failed, want)
	}
	failed = fails(t, only("gdcmconv:"+standIn(t, "kill -ABRT $$"), "dcmdjpls:"+standIn(t, "exit 3")), jpegLS)
	if !failed.Temporary {
		t.Errorf("one crashed, and the other cannot: %v is not temporary", failed)
	}
}

func TestUnknownSyntaxes(t *testing.T) {
	for syntax, reason := range map[string]string{
		"1.2.840.10008.1.2.4.110": "JPEG XL lossless (1.2.840.10008.1.2.4.110): no program that the router knows",
		"1.2.840.10008.1.2.4.201": "install opj_decompress (Debian: apt install libopenjp2-tools)",
		"1.2.840.10008.1.2.4.70":  "install dcmdjpeg (Debian: apt install dcmtk); install gdcmconv (Debian: apt install libgdcm-tools)",
		"1.2.3.4":                 "1.2.3.4: install gdcmconv (Debian: apt install libgdcm-tools)",
	} {
		nowhere := Options{GDCMConv: "/nowhere/x", DCMDJPEG: "/nowhere/x", DCMDJPLS: "/nowhere/x", OPJDecompress: "/nowhere/x"}
		failed := fails(t, nowhere, grey16(2, 0, 0, 0, 0).encapsulated(syntax, []byte{1, 2, 3, 4}))
		if failed.Kind != Undecodable || failed.Temporary || !strings.Contains(failed.Reason, reason) {
			t.Errorf("%s: %v, want …%s", syntax, failed, reason)
		}
	}
}

// A stream that claims more pixels than are allowed is not given to any program, whatever the header says.
func TestStreamsThatClaimTooMuch(t *testing.T) {
	siz := []byte{0xFF, 0x4F, 0xFF, 0x51, 0, 41, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	jp2 := append([]byte("\x00\x00\x00\x0CjP  \r\n\x87\n"), siz...)
	sof := func(marker byte) []byte {
		return []byte{0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 1, 2, 0xFF, 0xFF, marker, 0, 11, 12, 0x4E, 0x20, 0x4E, 0x21, 1, 1, 0x11, 0}
	}
	for name, test := range map[string]struct {
		syntax string
		stream []byte
		claims string
	}{
		"JPEG 2000":     {"1.2.840.10008.1.2.4.90", siz, "4294967295 × 4294967295"},
		"JP2":           {"1.2.840.10008.1.2.4.91", jp2, "4294967295 × 4294967295"},
		"HTJ2K":         {"1.2.840.10008.1.2.4.201", siz, "4294967295 × 4294967295"},
		"JPEG baseline": {jpegBaseline, sof(0xC0), "20001 × 20000"},
		"JPEG lossless": {"1.2.840.10008.1.2.4.70", sof(0xC3), "20001 × 20000"},
		"JPEG-LS":       {"1.2.840.10008.1.2.4.80", sof(0xF7), "20001 × 20000"},
	} {
		failed := fails(t, Options{}, grey16(2, 0, 0, 0, 0).encapsulated(test.syntax, test.stream))
		if want := test.claims + " pixels are more than 100000000 (picture.max_pixels)"; failed.Kind != TooLarge || failed.Reason != want {
			t.Errorf("%s: %v, want %s", name, failed, want)
		}
	}
}

func TestDecoders(t *testing.T) {
	for _, d := range NewReader(only()).Decoders(t.Context()) {
		if d.Path != "" || !d.Off || d.Err == nil {
			t.Errorf("switched off: %+v", d)
		}
	}
	asked := NewReader(Options{GDCMConv: "/nowhere/gdcmconv", DCMDJPEG: standIn(t, "echo hello"), DCMDJPLS: switchedOff, OPJDecompress: standIn(t, "echo 'openjp2 library v9'; exit 1")}).Decoders(t.Context())
	if !errors.Is(asked[0].Err, os.ErrNotExist) || asked[0].Off {
		t.Errorf("not there: %+v", asked[0])
	}
	if asked[1].Err == nil || asked[1].Path == "" {
		t.Errorf("does not say its version: %+v", asked[1])
	}
	if asked[3].Err != nil || asked[3].Version != "openjp2 library v9" {
		t.Errorf("says its version and fails: %+v", asked[3])
	}
	needProgram(t, gdcmconv.name, gdcmconv.debian)
	needProgram(t, dcmdjpeg.name, dcmdjpeg.debian)
	needProgram(t, opjDecompress.name, opjDecompress.debian)
	says := map[string]string{}
	for _, d := range NewReader(Options{}).Decoders(t.Context()) {
		if d.Err != nil || !filepath.IsAbs(d.Path) {
			t.Errorf("%+v", d)
		}
		says[d.Name] = d.Version
	}
	for name, want := range map[string]string{"gdcmconv": "gdcm 3", "dcmdjpeg": "dcmtk: dcmdjpeg v3", "dcmdjpls": "dcmtk: dcmdjpls v3", "opj_decompress": "openjp2 library v2"} {
		if !strings.Contains(says[name], want) {
			t.Errorf("%s says %q, want %s", name, says[name], want)
		}
	}
	if len(says) != len(allDecoders) {
		t.Errorf("%v", slices.Sorted(maps.Keys(says)))
	}
}

func TestGaps(t *testing.T) {
	found := []Decoder{{Name: "gdcmconv", Err: errOff}, {Name: "dcmdjpeg"}, {Name: "dcmdjpls", Err: errOff}, {Name: "opj_decompress", Err: errOff}}
	var gaps []string
	for _, g := range Gaps(found) {
		gaps = append(gaps, g.Name+": "+strings.Join(g.Programs, " "))
	}
	want := []string{"JPEG-LS: gdcmconv dcmdjpls", "JPEG 2000: opj_decompress gdcmconv", "High-Throughput JPEG 2000: opj_decompress"}
	if !slices.Equal(gaps, want) {
		t.Errorf("with dcmdjpeg alone: %q, want %q", gaps, want)
	}
}

// What OpenJPEG writes: signed where the stream or the header says so, in as many bits as the stream has; three components, or the
// first one of a picture of luminance and colour differences.
func TestPGX(t *testing.T) {
	third := []float32{0, 1.0 / 3, 2.0 / 3, 1}
	write := func(planes ...string) string {
		script := ""
		for i, plane := range planes {
			script += "echo " + base64.StdEncoding.EncodeToString([]byte(plane)) + ` | base64 -d >"${5%.pgx}_` + string(rune('0'+i)) + ".pgx\"\n"
		}
		return "opj_decompress:" + standIn(t, script)
	}
	grey := grey16(2, 0, 0, 0, 0).with(fixture{tag.WindowCenter: str("DS", "2048"), tag.WindowWidth: str("DS", "4096")})
	signed := grey.with(fixture{tag.PixelRepresentation: us(1), tag.WindowCenter: str("DS", "0")})
	colour := fixture{tag.SamplesPerPixel: us(3), tag.PhotometricInterpretation: str("CS", "RGB"), tag.WindowCenter: str("DS", "128"), tag.WindowWidth: str("DS", "256")}
	rct := colour.with(fixture{tag.PhotometricInterpretation: str("CS", "YBR_RCT")})
	full := colour.with(fixture{tag.PhotometricInterpretation: str("CS", "YBR_FULL")})
	eight := "PG ML + 8 2 2\n\x00\x55\xAA\xFF"
	for name, test := range map[string]struct {
		f      fixture
		planes []string
	}{
		"12 bits":                        {grey, []string{"PG ML + 12 2 2\n\x00\x00\x05\x55\x0A\xAA\x0F\xFF"}},
		"little endian":                  {grey, []string{"PG LM + 12 2 2\n\x00\x00\x55\x05\xAA\x0A\xFF\x0F"}},
		"another size than the header's": {grey.with(fixture{tag.Rows: us(1)}), []string{"PG ML + 12 2 2\n\x00\x00\x05\x55\x0A\xAA\x0F\xFF"}},
		"signed":                         {signed, []string{"PG ML - 12 2 2\n\xF8\x00\xFD\x55\x02\xAA\x07\xFF"}},
		"signed by the stream alone":     {grey.with(fixture{tag.WindowCenter: str("DS", "0")}), []string{"PG ML -12 2 2\n\xF8\x00\xFD\x55\x02\xAA\x07\xFF"}},
		"signed by the header alone":     {signed, []string{"PG ML + 12 2 2\n\x08\x00\x0D\x55\x02\xAA\x07\xFF"}},
		"fewer bits than the header":     {grey.with(fixture{tag.WindowCenter: str("DS", "128"), tag.WindowWidth: str("DS", "256")}), []string{eight}},
		"RGB":                            {grey.with(colour), []string{eight, eight, eight}},
		"RGB by way of a transform": {grey.with(rct).with(windowed("74.8425", "149.685", "LINEAR_EXACT")),
			[]string{"PG ML + 8 2 2\n\x00\x00\x00\x00", eight, "PG ML + 8 2 2\n\x00\x00\x00\x00"}}, // green alone
		"luminance and colour differences": {grey.with(full), []string{eight, "PG ML + 8 1 1\n\x09", "PG ML + 8 1 1\n\x09"}},
	} {
		p, err := NewReader(only(write(test.planes...))).Read(t.Context(), test.f.encapsulated("1.2.840.10008.1.2.4.90", []byte{1, 2}))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, want := range third {
			if d := p.Pixels[i] - want; d > 0.001 || d < -0.001 {
				t.Errorf("%s: pixels %v, want %v", name, p.Pixels, third)
				break
			}
		}
	}
	for name, test := range map[string]struct {
		f      fixture
		planes []string
		kind   Kind
		reason string
	}{
		"one plane of three": {grey.with(colour), []string{eight}, Undecodable, "wrote 1 components of 3"},
		"unlike planes":      {grey.with(colour), []string{eight, "PG ML + 8 1 1\n\x09", eight}, Undecodable, "do not go together"},
		"no header":          {grey, []string{"P5 2 2 255"}, Undecodable, "do not go together"},
		"cut":                {grey, []string{"PG ML + 12 2 2\n\x00\x00"}, Undecodable, "truncated"},
		"cut luminance":      {grey.with(full), []string{"PG ML + 8 2 2\n\x00", "", ""}, Undecodable, "truncated"},
		"no bits":            {grey, []string{"PG ML + 0 2 2\n"}, Undecodable, "do not go together"},
		"huge":               {grey, []string{"PG ML + 8 2000000 2000000\n"}, TooLarge, "picture.max_pixels"},
	} {
		failed := fails(t, only(write(test.planes...)), test.f.encapsulated("1.2.840.10008.1.2.4.90", []byte{1, 2}))
		if failed.Kind != test.kind || !strings.Contains(failed.Reason, test.reason) {
			t.Errorf("%s: %v, want %s", name, failed, test.reason)
		}
	}
}
