package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"image/png"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"imagingrouter/tests/orthanctest"
)

// Tolerances against Orthanc's /rendered, which has 256 grey levels and takes every window for LINEAR_EXACT: its upper end lies one unit of
// the rescaled value higher than that of LINEAR (PS3.3, C.11.2.1.2).
const (
	renderedGrey = 1.0 // mean, in grey levels; more by what one unit of value, or one stored level of a lossy picture, is worth
	leastRank    = 0.99
	leastAlike   = 0.999
)

// againstOrthanc has one Orthanc render every file that the router and pydicom have a picture of, one after the other: many files of the
// corpora share their identifiers.
func (b *bench) againstOrthanc(ctx context.Context, line string) error {
	folder := filepath.Join(b.folder, "orthanc-"+line)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	server, err := orthanctest.Start(ctx, orthanctest.Config{Version: line, Dir: folder, Extra: map[string]any{"OverwriteInstances": true}})
	if err != nil {
		return err
	}
	defer func() { _ = server.Kill() }() // nothing in it is needed any more
	for _, r := range b.results {
		if r.orthanc[line], err = b.render(ctx, server, r); err != nil {
			return fmt.Errorf("%s in Orthanc %s: %w", r.name, server.Version, err)
		}
	}
	return nil
}

// render compares one file. An error is about Orthanc or this machine, never about the file.
func (b *bench) render(ctx context.Context, server *orthanctest.Server, r *result) (verdict, error) {
	e, ok := r.display()
	if !ok {
		return verdict{outcome: unasked}, nil
	}
	file, err := os.ReadFile(r.path)
	if err != nil {
		return verdict{}, err
	}
	status, answer, err := server.Do(ctx, http.MethodPost, "/instances", file)
	if err != nil {
		return verdict{}, err
	}
	if status != http.StatusOK {
		return verdict{outcome: unreadable, detail: fmt.Sprintf("not stored: HTTP %d", status)}, nil
	}
	var stored struct{ ID string }
	if err := json.Unmarshal(answer, &stored); err != nil {
		return verdict{}, err
	}
	status, answer, err = server.Do(ctx, http.MethodGet, "/instances/"+stored.ID+"/rendered"+e.window(), nil)
	if err != nil {
		return verdict{}, err
	}
	if _, _, err := server.Do(ctx, http.MethodDelete, "/instances/"+stored.ID, nil); err != nil {
		return verdict{}, err
	}
	if status != http.StatusOK {
		return verdict{outcome: unreadable, detail: fmt.Sprintf("not rendered: HTTP %d", status)}, nil
	}
	picture, err := png.Decode(bytes.NewReader(answer))
	if err != nil {
		return verdict{}, err
	}
	here, shown, err := b.pixels(r, e)
	if err != nil {
		return verdict{}, err
	}
	size := picture.Bounds().Size()
	if size.X != r.ours.Width || size.Y != r.ours.Height {
		return verdict{outcome: different, detail: fmt.Sprintf("%d × %d pixels, Orthanc has %d × %d", r.ours.Width, r.ours.Height, size.X, size.Y)}, nil
	}
	var ours, theirs []float64
	for i, y := range here {
		if shown[i] {
			ours = append(ours, y)
			theirs = append(theirs, level(picture.At(picture.Bounds().Min.X+i%size.X, picture.Bounds().Min.Y+i/size.X)))
		}
	}
	return judgeRendered(e, ours, theirs), nil
}

// display says how the picture came to be displayed, by the reference or, where that cannot read the file and its own window was taken, by
// the router. ok is false where there is no picture or nothing to see.
func (r *result) display() (e expected, ok bool) {
	if r.ours.Kind != "" || r.ours.Blank {
		return e, false
	}
	if r.expected.Error == "" {
		return r.expected, true
	}
	var center, width float64
	for _, step := range r.ours.Steps {
		if step.Name != "voi" {
			continue
		}
		if n, _ := fmt.Sscanf(step.Detail, "window %g/%g", &center, &width); n == 2 && step.Detail == fmt.Sprintf("window %g/%g", center, width) {
			return expected{Window: "window", Gain: 1 / max(width-1, 1), Level: 1}, true
		}
	}
	return e, false
}

