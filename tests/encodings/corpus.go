package main

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"imagingrouter/tests/orthanctest"
)

// entry is one file of the corpus, by the corpus's own index: what pydicom found in its header, "" where it found nothing.
type entry struct {
	name        string // corpus/file
	path        string
	syntax      string // UID
	photometric string
	bits        string // stored
	hasPixels   bool
}

// sharedDICOM returns the folder of real DICOM files that are no part of the repository, "" where it is not there.
func sharedDICOM() (string, error) {
	folder := os.Getenv("IMAGINGROUTER_SHARED")
	if folder == "" {
		repository, err := orthanctest.Repository()
		if err != nil {
			return "", err
		}
		folder = filepath.Join(repository, "..", "shared")
	}
	folder = filepath.Join(folder, "dicom")
	if !exists(filepath.Join(folder, "index.csv")) {
		return "", nil
	}
	return filepath.Abs(folder)
}

// The index holds what strangers wrote into their files, broken on purpose in places. Only these shapes go into a document.
var (
	plainUID  = regexp.MustCompile(`^[0-9.]{1,64}$`)
	plainCode = regexp.MustCompile(`^[A-Z0-9_ ]{1,16}$`)
	plainBits = regexp.MustCompile(`^[0-9]{1,2}$`)
)

func only(shape *regexp.Regexp, text string) string {
	if !shape.MatchString(text) {
		return ""
	}
	return text
}

func readCorpus(folder string) ([]entry, error) {
	file, err := os.Open(filepath.Join(folder, "index.csv"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // read only
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	for _, name := range []string{"file", "transfer_syntax", "photometric", "bits_stored", "has_pixel_data"} {
		if _, ok := column[name]; !ok {
			return nil, fmt.Errorf("read %s: no column %s", file.Name(), name)
		}
	}
	var entries []entry
	for _, row := range rows[1:] {
		name := row[column["file"]]
		entries = append(entries, entry{
			name: name, path: filepath.Join(folder, filepath.FromSlash(name)),
			syntax:      only(plainUID, row[column["transfer_syntax"]]),
			photometric: only(plainCode, strings.TrimSpace(row[column["photometric"]])),
			bits:        only(plainBits, row[column["bits_stored"]]),
			hasPixels:   row[column["has_pixel_data"]] == "yes",
		})
	}
	return entries, nil
}
