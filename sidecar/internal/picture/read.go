package picture

import (
	"bytes"
	"context"
	"encoding/binary"
	"image"
	"image/jpeg"
	"slices"
	"strings"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

func (r *Reader) readDICOM(ctx context.Context, file []byte) (*Picture, error) {
	watch := newStopwatch()
	holds := &holding{reader: r, ctx: ctx}
	defer holds.end()
	d, err := open(file, r.options.MaxOutput, holds.inflated)
	if err != nil {
		return nil, err
	}
	p := &Picture{Header: d.header()}
	format, err := d.pixelsToRead(p.Header.Frames, r.options.MaxPixels)
	if err != nil {
		return nil, err
	}
	if err := holds.pixels(d.memory(format)); err != nil {
		return nil, err
	}
	p.Header.Rows, p.Header.Columns, p.Header.BitsStored = format.rows, format.columns, format.stored
	watch.step("parse", "%s", syntaxName(d.syntax))

	raster, how, err := r.decodePixels(ctx, d, format)
	if err != nil {
		return nil, err
	}
	defer raster.release()
	watch.step("decode", "%s, %d of %d bits", how, raster.format.stored, raster.format.allocated)
	p.Width, p.Height = raster.format.columns, raster.format.rows
	var source string
	if p.PixelAspect, source = d.pixelAspect(); p.PixelAspect != 1 {
		watch.step("aspect", "%s", source)
	}
	d.hide(raster, p.PixelAspect, watch)

	g, err := d.rescale(raster, d.padding(raster.format), watch)
	if err != nil {
		return nil, err
	}
	c, detail, flat := d.chooseVOI(g, func() *grey { return d.framed(g, raster.format, p.PixelAspect) }, raster.format.signed)
	if flat { // nothing to see in either polarity: black
		p.Blank, c = true, func(float64) float64 { return 0 }
	} else {
		p.Blank = g.blank(c)
	}
	inverted := !flat && d.inverted(raster.format)
	p.Pixels = g.display(c, inverted)
	watch.step("voi", "%s", detail)
	if inverted {
		watch.step("invert", "%s", raster.format.photometric)
	}
	p.Steps = watch.steps
	p.giveBack = holds.keep()
	return p, nil
}

// inverted says whether small values are bright: MONOCHROME1, or MONOCHROME2 with Presentation LUT Shape INVERSE.
func (d *dataset) inverted(f pixelFormat) bool {
	switch f.photometric {
	case "MONOCHROME1":
		return true
	case "MONOCHROME2":
		return strings.EqualFold(d.text(presentationShape), "INVERSE")
	default:
		return false
	}
}

// pixelsToRead says what there is to decode, or why there is nothing.
func (d *dataset) pixelsToRead(frames int, maxPixels int64) (pixelFormat, error) {
	if _, ok := d.elements[pixelDataTag]; !ok {
		for _, t := range []tag.Tag{floatPixelDataTag, doublePixelDataTag, tag.PixelDataProviderURL} {
			if _, ok := d.elements[t]; ok {
				return pixelFormat{}, failure(NotAPicture, "%s instead of %s", name(t), name(pixelDataTag))
			}
		}
		return pixelFormat{}, failure(NotAPicture, "no %s", name(pixelDataTag))
	}
	if frames > 1 {
		return pixelFormat{}, failure(NotAPicture, "multi-frame: %s is %d, and only single pictures are read", name(tag.NumberOfFrames), frames)
	}
	return d.format(maxPixels)
}

// nativeSyntaxes are those whose pixel data is not encapsulated.
var nativeSyntaxes = []string{
	uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian,
}

// decodePixels returns the stored values, and says in a word or two how it came by them.
func (r *Reader) decodePixels(ctx context.Context, d *dataset, f pixelFormat) (*raster, string, error) {
	pixels := d.elements[pixelDataTag]
	padding := d.padding(f)
	if !pixels.encapsulated {
		if len(pixels.value) == 0 {
			return nil, "", failure(NotAPicture, "%s is empty", name(pixelDataTag))
		}
		wordSwapped := f.allocated == 8 && pixels.order == binary.BigEndian && pixels.vr == "OW"
		raster, err := decodeNative(f, pixels.value, pixels.order, wordSwapped, padding)
		return raster, "native", err
	}
	if slices.Contains(nativeSyntaxes, d.syntax) {
		return nil, "", failure(Malformed, "%s is encapsulated, but %s is not", name(pixelDataTag), syntaxName(d.syntax))
	}
	if len(pixels.fragments) >= maxFragments {
		return nil, "", failure(Malformed, "%s of one frame has more than %d fragments", name(pixelDataTag), maxFragments)
	}
	stream := d.stream()
	if columns, rows, ok := claimedSize(stream); ok && exceeds(columns, rows, r.options.MaxPixels) {
		return nil, "", tooManyPixels(columns, rows, r.options.MaxPixels)
	} else if ok && len(pixels.fragments) > 1 && columns*rows > int64(f.pixels()) { // which nobody has reserved
		return nil, "", failure(Malformed, "%d × %d pixels in the compressed stream, %d × %d in the header", columns, rows, f.columns, f.rows)
	}
	switch d.syntax {
	case encapsulatedLittle:
		raster, err := decodeNative(f, stream, binary.LittleEndian, false, padding)
		return raster, "native fragments", err
	case deflatedImageFrame:
		inflated, err := inflate(stream, f.bytes()+1, free)
		if err != nil {
			return nil, "", err
		}
		raster, err := decodeNative(f, inflated, binary.LittleEndian, false, padding)
		return raster, "inflated", err
	case rleLossless:
		raster, err := decodeRLE(f, stream, padding)
		return raster, "RLE", err
	}
	if d.isJPEG() { // whichever it is by name: some say lossless and hold a baseline one
		raster, err := r.decodeJPEG(f, stream)
		if raster != nil || err != nil {
			return raster, "JPEG baseline", err
		}
	}
	return r.decodeElsewhere(ctx, d, f)
}

// decodeJPEG decodes an 8-bit JPEG in Go. It returns neither raster nor error where Go's decoder cannot, so that another one may try.
func (r *Reader) decodeJPEG(f pixelFormat, stream []byte) (*raster, error) {
	config, err := jpeg.DecodeConfig(bytes.NewReader(stream))
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // the comment says why
	}
	if config.Width <= 0 || config.Height <= 0 {
		return nil, failure(Malformed, "JPEG of %d × %d pixels", config.Width, config.Height)
	}
	if columns, rows := int64(config.Width), int64(config.Height); exceeds(columns, rows, r.options.MaxPixels) {
		return nil, tooManyPixels(columns, rows, r.options.MaxPixels)
	}
	img, err := jpeg.Decode(bytes.NewReader(stream))
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // as above
	}
	f.rows, f.columns, f.allocated, f.stored, f.shift, f.signed = config.Height, config.Width, 8, 8, 0, false
	levels := ordinaryLevels(img)
	if strings.HasPrefix(f.photometric, "MONOCHROME") && f.samples == 1 {
		codes := newCodes(f.pixels())
		for i := range codes {
			codes[i] = uint16(levels.at(i)*255 + 0.5)
		}
		return &raster{format: f, codes: codes}, nil
	}
	if f.samples == 1 {
		return nil, failure(Malformed, "%s goes with no JPEG", name(tag.PhotometricInterpretation))
	}
	values := make([]float32, f.pixels())
	if rgb := storedRGB(f, img, stream); rgb != nil {
		for i := range values {
			o := i/f.columns*rgb.YStride + i%f.columns
			values[i] = luminance(float32(rgb.Y[o]), float32(rgb.Cb[o]), float32(rgb.Cr[o]))
		}
		return &raster{format: f, values: values}, nil
	}
	for i := range values {
		values[i] = levels.at(i) * 255
	}
	return &raster{format: f, values: values}, nil
}

// storedRGB returns the components of a JPEG that holds RGB as the header says, though no marker in the JPEG does: Go takes every
// three components without a marker for YCbCr.
func storedRGB(f pixelFormat, img image.Image, stream []byte) *image.YCbCr {
	m, ok := img.(*image.YCbCr)
	if !ok || f.photometric != "RGB" || m.SubsampleRatio != image.YCbCrSubsampleRatio444 {
		return nil
	}
	if head := stream[:min(len(stream), 4096)]; bytes.Contains(head, []byte("\xFF\xEE\x00\x0EAdobe")) {
		return nil
	}
	return m
}
