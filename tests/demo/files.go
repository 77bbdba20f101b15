package main

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"image/jpeg"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"imagingrouter/sidecar/phantom"
)

// file is one DICOM file and all that becomes known of it.
type file struct {
	path     string
	name     string // as the table shows it
	expected string // class, "" when nobody knows

	sopInstanceUID, sopClass, sopClassName string
	notSent                                string // why

	study   string // Orthanc's identifier of its study
	id      string // Orthanc's, "" when it is not in the archive
	state   string // the router's record
	reason  string
	stored  time.Time // its file in the archive's storage
	done    time.Time // labelled, by the router's record
	result  *result
	labels  []string // of its study
	tag     string   // BodyPartExamined
	arrived []string // destinations that hold it
}

// xray says whether the router has to look at it.
func (f *file) xray() bool { return f.notSent == "" && xrays[f.sopClass] }

// picture says whether there was something to look at: an X-ray object without pixels, or with many frames, has none.
func (f *file) picture() bool { return f.xray() && !strings.HasPrefix(f.reason, "not_a_picture") }

// The classes in the order of the paper, and what a careful technician would write into BodyPartExamined.
var classes = []struct{ name, tag, wrongTag string }{
	{"abdominal", "ABDOMEN", "CHEST"},
	{"adult_chest", "CHEST", "ABDOMEN"},
	{"pediatric_chest", "CHEST", "ABDOMEN"},
	{"spine", "LSPINE", "CHEST"},
	{"others", "HAND", "CHEST"},
}

// shapes are the kinds of file in which X-rays come; the pictures of a class take them in turn. The tag is right, absent, wrong, absent:
// in real archives too it is not to be relied on, and the router does not.
var shapes = []struct {
	bits        int
	monochrome1 bool
	window      bool
	tag         int // 0 none, 1 right, 2 wrong
}{
	{12, false, true, 1}, {12, true, false, 0}, {16, false, false, 2}, {16, true, true, 0},
}

// shaped returns the options of the i-th file of a class, and its name.
func shaped(class, tag, wrongTag string, i int) (phantom.Options, string) {
	shape := shapes[i%len(shapes)]
	polarity := 2
	if shape.monochrome1 {
		polarity = 1
	}
	o := phantom.Options{Class: class, Bits: shape.bits, Monochrome1: shape.monochrome1, Window: shape.window}
	o.BodyPartExamined = []string{"", tag, wrongTag}[shape.tag]
	return o, fmt.Sprintf("%s-%d-%dbit-m%d.dcm", class, i+1, shape.bits, polarity)
}

// ourFiles writes real X-rays of the test split where the machine has them, else drawings.
func ourFiles(repository, dir string, each int, drawingsOnly bool) (files []*file, words string, drawn bool, err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, "", false, err
	}
	shared := os.Getenv("IMAGINGROUTER_SHARED")
	if shared == "" {
		shared = filepath.Join(repository, "..", "shared")
	}
	var pictures map[string][]picture
	if !drawingsOnly {
		if pictures, err = testSplit(filepath.Join(shared, "data")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, "", false, err
		}
	}
	for _, class := range classes {
		for i := range each {
			options, name := shaped(class.name, class.tag, class.wrongTag, i)
			options.Seed = int64(i + 1)
			if all := pictures[class.name]; len(all) > 0 {
				if err := useReal(&options, all[(2*i+1)*len(all)/(2*each)]); err != nil {
					return nil, "", false, err
				}
			}
			f := &file{path: filepath.Join(dir, name), name: name, expected: class.name}
			if err := write(f.path, options); err != nil {
				return nil, "", false, err
			}
			files = append(files, f)
		}
	}
	if pictures != nil {
		return files, fmt.Sprintf("%d real X-rays that the network was not trained on", len(files)), false, nil
	}
	return files, fmt.Sprintf("%d drawings (the network has never seen drawings and may disagree; where real X-rays are, it sends those)", len(files)), true, nil
}

func write(path string, o phantom.Options) error {
	w, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = phantom.Write(w, o)
	return errors.Join(err, w.Close())
}

// picture is one row of the list of real X-rays.
type picture struct {
	path string
	age  string // years, "" when nobody knows
}

// testSplit returns the pictures that no network was trained or tuned on, by class, in the order of their names.
func testSplit(data string) (map[string][]picture, error) {
	list, err := os.Open(filepath.Join(data, "manifest.csv")) //nolint:gosec // the folder that the user of this machine names
	if err != nil {
		return nil, err
	}
	defer func() { _ = list.Close() }() // read only
	rows := csv.NewReader(list)
	head, err := rows.Read()
	if err != nil {
		return nil, fmt.Errorf("read the list of X-rays: %w", err)
	}
	column := map[string]int{}
	for i, name := range head {
		column[name] = i
	}
	for _, name := range []string{"file", "class", "split", "age"} {
		if _, ok := column[name]; !ok {
			return nil, fmt.Errorf("the list of X-rays has no column %q", name)
		}
	}
	out := map[string][]picture{}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the list of X-rays: %w", err)
		}
		if row[column["split"]] == "test" {
			class := row[column["class"]]
			out[class] = append(out[class], picture{filepath.Join(data, row[column["file"]]), row[column["age"]]})
		}
	}
	for _, all := range out {
		slices.SortFunc(all, func(a, b picture) int { return cmp.Compare(a.path, b.path) })
	}
	return out, nil
}

func useReal(o *phantom.Options, p picture) error {
	r, err := os.Open(p.path)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // read only
	if o.Picture, err = jpeg.Decode(r); err != nil {
		return fmt.Errorf("read %s: %w", p.path, err)
	}
	if years, err := strconv.ParseFloat(p.age, 64); err == nil && years >= 0 && years < 1000 {
		o.PatientAge = fmt.Sprintf("%03dY", int(years))
	}
	return nil
}

// ownFiles lists the user's files: each argument is a file or a folder with all that is in it.
func ownFiles(arguments []string) (files []*file, words string, err error) {
	for _, argument := range arguments {
		err := filepath.WalkDir(argument, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			name, err := filepath.Rel(argument, path)
			if err != nil || name == "." {
				name = filepath.Base(path)
			}
			absolute, err := filepath.Abs(path)
			if err != nil {
				return err
			}
			files = append(files, &file{path: absolute, name: name})
			return nil
		})
		if err != nil {
			return nil, "", err
		}
	}
	if len(files) == 0 {
		return nil, "", fmt.Errorf("there is no file in %v", arguments)
	}
	return files, fmt.Sprintf("%d files of yours", len(files)), nil
}
