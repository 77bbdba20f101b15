package picture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/suyashkumar/dicom/pkg/tag"
)

const (
	gdcmconv       = "gdcmconv"
	switchedOff    = "-"
	install        = "install gdcmconv (Debian: apt install libgdcm-tools)"
	maxStderr      = 64 << 10
	keptStderr     = 512
	versionTimeout = 5 * time.Second
	afterKill      = 2 * time.Second // until the pipes of a killed child are given up
)

var errOff = errors.New("switched off")

// GDCMConv returns the program that decodes what Go cannot, and the first line it says about its version.
func (r *Reader) GDCMConv() (path, version string, err error) {
	path, err = r.lookGDCMConv()
	if err != nil {
		return "", "", fmt.Errorf("find gdcmconv: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, path, "--version")
	command.Env = childEnvironment(os.TempDir())
	command.WaitDelay = afterKill
	out, err := command.CombinedOutput()
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err != nil {
		return path, "", fmt.Errorf("run %s --version: %w: %s", path, err, first)
	}
	return path, first, nil
}

func (r *Reader) lookGDCMConv() (string, error) {
	switch r.options.GDCMConv {
	case switchedOff:
		return "", errOff
	case "":
		return exec.LookPath(gdcmconv)
	default:
		return exec.LookPath(r.options.GDCMConv)
	}
}

// decodeElsewhere lets gdcmconv write the pixels uncompressed. The child sees the pixels and how they are described; nothing else of
// the file, so that neither a patient's name nor a broken element elsewhere reaches it.
func (r *Reader) decodeElsewhere(ctx context.Context, d *dataset, f pixelFormat) (*raster, string, error) {
	program, err := r.lookGDCMConv()
	if err != nil {
		return nil, "", &Error{Kind: Undecodable, Reason: syntaxName(d.syntax) + ": " + install, Err: err}
	}
	out, err := r.convert(ctx, program, d)
	if err != nil {
		return nil, "", err
	}
	decoded, err := open(out, r.options.MaxOutput, free)
	if err != nil {
		return nil, "", &Error{Kind: Undecodable, Reason: syntaxName(d.syntax) + ": gdcmconv wrote a broken file", Err: err}
	}
	format, err := decoded.pixelsToRead(1, r.options.MaxPixels)
	if err != nil {
		return nil, "", &Error{Kind: Undecodable, Reason: syntaxName(d.syntax) + ": gdcmconv wrote no picture", Err: err}
	}
	pixels := decoded.elements[pixelDataTag]
	if pixels.encapsulated {
		return nil, "", failure(Undecodable, "%s: gdcmconv left it as it was", syntaxName(d.syntax))
	}
	raster, err := decodeNative(format, pixels.value, pixels.order, false, d.padding(f))
	return raster, gdcmconv, err
}

// convert runs gdcmconv --raw in a directory of its own, which it leaves behind empty.
func (r *Reader) convert(ctx context.Context, program string, d *dataset) ([]byte, error) {
	dir, err := os.MkdirTemp("", "picture-")
	if err != nil {
		return nil, &Error{Kind: Undecodable, Reason: "no temporary directory for gdcmconv", Err: err, Temporary: true}
	}
	defer func() { _ = os.RemoveAll(dir) }()
	in, out := filepath.Join(dir, "in.dcm"), filepath.Join(dir, "out.dcm")
	if err := os.WriteFile(in, d.pixelFile(), 0o600); err != nil { //nolint:gosec // in a directory that has just been made
		return nil, &Error{Kind: Undecodable, Reason: "cannot write a temporary file for gdcmconv", Err: err, Temporary: true}
	}
	if err := r.runChild(ctx, program, dir, in, out, syntaxName(d.syntax)); err != nil {
		return nil, err
	}
	found, err := os.Lstat(out)
	switch {
	case err != nil || !found.Mode().IsRegular():
		return nil, &Error{Kind: Undecodable, Reason: syntaxName(d.syntax) + ": gdcmconv wrote nothing", Err: err}
	case found.Size() > r.options.MaxOutput:
		return nil, failure(TooLarge, "%s decodes to more than %d bytes", syntaxName(d.syntax), r.options.MaxOutput)
	}
	decoded, err := os.ReadFile(out)
	if err != nil {
		return nil, &Error{Kind: Undecodable, Reason: "cannot read what gdcmconv wrote", Err: err, Temporary: true}
	}
	return decoded, nil
}

// limits is run by sh: Go cannot set a child's limits before it starts. The limit on a file is in blocks of 512 bytes, that on memory
// in KiB; the one on processor time ends a child whose router has been killed. A limit that cannot be set stops the child before it
// has read anything, except for that on memory where the system has none.
const limits = `ulimit -c 0 && ulimit -f "$1" && ulimit -t "$2" || exit 125
ulimit -v "$3" 2>/dev/null || [ "$(uname)" != Linux ] || exit 125
shift 3
exec "$@"`

const (
	exitNoLimits = 125 // of the script above
	exitNotRun   = 126 // of sh: found but not executable; 127: not found, or a library of it missing
	exitNotFound = 127
)

func (r *Reader) runChild(ctx context.Context, program, dir, in, out, syntax string) error {
	ctx, cancel := context.WithTimeout(ctx, r.options.ChildTimeout)
	defer cancel()
	blocks := r.options.MaxOutput/512 + 1
	seconds := int64(r.options.ChildTimeout/time.Second) + 1
	command := exec.CommandContext(ctx, "/bin/sh", "-c", limits, "sh", //nolint:gosec // the program is the operator's choice, the paths are ours
		strconv.FormatInt(blocks, 10), strconv.FormatInt(seconds, 10), strconv.FormatInt(r.options.ChildMemory>>10, 10),
		program, "--raw", in, out)
	command.Dir, command.Env = dir, childEnvironment(dir)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.WaitDelay = afterKill
	stderr := &boundedBuffer{}
	command.Stderr = stderr
	killGroup := func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.Cancel = killGroup
	if err := command.Start(); err != nil {
		return &Error{Kind: Undecodable, Reason: "cannot start gdcmconv", Err: err, Temporary: true}
	}
	err := command.Wait()
	_ = killGroup() // whatever the child started and left behind
	if err == nil {
		return nil
	}
	return r.childFailure(ctx, err, stderr, syntax)
}

// childFailure says what a failed child means for the picture.
func (r *Reader) childFailure(ctx context.Context, err error, stderr *boundedBuffer, syntax string) error {
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &Error{Kind: Undecodable, Reason: fmt.Sprintf("%s: gdcmconv took longer than %v", syntax, r.options.ChildTimeout), Err: err, Temporary: true}
	case ctx.Err() != nil:
		return interrupted(ctx.Err())
	case stderr.full:
		return &Error{Kind: Undecodable, Reason: syntax + ": gdcmconv does not stop to complain", Err: err}
	case !errors.As(err, &exit):
		return &Error{Kind: Undecodable, Reason: syntax + ": gdcmconv failed", Err: err, Temporary: true}
	}
	status, _ := exit.Sys().(syscall.WaitStatus)
	switch {
	case status.Signaled() && status.Signal() == syscall.SIGXFSZ:
		return &Error{Kind: TooLarge, Reason: fmt.Sprintf("%s decodes to more than %d bytes", syntax, r.options.MaxOutput), Err: err}
	case status.Signaled():
		return &Error{Kind: Undecodable, Reason: fmt.Sprintf("%s: gdcmconv died (%v)", syntax, status.Signal()), Err: err, Temporary: true}
	case exit.ExitCode() >= exitNoLimits && exit.ExitCode() <= exitNotFound:
		// Nothing of the file has been read yet, so what stands on stderr is about the machine.
		return &Error{Kind: Undecodable, Reason: "gdcmconv does not run here: " + stderr.String(), Err: err, Temporary: true}
	default:
		return &Error{Kind: Undecodable, Reason: fmt.Sprintf("%s: gdcmconv cannot decode it (%v)", syntax, err), Err: err}
	}
}

// childEnvironment holds nothing of ours: no secrets, no proxies, one language.
func childEnvironment(dir string) []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "HOME=" + dir, "TMPDIR=" + dir}
}

