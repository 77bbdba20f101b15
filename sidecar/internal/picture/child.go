package picture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/suyashkumar/dicom/pkg/tag"
)

const (
	maxStderr  = 64 << 10
	keptStderr = 512
	afterKill  = 2 * time.Second // until the pipes of a killed child are given up
)

// limits is run by sh: Go cannot set a child's limits before it starts. The limit on a file is in blocks of 512 bytes, that on memory
// in KiB; the one on processor time ends a child whose router has been killed, and marks whatever the child starts (see leftovers).
// The one on processes is of the user's, not of the child's; where it is empty there is none. A limit that cannot be set stops the
// child before it has read anything, except for that on memory where the system has none. What sh calls that on processes is -p in
// dash and busybox, and -u in bash.
const limits = `ulimit -c 0 && ulimit -f "$1" && ulimit -t "$2" || exit 125
ulimit -v "$3" 2>/dev/null || [ "$(uname)" != Linux ] || exit 125
[ -z "$4" ] || ulimit -p "$4" 2>/dev/null || ulimit -u "$4" || exit 125
shift 4
exec "$@"`

const (
	exitNoLimits = 125 // of the script above
	exitNotRun   = 126 // of sh: found but not executable; 127: not found, or a library of it missing
	exitNotFound = 127
)

// runChild runs a decoder and ends it, and whatever it has started, when it is done or takes, writes or says too much.
func (r *Reader) runChild(ctx context.Context, p *decoder, dir string, program []string) *Error {
	ctx, cancel := context.WithTimeout(ctx, r.options.ChildTimeout)
	defer cancel()
	blocks := r.options.MaxOutput/512 + 1
	seconds := int64(r.options.ChildTimeout/time.Second) + 1
	arguments := append([]string{"-c", limits, "sh", strconv.FormatInt(blocks, 10), strconv.FormatInt(seconds, 10),
		strconv.FormatInt(r.options.ChildMemory>>10, 10), processLimit()}, program...)
	command := exec.CommandContext(ctx, "/bin/sh", arguments...) //nolint:gosec // the program is the operator's choice, the paths are ours
	command.Dir, command.Env = dir, childEnvironment(dir)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.WaitDelay = afterKill
	stderr := &boundedBuffer{}
	command.Stderr = stderr
	killGroup := func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.Cancel = killGroup
	if err := startChild(command); err != nil {
		return &Error{Kind: Undecodable, Reason: "cannot start " + p.name, Err: err, Temporary: true}
	}
	flooded := atomic.Bool{}
	watched := watchDirectory(ctx, dir, r.options.MaxOutput, func() { flooded.Store(true); _ = killGroup() })
	err := command.Wait()
	cancel()
	<-watched
	_ = killGroup() // whatever the child started and left behind in its group
	left := endChild(command)
	switch {
	case flooded.Load():
		return r.tooMuch()
	case left > 0:
		return &Error{Kind: Undecodable, Reason: fmt.Sprintf("%s started processes that cannot be ended: %d are left", p.name, left), Err: err, Temporary: true}
	case err == nil:
		return nil
	}
	return r.childFailure(ctx, p.name, err, stderr)
}

// childFailure says what a failed child means for the picture.
func (r *Reader) childFailure(ctx context.Context, name string, err error, stderr *boundedBuffer) *Error {
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &Error{Kind: Undecodable, Reason: fmt.Sprintf("%s took longer than %v", name, r.options.ChildTimeout), Err: err, Temporary: true}
	case stderr.full:
		return &Error{Kind: Undecodable, Reason: name + " does not stop to complain", Err: err}
	case !errors.As(err, &exit):
		return &Error{Kind: Undecodable, Reason: name + " failed", Err: err, Temporary: true}
	}
	status, _ := exit.Sys().(syscall.WaitStatus)
	switch {
	case status.Signaled() && status.Signal() == syscall.SIGXFSZ:
		return r.tooMuch()
	case status.Signaled():
		return &Error{Kind: Undecodable, Reason: fmt.Sprintf("%s died (%v)", name, status.Signal()), Err: err, Temporary: true}
	case exit.ExitCode() >= exitNoLimits && exit.ExitCode() <= exitNotFound:
		// Nothing of the file has been read yet, so what stands on stderr is about the machine.
		return &Error{Kind: Undecodable, Reason: name + " does not run here: " + stderr.String(), Err: err, Temporary: true}
	default:
		return &Error{Kind: Undecodable, Reason: fmt.Sprintf("%s cannot decode it (%v)", name, err), Err: err}
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
