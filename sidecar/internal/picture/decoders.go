package picture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	switchedOff    = "-"
	versionTimeout = 5 * time.Second
)

var errOff = errors.New("switched off")

// decoder is a program that decodes what Go cannot. It finds one file in a directory of its own and leaves others there.
type decoder struct {
	name    string // of the program
	key     string // of its path in the configuration
	debian  string // package
	setting func(Options) string
	stream  bool // it is given the bare codestream, not a DICOM file
	// arguments names the input, which is there, and what must be written.
	arguments func(in, out string) []string
	output    string // name of the file that it writes, or pattern
	read      func(r *Reader, name string, d *dataset, f pixelFormat, outputs []string) (*raster, error)
	version   []string // arguments that make it say its version
	says      string   // what the line with the version holds
}

var (
	gdcmconv = &decoder{
		name: "gdcmconv", key: "picture.gdcmconv", debian: "libgdcm-tools",
		setting:   func(o Options) string { return o.GDCMConv },
		arguments: func(in, out string) []string { return []string{"--raw", in, out} },
		output:    "out.dcm", read: (*Reader).readConverted, version: []string{"--version"}, says: "gdcm",
	}
	// +cn: a YCbCr stays one; its first component is the luminance that is asked for.
	dcmdjpeg = &decoder{
		name: "dcmdjpeg", key: "picture.dcmdjpeg", debian: "dcmtk",
		setting:   func(o Options) string { return o.DCMDJPEG },
		arguments: func(in, out string) []string { return []string{"-q", "+cn", in, out} },
		output:    "out.dcm", read: (*Reader).readConverted, version: []string{"--version"}, says: "dcmtk",
	}
	dcmdjpls = &decoder{
		name: "dcmdjpls", key: "picture.dcmdjpls", debian: "dcmtk",
		setting:   func(o Options) string { return o.DCMDJPLS },
		arguments: func(in, out string) []string { return []string{"-q", in, out} },
		output:    "out.dcm", read: (*Reader).readConverted, version: []string{"--version"}, says: "dcmtk",
	}
	// It writes out_0.pgx, out_1.pgx, … : one file for each component.
	opjDecompress = &decoder{
		name: "opj_decompress", key: "picture.opj_decompress", debian: "libopenjp2-tools",
		setting:   func(o Options) string { return o.OPJDecompress },
		stream:    true,
		arguments: func(in, out string) []string { return []string{"-quiet", "-i", in, "-o", out} },
		output:    "out.pgx", read: (*Reader).readPGX, version: []string{"-h"}, says: "openjp2 library",
	}
	allDecoders = []*decoder{gdcmconv, dcmdjpeg, dcmdjpls, opjDecompress}
)

// family is transfer syntaxes that the same programs decode; the next one is tried where one cannot.
type family struct {
	name     string // for people
	syntaxes []string
	programs []*decoder
}