// pixels returns the router's picture in grey levels of 255, and which of its pixels to compare: padding is black here, and there whatever
// the window makes of it; overlays in unused bits are left out here, and shown there. Of colour it is the luminance before the ramp, since
// Orthanc puts no window on colour.
func (b *bench) pixels(r *result, e expected) (levels []float64, shown []bool, err error) {
	scale, offset, file := 255.0, 0.0, b.path("ours", r.n, "f32")
	if e.Colour {
		if r.values == nil || r.values.Kind != "" {
			return nil, nil, errors.New("no values")
		}
		unit := math.Pow(2, float64(e.Depth-8))
		scale, offset, file = (e.Span[1]-e.Span[0])/unit, e.Span[0]/unit, b.path("values", r.values.N, "f32")
	}
	ours, err := floats(file)
	if err != nil {
		return nil, nil, err
	}
	levels, shown = make([]float64, len(ours)), make([]bool, len(ours))
	for i, y := range ours {
		levels[i], shown[i] = float64(y)*scale+offset, true
	}
	if r.expected.Error != "" {
		return levels, shown, nil
	}
	values, err := floats(b.path("expected", r.n, "values.f32"))
	if err != nil {
		return nil, nil, err
	}
	for i, x := range values {
		shown[i] = x == x
	}
	for _, i := range e.Overlaid {
		shown[i] = false
	}
	return levels, shown, nil
}

// window asks Orthanc for the ramp that the router takes where the file has no usable window; else Orthanc takes the file's own.
func (e expected) window() string {
	if len(e.Ramp) != 2 || e.Colour {
		return ""
	}
	center, width := (e.Ramp[0]+e.Ramp[1])/2, e.Ramp[1]-e.Ramp[0]
	number := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	return "?" + url.Values{"window-center": {number(center)}, "window-width": {number(width)}}.Encode()
}

// byRank says why Orthanc's grey levels cannot be the router's, so that only their order is compared; "" where they can.
func (e expected) byRank() string {
	switch {
	case e.Window == "VOI LUT":
		return "Orthanc knows no VOI LUT"
	case e.ModalityLUT:
		return "Orthanc knows no Modality LUT"
	case e.Function == "SIGMOID":
		return "Orthanc takes SIGMOID for LINEAR"
	default:
		return ""
	}
}

func judgeRendered(e expected, ours, theirs []float64) verdict {
	v := verdict{outcome: same, detail: e.byRank()}
	if v.detail != "" {
		if c := correlation(ranks(ours), ranks(theirs)); !(c >= leastRank) {
			v.outcome, v.detail = different, fmt.Sprintf("%s; rank correlation %.4f", v.detail, c)
		}
		return v
	}
	for i := range ours {
		d := math.Abs(ours[i] - theirs[i])
		v.shown, v.mean = max(v.shown, d), v.mean+d/float64(len(ours))
	}
	allowed := renderedGrey
	if !e.Colour {
		allowed += 255 * e.Gain * max(1, e.Level)
	}
	// A picture of few grey levels correlates badly for its rounding alone.
	if c := correlation(ours, theirs); !(v.mean <= allowed && (c >= leastAlike || v.shown <= 2*allowed)) {
		v.outcome, v.detail = different, fmt.Sprintf("correlation %.5f", c)
	}
	return v
}

// level returns a pixel of Orthanc's in grey levels of 255.
func level(c color.Color) float64 {
	red, green, blue, _ := c.RGBA()
	return (0.299*float64(red) + 0.587*float64(green) + 0.114*float64(blue)) / 257
}
