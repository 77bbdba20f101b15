package picture

import (
	"bytes"
	"fmt"
	"testing"

	"imagingrouter/sidecar/phantom"
)

// BenchmarkDX measures one plate without a window (so that the percentiles count) on the way to a tensor of 160 pixels: finding the
// elements, the whole of Read, the tensor, and all of it.
func BenchmarkDX(b *testing.B) {
	for _, side := range [][2]int{{2048, 2048}, {3000, 2500}} {
		var file bytes.Buffer
		if _, err := phantom.Write(&file, phantom.Options{Class: "adult_chest", Rows: side[0], Columns: side[1]}); err != nil {
			b.Fatal(err)
		}
		name := fmt.Sprintf("%dx%d", side[1], side[0])
		reader := NewReader(Options{})
		spec := Spec{Size: 160, Normalisation: PerImage}
		picture, err := reader.Read(b.Context(), file.Bytes())
		if err != nil {
			b.Fatal(err)
		}
		run := func(stage string, do func() error) {
			b.Run(name+"/"+stage, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := do(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("parse", func() error {
			d, err := open(file.Bytes(), DefaultMaxOutput, free)
			if err == nil {
				_, err = d.pixelsToRead(d.header().Frames, DefaultMaxPixels)
			}
			return err
		})
		run("picture", func() error {
			p, err := reader.Read(b.Context(), file.Bytes())
			if err == nil {
				p.Release()
			}
			return err
		})
		run("tensor", func() error { picture.Tensor(spec); return nil })
		run("all", func() error {
			p, err := reader.Read(b.Context(), file.Bytes())
			if err == nil {
				p.Tensor(spec)
				p.Release()
			}
			return err
		})
	}
}
