// Package picture turns the bytes of a DICOM, PNG or JPEG file into a grey picture as a person would see it, and that picture into
// the input of a network. It must not know Orthanc, the network or the queue, and it never panics on what a stranger wrote.
package picture

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
)

// Kind says why a file gave no picture. The pipeline stores it as the instance's outcome.
type Kind string

// The kinds of failure. All are final for the file, unless Error.Temporary is set.
const (
	NotAPicture Kind = "not_a_picture" // no pixel data (SR, PDF, presentation state, …) or more than one frame
	Undecodable Kind = "undecodable"   // pixel data that nothing at hand decodes; Reason names the syntax and what to install
	Malformed   Kind = "malformed"     // truncated, wrong VR, zero rows, nonsense lengths, …; Reason names the tag
	TooLarge    Kind = "too_large"     // beyond Options.MaxPixels or Options.MaxOutput
)

// Error is the only type of error that Read returns. Its text holds tags, syntaxes and numbers, never a value that names a patient.
type Error struct {
	Kind      Kind
	Reason    string // for a person
	Err       error  // cause, may be nil
	Temporary bool   // the machine failed, not the file (no process, time-out, a crash): a few more tries make sense
}

// Error returns the kind and the reason.
func (e *Error) Error() string { return string(e.Kind) + ": " + e.Reason }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func failure(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Reason: fmt.Sprintf(format, args...)}
}

// Options holds what a Reader may use. Zero values stand for the defaults.
type Options struct {
	// Path or name of each program that decodes what Go cannot; "" looks in PATH, "-" switches it off.
	GDCMConv, DCMDJPEG, DCMDJPLS, OPJDecompress string

	ChildTimeout time.Duration // 20 s
	ChildMemory  int64         // bytes of address space of the child, 2 GiB
	MaxOutput    int64         // bytes that the child may write in files, or that a deflated file may grow to, 1 GiB
	// Reserve takes bytes from what all pictures may hold together, waits until they are free, and returns what gives them back; its error
	// says that there are not so many, or is ctx's. nil: no bound. With it, Picture.Release must be called.
	Reserve func(ctx context.Context, bytes int64) (giveBack func(), err error)
	// MaxPixels is the largest rows × columns, 100 million by default (a stitched leg at 0.1 mm has 56 million). What a
	// picture takes, memory.go says: 6 bytes a pixel for grey ones up to 16 bits and 8 for others (800 MB at the default), beside the
	// file itself and its inflated or decompressed copy.
	MaxPixels int64
}

// The defaults of Options.
const (
	DefaultChildTimeout = 20 * time.Second
	DefaultChildMemory  = int64(2) << 30
	DefaultMaxOutput    = int64(1) << 30
	DefaultMaxPixels    = int64(100_000_000)
)

// Reader reads pictures. It is safe for concurrent use.
type Reader struct{ options Options }

// NewReader returns a Reader with o's limits.
func NewReader(o Options) *Reader {
	if o.ChildTimeout <= 0 {
		o.ChildTimeout = DefaultChildTimeout
	}
	if o.ChildMemory <= 0 {
		o.ChildMemory = DefaultChildMemory
	}
	if o.MaxOutput <= 0 {
		o.MaxOutput = DefaultMaxOutput
	}
	if o.MaxPixels <= 0 {
		o.MaxPixels = DefaultMaxPixels
	}
	return &Reader{options: o}
}

// Picture is a grey picture as displayed.
type Picture struct {
	Width, Height int
	PixelAspect   float64 // a pixel's height by its width; 1, and 0 too, stand for square ones
	// Pixels has Width*Height values, row-major, 0…1, 0 = black as displayed (the polarity of MONOCHROME2), after rescale and VOI.
	Pixels []float32
	// Blank: nothing can be seen. max-min of Pixels is under 1/255, or their standard deviation under 0.004; padding and what a shutter covers are not counted.
	Blank  bool
	Header Header
	Steps  []Step

	giveBack func() // of Options.Reserve, nil without
}

// Header holds what the file says about its picture. Fields that the file does not have are zero.
type Header struct {
	SOPClassUID               string
	SOPInstanceUID            string // identifies a patient's picture: not for logs
	TransferSyntaxUID         string // of the file, also where a child process decoded it
	Modality                  string
	PhotometricInterpretation string
	Rows, Columns, Frames     int
	BitsStored                int
	AgeYears                  float64 // PatientAge, else StudyDate - PatientBirthDate; meaningful only when AgeKnown
	AgeKnown                  bool
	BodyPartExamined          string
}

// Step is one thing that was done to the file on the way to the picture, for people who ask why it looks as it does.
type Step struct {
	Name   string // parse, decode, aspect, shutter, rescale, luminance, voi, invert
	Detail string
	Took   time.Duration
}

// Read makes a picture of a DICOM file (with or without preamble and meta header), a PNG or a JPEG.
// Its errors are of type *Error; it never panics.
func (r *Reader) Read(ctx context.Context, file []byte) (p *Picture, err error) {
	defer func() {
		if v := recover(); v != nil {
			p, err = nil, &Error{Kind: Malformed, Reason: "the file broke the reader: " + panicText(v)}
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, interrupted(err)
	}
	switch sniff(file) {
	case formatDICOM:
		return r.readDICOM(ctx, file)
	case formatPNG, formatJPEG:
		return r.readOrdinary(ctx, file)
	default:
		return nil, failure(Malformed, "neither DICOM, PNG nor JPEG")
	}
}

// reserve takes memory for a picture, and returns what gives it back.
func (r *Reader) reserve(ctx context.Context, bytes int64) (giveBack func(), err error) {
	if r.options.Reserve == nil {
		return func() {}, nil
	}
	giveBack, err = r.options.Reserve(ctx, bytes)
	switch {
	case err == nil:
		return giveBack, nil
	case ctx.Err() != nil:
		return nil, interrupted(ctx.Err())
	default:
		return nil, &Error{Kind: TooLarge, Reason: err.Error(), Err: err}
	}
}

// panicText leaves out every panic value but those of the Go runtime: a library may panic with what it was reading.
func panicText(v any) string {
	var fault runtime.Error
	if e, ok := v.(error); ok && errors.As(e, &fault) {
		return fault.Error()
	}
	return "panic"
}

func interrupted(err error) *Error {
	return &Error{Kind: Undecodable, Reason: "interrupted before the picture was read", Err: err, Temporary: true}
}

// stopwatch collects the steps of one picture.
type stopwatch struct {
	steps []Step
	last  time.Time
}

func newStopwatch() *stopwatch { return &stopwatch{last: time.Now()} }

func (s *stopwatch) step(name, format string, args ...any) {
	now := time.Now()
	s.steps = append(s.steps, Step{Name: name, Detail: fmt.Sprintf(format, args...), Took: now.Sub(s.last)})
	s.last = now
}
