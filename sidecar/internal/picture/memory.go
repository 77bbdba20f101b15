package picture

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"
)

// What a pixel takes, in bytes.
const (
	greyBytes        = 6  // codes of 16 bits, and the picture
	otherBytes       = 8  // luminances, and what they are made of
	outlineBytes     = 10 // which pixels a shutter and a collimator leave, and those of other than grey pictures that are left
	jpegBytes        = 3  // Go's decoded JPEG
	progressiveBytes = 12 // coefficients that Go's decoder keeps of a progressive JPEG
	ordinaryBytes    = 24 // PNG of 16 bits and four channels, or a progressive JPEG, and the picture
	// inflatedFactor is what a deflated file is reserved of its inflated length: the copy itself, and at most 7 times as much for its
	// pixels, whose number is not known before it is there.
	inflatedFactor = 8
	// unreserved is what a picture may take beyond its reservation.
	unreserved = 64 << 20
)

// memory returns the bytes that reading the pixels takes beside the file itself.
func (d *dataset) memory(f pixelFormat) int64 {
	pixels := d.elements[pixelDataTag]
	n, each := int64(f.pixels()), int64(greyBytes)
	if f.samples == 3 || f.allocated == 32 {
		each = otherBytes
	}
	if has(d.elements, shutter.shape) || has(d.elements, collimator.shape) {
		each += outlineBytes
	}
	if !pixels.encapsulated {
		if pixels.order == binary.BigEndian { // words are swapped in a copy
			return n*each + f.bytes()
		}
		return n * each
	}
	stream := int64(0)
	for _, fragment := range pixels.fragments {
		stream += int64(len(fragment))
	}
	several := len(pixels.fragments) > 1
	if !several && len(pixels.fragments) > 0 {
		if columns, rows, ok := claimedSize(pixels.fragments[0]); ok { // it may claim more than the header
			n = max(n, columns*rows)
		}
	}
	decoded := f.decoded(n)
	if d.isJPEG() {
		decoded = max(decoded, n*jpegBytes)
		if several || bytes.Contains(pixels.fragments[0], []byte{0xFF, 0xC2}) {
			decoded += n * progressiveBytes
		}
	}
	return n*each + 2*stream + decoded // the fragments joined, or written for a child; what comes out of it
}

// decoded is the most that n decompressed pixels may take in the form of whoever has decompressed them: 32 bits a sample.
func (f pixelFormat) decoded(n int64) int64 { return n*int64(f.samples)*4 + 1<<16 }

// holding is what one picture has reserved on its way.
type holding struct {
	reader   *Reader
	ctx      context.Context
	reserved int64
	giveBack func()
}

// inflated reserves for a file that turns out to have n bytes, before they are there. It is all that such a file gets: to wait for
// more while holding some could wait for ever.
func (h *holding) inflated(n int64) error {
	h.reserved = n * inflatedFactor
	return h.take(h.reserved)
}

// pixels reserves for the pixels.
func (h *holding) pixels(n int64) error {
	switch {
	case h.giveBack == nil:
		return h.take(n)
	case h.reader.options.Reserve != nil && n > h.reserved+unreserved:
		return failure(TooLarge, "its pixels need %d bytes, %d times as much as the deflated file", n, n*inflatedFactor/max(h.reserved, 1))
	default:
		return nil
	}
}

func (h *holding) take(n int64) (err error) {
	h.giveBack, err = h.reader.reserve(h.ctx, n)
	return err
}

// keep leaves the reservation to the picture, whose Release ends it.
func (h *holding) keep() (giveBack func()) {
	giveBack, h.giveBack = h.giveBack, nil
	return giveBack
}

// end gives back what was reserved and not kept.
func (h *holding) end() {
	if h.giveBack != nil {
		h.giveBack()
	}
}

// What of an X-ray goes from one to the next. A larger buffer, or one far larger than what it would be used for, is left to the
// collector: nobody has reserved it.
const (
	pooledMost  = 1 << 24 // elements; the largest detectors have 15 million pixels
	pooledTimes = 4
)

// codeBuffers and pixelBuffers spare a picture of 3000 × 2500 pixels 45 MB of garbage, frameBuffers 15 MB of one that is compressed as RLE.
var codeBuffers, pixelBuffers, frameBuffers sync.Pool

func pooled[T byte | uint16 | float32](pool *sync.Pool, n int) []T {
	if b, ok := pool.Get().(*[]T); ok && cap(*b) >= n && (cap(*b) <= pooledTimes*n || cap(*b) < 1<<20) {
		return (*b)[:n]
	}
	return make([]T, n)
}

func giveToPool[T byte | uint16 | float32](pool *sync.Pool, b []T) {
	if cap(b) > 0 && cap(b) <= pooledMost {
		pool.Put(&b)
	}
}

func newCodes(n int) []uint16   { return pooled[uint16](&codeBuffers, n) }
func newFrame(n int) []byte     { return pooled[byte](&frameBuffers, n) }
func newPixels(n int) []float32 { return pooled[float32](&pixelBuffers, n) }

func (r *raster) release() { giveToPool(&codeBuffers, r.codes) }

// Release gives the pixels and their memory back for the next picture. It may be called once, when nothing uses the pixels any more; without
// Options.Reserve also not at all.
func (p *Picture) Release() {
	giveToPool(&pixelBuffers, p.Pixels)
	p.Pixels = nil
	if p.giveBack != nil {
		p.giveBack()
		p.giveBack = nil
	}
}