// Measured over 100 real files of twelve test corpora and a plate of 3000 × 2500 pixels: of JPEG, dcmdjpeg decodes one file more than
// gdcmconv and starts in 15 ms where gdcmconv needs 95; of JPEG-LS, gdcmconv decodes one more and large plates in half the time; of
// JPEG 2000 both agree in every pixel and opj_decompress starts in 5 ms. gdcmconv reads no High-Throughput JPEG 2000.
var families = []family{
	{"JPEG", []string{jpegBaseline, "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55", "1.2.840.10008.1.2.4.57",
		"1.2.840.10008.1.2.4.70"}, []*decoder{dcmdjpeg, gdcmconv}},
	{"JPEG-LS", []string{"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}, []*decoder{gdcmconv, dcmdjpls}},
	{"JPEG 2000", []string{"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}, []*decoder{opjDecompress, gdcmconv}},
	{"High-Throughput JPEG 2000", []string{"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"},
		[]*decoder{opjDecompress}},
	{"JPEG XL", []string{"1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.111", "1.2.840.10008.1.2.4.112"}, nil},
}

// isJPEG says whether the transfer syntax is one of the first JPEG standard, of whatever process.
func (d *dataset) isJPEG() bool { return slices.Contains(families[0].syntaxes, d.syntax) }

// decodersOf returns the programs that may decode a syntax. gdcmconv knows some that are in no family, and old private ones.
func decodersOf(syntax string) []*decoder {
	for _, f := range families {
		if slices.Contains(f.syntaxes, syntax) {
			return f.programs
		}
	}
	return []*decoder{gdcmconv}
}

// find returns the path of a decoder's program.
func (r *Reader) find(p *decoder) (string, error) {
	switch named := p.setting(r.options); named {
	case switchedOff:
		return "", errOff
	case "":
		return exec.LookPath(p.name)
	default:
		return exec.LookPath(named)
	}
}

// absent says what to do about a decoder that find did not find.
func (p *decoder) absent(err error) string {
	if errors.Is(err, errOff) {
		return fmt.Sprintf("%s is switched off (%s)", p.name, p.key)
	}
	return fmt.Sprintf("install %s (Debian: apt install %s)", p.name, p.debian)
}

// Decoder is what is known of a program that decodes what Go cannot.
type Decoder struct {
	Name    string // of the program: gdcmconv
	Key     string // of its path in the configuration: picture.gdcmconv
	Package string // Debian's
	Path    string // "" where it was not found
	Version string // as it says itself
	Off     bool   // switched off by the configuration
	Err     error  // why it cannot be used
}

// Decoders looks for every program that decodes what Go cannot, and starts those that are there.
func (r *Reader) Decoders(ctx context.Context) []Decoder {
	found := make([]Decoder, len(allDecoders))
	for i, p := range allDecoders {
		found[i] = Decoder{Name: p.name, Key: p.key, Package: p.debian}
		path, err := r.find(p)
		if err != nil {
			found[i].Off, found[i].Err = errors.Is(err, errOff), fmt.Errorf("find %s: %w", p.name, err)
			continue
		}
		found[i].Path = path
		found[i].Version, found[i].Err = p.ask(ctx, path)
	}
	return found
}

// Gap is compressed pictures that no program at hand decodes.
type Gap struct {
	Name     string   // of the compression: JPEG-LS
	Programs []string // any of which would do
}

// Gaps says what nothing of what Decoders found decodes.
func Gaps(found []Decoder) []Gap {
	works := map[string]bool{}
	for _, d := range found {
		works[d.Name] = d.Err == nil
	}
	var gaps []Gap
	for _, f := range families {
		g := Gap{Name: f.name}
		for _, p := range f.programs {
			g.Programs = append(g.Programs, p.name)
		}
		if len(g.Programs) > 0 && !slices.ContainsFunc(g.Programs, func(name string) bool { return works[name] }) {
			gaps = append(gaps, g)
		}
	}
	return gaps
}

// ask makes a decoder say its version. A program may end with a status of its own liking after that.
func (p *decoder) ask(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, path, p.version...) //nolint:gosec // the operator's choice
	command.Env = childEnvironment(os.TempDir())
	command.WaitDelay = afterKill
	out, err := command.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, p.says) {
			return strings.Trim(line, "$ \t\r\n"), nil
		}
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err == nil {
		err = errors.New("it does not say its version")
	}
	return "", fmt.Errorf("run %s %s: %w: %s", path, strings.Join(p.version, " "), err, first)
}

// decodeElsewhere lets other programs decode the pixels, one after the other until one can. A program sees the pixels and how they
// are described; nothing else of the file, so that neither a patient's name nor a broken element elsewhere reaches it.
func (r *Reader) decodeElsewhere(ctx context.Context, d *dataset, f pixelFormat) (*raster, string, error) {
	var reasons []string
	var causes []error
	temporary := false
	for _, p := range decodersOf(d.syntax) {
		path, err := r.find(p)
		if err != nil {
			reasons, causes = append(reasons, p.absent(err)), append(causes, err)
			continue
		}
		decoded, failed := r.decodeBy(ctx, p, path, d, f)
		if failed == nil {
			return decoded, p.name, nil
		}
		if ctx.Err() != nil {
			return nil, "", interrupted(ctx.Err())
		}
		if failed.Kind == TooLarge {
			failed.Reason = syntaxName(d.syntax) + ": " + failed.Reason
			return nil, "", failed
		}
		reasons, causes = append(reasons, failed.Reason), append(causes, failed)
		temporary = temporary || failed.Temporary
	}
	if len(reasons) == 0 {
		reasons = []string{"no program that the router knows decodes it; let the sender or Orthanc store it in another transfer syntax"}
	}
	return nil, "", &Error{Kind: Undecodable, Reason: syntaxName(d.syntax) + ": " + strings.Join(reasons, "; "), Err: errors.Join(causes...), Temporary: temporary}
}

// decodeBy runs one decoder in a directory of its own, which it leaves behind empty.
func (r *Reader) decodeBy(ctx context.Context, p *decoder, path string, d *dataset, f pixelFormat) (*raster, *Error) {
	dir, err := os.MkdirTemp("", "picture-")
	if err != nil {
		return nil, &Error{Kind: Undecodable, Reason: "no temporary directory for " + p.name, Err: err, Temporary: true}
	}
	defer removeAll(dir)
	in, out := filepath.Join(dir, "in.dcm"), filepath.Join(dir, p.output)
	content := d.pixelFile
	if p.stream {
		in, content = filepath.Join(dir, "in.j2k"), d.stream
	}
	if err := os.WriteFile(in, content(), 0o600); err != nil {
		return nil, &Error{Kind: Undecodable, Reason: "cannot write a temporary file for " + p.name, Err: err, Temporary: true}
	}
	if failed := r.runChild(ctx, p, dir, append([]string{path}, p.arguments(in, out)...)); failed != nil {
		return nil, failed
	}
	outputs, failed := r.outputs(p, dir, d.mostOutput(f, r.options.MaxOutput))
	if failed != nil {
		return nil, failed
	}
	decoded, err := p.read(r, p.name, d, f, outputs)
	var known *Error
	switch {
	case err == nil:
		return decoded, nil
	case errors.As(err, &known):
		return nil, known
	default:
		return nil, &Error{Kind: Undecodable, Reason: "cannot read what " + p.name + " wrote", Err: err, Temporary: true}
	}
}

// mostOutput is what a decoder may write of a picture: no more than was reserved for it, nor than the limit.
func (d *dataset) mostOutput(f pixelFormat, limit int64) int64 {
	n := int64(f.pixels())
	if columns, rows, ok := claimedSize(d.stream()); ok {
		n = max(n, columns*rows)
	}
	return min(f.decoded(n), limit)
}

// outputs returns the files that a decoder has written, in order. A link to elsewhere is none.
func (r *Reader) outputs(p *decoder, dir string, most int64) ([]string, *Error) {
	extension := filepath.Ext(p.output)
	found, err := filepath.Glob(filepath.Join(dir, strings.TrimSuffix(p.output, extension)+"*"+extension))
	if err != nil {
		return nil, &Error{Kind: Undecodable, Reason: p.name + " wrote nothing", Err: err}
	}
	var regular []string
	total := int64(0)
	for _, path := range found {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
			regular = append(regular, path)
			total += info.Size()
		}
	}
	if len(regular) == 0 {
		return nil, failure(Undecodable, "%s wrote nothing", p.name)
	}
	if total > most {
		return nil, failure(TooLarge, "it decodes to more than %d bytes", most)
	}
	return regular, nil
}

func (r *Reader) tooMuch() *Error {
	return failure(TooLarge, "it decodes to more than %d bytes", r.options.MaxOutput)
}

// readConverted reads an uncompressed DICOM file that a decoder has made of a compressed one.
func (r *Reader) readConverted(program string, d *dataset, f pixelFormat, outputs []string) (*raster, error) {
	content, err := os.ReadFile(outputs[0])
	if err != nil {
		return nil, err
	}
	converted, err := open(content, r.options.MaxOutput, free)
	if err != nil {
		return nil, &Error{Kind: Undecodable, Reason: program + " wrote a broken file", Err: err}
	}
	format, err := converted.pixelsToRead(1, r.options.MaxPixels)
	if err != nil {
		return nil, &Error{Kind: Undecodable, Reason: program + " wrote no picture", Err: err}
	}
	pixels := converted.elements[pixelDataTag]
	if pixels.encapsulated {
		return nil, failure(Undecodable, "%s left it as it was", program)
	}
	return decodeNative(format, pixels.value, pixels.order, false, d.padding(format))
}

// stream returns the codestream of a picture of one frame.
func (d *dataset) stream() []byte {
	fragments := d.elements[pixelDataTag].fragments
	if len(fragments) == 1 {
		return fragments[0]
	}
	return bytes.Join(fragments, nil)
}
