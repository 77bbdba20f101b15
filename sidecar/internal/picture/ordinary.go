package picture

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
)

// readOrdinary reads a PNG or a JPEG: luminance of 0…1 as it is, no window.
func (r *Reader) readOrdinary(ctx context.Context, file []byte) (*Picture, error) {
	watch := newStopwatch()
	config, format, err := image.DecodeConfig(bytes.NewReader(file))
	if err != nil {
		return nil, &Error{Kind: Malformed, Reason: "PNG or JPEG header is broken", Err: err}
	}
	if config.Width <= 0 || config.Height <= 0 {
		return nil, failure(Malformed, "%s of %d × %d pixels", format, config.Width, config.Height)
	}
	if int64(config.Width)*int64(config.Height) > r.options.MaxPixels {
		return nil, tooManyPixels(int64(config.Width), int64(config.Height), r.options.MaxPixels)
	}
	holds := &holding{reader: r, ctx: ctx}
	defer holds.end()
	if err := holds.pixels(int64(config.Width) * int64(config.Height) * ordinaryBytes); err != nil {
		return nil, err
	}
	watch.step("parse", "%s", format)
	img, _, err := image.Decode(bytes.NewReader(file))
	if err != nil {
		var jpegCannot jpeg.UnsupportedError
		var pngCannot png.UnsupportedError
		if errors.As(err, &jpegCannot) || errors.As(err, &pngCannot) {
			return nil, &Error{Kind: Undecodable, Reason: format + " of a kind that is not supported", Err: err}
		}
		return nil, &Error{Kind: Malformed, Reason: format + " is truncated or broken", Err: err}
	}
	p := &Picture{Width: config.Width, Height: config.Height, PixelAspect: 1, Pixels: newPixels(config.Width * config.Height)}
	p.Header = Header{Rows: config.Height, Columns: config.Width, Frames: 1, BitsStored: 8}
	levels := ordinaryLevels(img)
	low, high, sum, squares := math.Inf(1), math.Inf(-1), 0.0, 0.0
	for i := range p.Pixels {
		y := levels.at(i)
		p.Pixels[i] = y
		low, high = min(low, float64(y)), max(high, float64(y))
		sum += float64(y)
		squares += float64(y) * float64(y)
	}
	p.Blank = isBlank(low, high, sum, squares, len(p.Pixels))
	watch.step("decode", "%s", format)
	p.Steps = watch.steps
	p.giveBack = holds.keep()
	return p, nil
}

// luminanceLevels gives the luminance 0…1 of the i-th pixel of an ordinary picture, row-major.
type luminanceLevels struct{ at func(i int) float32 }

// ordinaryLevels knows the types that Go's decoders make of X-rays by heart and asks the others pixel by pixel. Transparency is not
// looked at.
func ordinaryLevels(img image.Image) luminanceLevels {
	bounds := img.Bounds()
	width := bounds.Dx()
	switch m := img.(type) {
	case *image.Gray:
		return luminanceLevels{func(i int) float32 { return float32(m.Pix[i/width*m.Stride+i%width]) / 255 }}
	case *image.Gray16:
		return luminanceLevels{func(i int) float32 {
			o := i/width*m.Stride + i%width*2
			return float32(uint16(m.Pix[o])<<8|uint16(m.Pix[o+1])) / 65535
		}}
	case *image.YCbCr:
		return luminanceLevels{func(i int) float32 { return float32(m.Y[i/width*m.YStride+i%width]) / 255 }}
	default:
		return luminanceLevels{func(i int) float32 {
			c := img.At(bounds.Min.X+i%width, bounds.Min.Y+i/width)
			n, _ := color.NRGBA64Model.Convert(c).(color.NRGBA64) // the model returns nothing else
			return luminance(float32(n.R), float32(n.G), float32(n.B)) / 65535
		}}
	}
}
