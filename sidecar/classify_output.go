package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"imagingrouter/sidecar/internal/bodypart"
)

var resultFormats = []string{"table", "json", "csv"}

// fileResult is what classify says about one file. A file that could not be read has File and Error only.
type fileResult struct {
	File          string                     `json:"file"`
	Class         bodypart.Class             `json:"class,omitempty"`
	Confidence    *float64                   `json:"confidence,omitempty"`
	Review        *bool                      `json:"review,omitempty"`
	Reasons       []bodypart.Reason          `json:"reasons,omitzero"`
	Probabilities map[bodypart.Class]float64 `json:"probabilities,omitempty"`
	Model         string                     `json:"model,omitempty"`
	Error         string                     `json:"error,omitempty"`
}

func newFileResult(file, model string, p bodypart.Prediction, review bool, reasons []bodypart.Reason) fileResult {
	if reasons == nil {
		reasons = []bodypart.Reason{}
	}
	return fileResult{File: file, Class: p.Class, Confidence: &p.Confidence, Review: &review, Reasons: reasons, Probabilities: p.Probabilities, Model: model}
}

func (r fileResult) reasonText(separator string) string {
	words := make([]string, 0, len(r.Reasons))
	for _, reason := range r.Reasons {
		words = append(words, string(reason))
	}
	return strings.Join(words, separator)
}

// resultWriter writes results one by one.
type resultWriter interface {
	write(fileResult) error
	close() error
}

// newResultWriter returns the writer of one of resultFormats. The names of all files are known before the first result, so
// the columns of the table are as wide as they must be from its first line on.
func newResultWriter(format string, out io.Writer, files []string) resultWriter {
	switch format {
	case "json":
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		return jsonWriter{encoder}
	case "csv":
		return &csvWriter{csv: csv.NewWriter(out)}
	default:
		width := len("FILE")
		for _, file := range files {
			width = max(width, utf8.RuneCountInString(printable(file)))
		}
		return &tableWriter{out: out, width: width}
	}
}

type jsonWriter struct{ encoder *json.Encoder }

func (w jsonWriter) write(r fileResult) error { return w.encoder.Encode(r) }
func (w jsonWriter) close() error             { return nil }

type csvWriter struct {
	csv    *csv.Writer
	headed bool
}

func (w *csvWriter) head() error {
	if w.headed {
		return nil
	}
	w.headed = true
	columns := []string{"file", "class", "confidence", "review", "reasons"}
	for _, class := range bodypart.Classes() {
		columns = append(columns, string(class))
	}
	return w.csv.Write(append(columns, "model", "error"))
}

func (w *csvWriter) write(r fileResult) error {
	if err := w.head(); err != nil {
		return err
	}
	row := []string{r.File, string(r.Class), "", "", r.reasonText(" ")}
	if r.Error == "" {
		row[2], row[3] = strconv.FormatFloat(*r.Confidence, 'f', 6, 64), strconv.FormatBool(*r.Review)
	}
	for _, class := range bodypart.Classes() {
		probability := ""
		if r.Error == "" {
			probability = strconv.FormatFloat(r.Probabilities[class], 'f', 6, 64)
		}
		row = append(row, probability)
	}
	if err := w.csv.Write(append(row, r.Model, r.Error)); err != nil {
		return err
	}
	w.csv.Flush() // whoever reads along sees each line when it is known
	return w.csv.Error()
}

func (w *csvWriter) close() error {
	if err := w.head(); err != nil {
		return err
	}
	w.csv.Flush()
	return w.csv.Error()
}

type tableWriter struct {
	out    io.Writer
	width  int
	headed bool
}

func (w *tableWriter) write(r fileResult) error {
	if !w.headed {
		w.headed = true
		if _, err := fmt.Fprintf(w.out, "%-*s  %-15s  %-10s  %s\n", w.width, "FILE", "CLASS", "CONFIDENCE", "REVIEW"); err != nil {
			return err
		}
	}
	name := printable(r.File)
	padding := strings.Repeat(" ", w.width-utf8.RuneCountInString(name))
	if r.Error != "" {
		_, err := fmt.Fprintf(w.out, "%s%s  error: %s\n", name, padding, printable(r.Error))
		return err
	}
	review := "-"
	if *r.Review {
		review = r.reasonText(", ")
	}
	_, err := fmt.Fprintf(w.out, "%s%s  %-15s  %-10.4f  %s\n", name, padding, r.Class, *r.Confidence, review)
	return err
}

func (w *tableWriter) close() error { return nil }

// printable keeps the control characters of a file's name from the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '�'
		}
		return r
	}, s)
}