// boundedBuffer keeps the start of what a child says, and ends a child that says too much: the error closes its pipe.
type boundedBuffer struct {
	kept  bytes.Buffer
	total int
	full  bool
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.total += len(p)
	if room := keptStderr - b.kept.Len(); room > 0 {
		b.kept.Write(p[:min(room, len(p))])
	}
	if b.total > maxStderr {
		b.full = true
		return 0, errors.New("too much on stderr")
	}
	return len(p), nil
}

// String returns the first line, without what a terminal would obey.
func (b *boundedBuffer) String() string {
	line, _, _ := strings.Cut(strings.TrimSpace(b.kept.String()), "\n")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, line)
}

// describesPixels is what a decoder needs beside the pixels.
var describesPixels = []tag.Tag{
	tag.SamplesPerPixel, tag.PhotometricInterpretation, tag.PlanarConfiguration, tag.Rows, tag.Columns, tag.BitsAllocated,
	tag.BitsStored, tag.HighBit, tag.PixelRepresentation,
	tag.RedPaletteColorLookupTableDescriptor, tag.GreenPaletteColorLookupTableDescriptor, tag.BluePaletteColorLookupTableDescriptor,
	tag.RedPaletteColorLookupTableData, tag.GreenPaletteColorLookupTableData, tag.BluePaletteColorLookupTableData,
}

// pixelFile returns a DICOM file of the encapsulated pixels and their description, as Secondary Capture of nobody.
func (d *dataset) pixelFile() []byte {
	little := binary.LittleEndian
	b := part10(d.syntax)
	b = appendElement(b, little, tag.SOPClassUID, "UI", []byte("1.2.840.10008.5.1.4.1.1.7\x00"))
	b = appendElement(b, little, tag.SOPInstanceUID, "UI", []byte("2.25.1"))
	for _, t := range describesPixels {
		if e, ok := d.elements[t]; ok && e.order == little && len(e.value) < maxValue {
			b = appendElement(b, little, t, e.effectiveVR(), e.value)
		}
	}
	b = appendHeader(b, pixelDataTag, undefinedLength)
	b = appendItem(b, nil) // an empty basic offset table
	for _, fragment := range d.elements[pixelDataTag].fragments {
		b = appendItem(b, fragment)
	}
	return appendItemHeader(b, sequenceEndTag, 0)
}

func appendHeader(b []byte, t tag.Tag, length uint32) []byte {
	b = appendElement(b, binary.LittleEndian, t, "OB", nil)
	binary.LittleEndian.PutUint32(b[len(b)-4:], length)
	return b
}

func appendItem(b, value []byte) []byte {
	b = appendItemHeader(b, itemTag, uint32(len(value)+len(value)%2))
	b = append(b, value...)
	if len(value)%2 == 1 {
		b = append(b, 0)
	}
	return b
}

func appendItemHeader(b []byte, t tag.Tag, length uint32) []byte {
	b = binary.LittleEndian.AppendUint16(b, t.Group)
	b = binary.LittleEndian.AppendUint16(b, t.Element)
	return binary.LittleEndian.AppendUint32(b, length)
}
