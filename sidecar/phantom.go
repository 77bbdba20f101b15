package main

import (
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // --picture takes both
	_ "image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/phantom"
)

// allClasses is the value of --class that stands for each of the five.
const allClasses = "all"

// phantomOrder is what the command line asks for.
type phantomOrder struct {
	class    string
	count    int
	pictures []string
	age      string
	tag      string
	cr       bool
	options  phantom.Options
}

func newPhantomCommand() *cobra.Command {
	var o phantomOrder
	cmd := &cobra.Command{
		Use:   "phantom DIR",
		Short: "Write X-ray files of nobody, for demonstrations and tests",
		Long: `Writes valid DX (or CR) files with radiograph-like shapes into DIR, each a study of its own with fresh identifiers and no patient. With
--picture it wraps PNG or JPEG pictures instead of drawing. The names of the files are printed. Existing files are never replaced.`,
		Example: `  imaging-router phantom --class spine --count 3 phantoms/
  imaging-router phantom phantoms/                      # one of each class
  imaging-router phantom --picture hand.png --bits 16 --monochrome1 phantoms/`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("phantom needs the directory to write to")
			}
			return o.check(cmd)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.write(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.class, "class", allClasses, "class to draw: abdominal, adult_chest, pediatric_chest, spine, others or all")
	flags.IntVarP(&o.count, "count", "n", 1, "files of each class, or of each picture")
	flags.StringArrayVar(&o.pictures, "picture", nil, "PNG or JPEG to wrap instead of drawing (may be given several times)")
	flags.IntVar(&o.options.Bits, "bits", phantom.DefaultBits, "bits stored: 8, 12 or 16")
	flags.BoolVar(&o.options.Monochrome1, "monochrome1", false, "store small values as bright (MONOCHROME1)")
	flags.BoolVar(&o.options.Window, "window", false, "write WindowCenter and WindowWidth")
	flags.IntVar(&o.options.Rows, "rows", phantom.DefaultSide, "rows of a drawn picture")
	flags.IntVar(&o.options.Columns, "columns", phantom.DefaultSide, "columns of a drawn picture")
	flags.Int64Var(&o.options.Seed, "seed", 1, "of the first drawing; the next ones count up")
	flags.StringVar(&o.age, "age", "", "PatientAge such as 054Y (default: one that suits the class)")
	flags.StringVar(&o.tag, "body-part-examined", "", "value of the tag BodyPartExamined (default: none)")
	flags.BoolVar(&o.cr, "cr", false, "write Computed Radiography instead of Digital X-Ray")
	return cmd
}

func (o *phantomOrder) check(cmd *cobra.Command) error {
	if o.count < 1 || o.count > 100_000 {
		return fmt.Errorf("--count must be between 1 and 100000 (got %d)", o.count)
	}
	if !slices.Contains([]int{8, 12, 16}, o.options.Bits) {
		return fmt.Errorf("--bits must be 8, 12 or 16 (got %d)", o.options.Bits)
	}
	if o.class != allClasses {
		class, err := bodypart.ParseClass(o.class)
		if err != nil {
			return fmt.Errorf("--class: %w", err)
		}
		o.class = string(class)
	} else if len(o.pictures) > 0 && cmd.Flags().Changed("class") {
		return errors.New("--class all cannot be said of a --picture")
	}
	return nil
}

func (o *phantomOrder) write(cmd *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	o.options.PatientAge, o.options.BodyPartExamined = o.age, o.tag
	if o.cr {
		o.options.SOPClass = phantom.CR
	}
	for _, source := range o.sources() {
		options := o.options
		options.Class = source.class
		if source.picture != "" {
			wrapped, err := readPicture(source.picture)
			if err != nil {
				return err
			}
			options.Picture = wrapped
		}
		for i := range o.count {
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			path := filepath.Join(dir, fmt.Sprintf("%s-%0*d.dcm", source.name, len(fmt.Sprint(o.count)), i+1))
			if err := writePhantom(path, options); err != nil {
				return err
			}
			options.Seed++
			fmt.Fprintln(cmd.OutOrStdout(), path)
		}
	}
	return nil
}

// source is what one row of files shows.
type source struct{ name, class, picture string }

func (o *phantomOrder) sources() []source {
	var list []source
	for _, path := range o.pictures {
		name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
		class := ""
		if o.class != allClasses {
			class = o.class
		}
		list = append(list, source{name: name, class: class, picture: path})
	}
	if len(list) > 0 {
		return list
	}
	for _, class := range bodypart.Classes() {
		if o.class == allClasses || o.class == string(class) {
			list = append(list, source{name: string(class), class: string(class)})
		}
	}
	return list
}

func readPicture(path string) (image.Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read picture: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	picture, _, err := image.Decode(f)
	if err != nil {
		return nil, fmt.Errorf("read picture %s: %w", path, err)
	}
	return picture, nil
}

func writePhantom(path string, o phantom.Options) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // nobody's picture, and Orthanc's account must be able to read it
	if err != nil {
		return fmt.Errorf("write phantom: %w", err)
	}
	if _, err := phantom.Write(f, o); err != nil {
		// Half a file would look like one that this program is answerable for.
		return errors.Join(fmt.Errorf("%s: %w", path, err), f.Close(), os.Remove(path))
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write phantom: %w", err)
	}
	return nil
}
