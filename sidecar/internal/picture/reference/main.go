// Command reference reads pictures as the router does and writes down what it saw, for tests/encodings to compare with what others see.
// It is no part of the router.
//
//	reference OUT < list of files, one path a line
//	reference --decoders
//
// For the n-th file it writes one line of JSON to standard output and, where there is a picture, its pixels to OUT/n.f32.
// --decoders names the programs that decode what Go cannot, each with what it says of its version.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"imagingrouter/sidecar/internal/picture"
)

// line is what is said of one file.
type line struct {
	N      int            `json:"n"`
	Kind   string         `json:"kind,omitempty"` // of the refusal
	Reason string         `json:"reason,omitempty"`
	Width  int            `json:"width,omitempty"`
	Height int            `json:"height,omitempty"`
	Blank  bool           `json:"blank,omitempty"`
	Steps  []picture.Step `json:"steps,omitempty"`
}

// patience is what a decoder may take: a busy machine must not look like a picture that cannot be decoded.
const patience = 5 * time.Minute

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	if len(arguments) != 1 {
		return errors.New("usage: reference OUT < list of files, or reference --decoders")
	}
	reader := picture.NewReader(picture.Options{ChildTimeout: patience})
	if arguments[0] == "--decoders" {
		for _, d := range reader.Decoders(ctx) {
			if d.Err != nil {
				return d.Err
			}
			fmt.Println(d.Name, d.Version)
		}
		return nil
	}
	out := json.NewEncoder(os.Stdout)
	paths := bufio.NewScanner(os.Stdin)
	for n := 0; paths.Scan(); n++ {
		file, err := os.ReadFile(paths.Text())
		if err != nil {
			return err
		}
		l, err := look(ctx, reader, file, filepath.Join(arguments[0], strconv.Itoa(n)+".f32"))
		if err != nil {
			return err
		}
		l.N = n
		if err := out.Encode(l); err != nil {
			return err
		}
	}
	return paths.Err()
}

// look reads one file, and writes its pixels to target where it is a picture.
func look(ctx context.Context, reader *picture.Reader, file []byte, target string) (line, error) {
	p, err := reader.Read(ctx, file)
	var refused *picture.Error
	switch {
	case errors.As(err, &refused):
		return line{Kind: string(refused.Kind), Reason: refused.Reason}, nil
	case err != nil:
		return line{}, err
	}
	defer p.Release()
	b := make([]byte, 0, 4*len(p.Pixels))
	for _, y := range p.Pixels {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(y))
	}
	l := line{Width: p.Width, Height: p.Height, Blank: p.Blank, Steps: p.Steps}
	return l, os.WriteFile(target, b, 0o600) //nolint:gosec // a number in the folder that the caller names
}
