// Command report turns the output of `go test -json` into a page that a person reads: a line for each package, everything about a
// test that failed, and at the end what was skipped and why. It knows the events of test2json and nothing of the tests.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is one line of test2json (`go doc test2json`).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// slow is from how many seconds on a passing test is worth a line.
const slow = 5.0

func main() {
	if !report(os.Stdin, os.Stdout) {
		os.Exit(1)
	}
}

// page is what has been read so far. A test's output is kept until it is known whether anybody wants to see it.
type page struct {
	w       io.Writer
	output  map[string][]string // by package and test
	tests   map[string]int      // passed tests by package
	skipped []string
	good    bool
	began   bool
}

// report returns whether everything passed.
func report(r io.Reader, w io.Writer) bool {
	p := page{w: w, output: map[string][]string{}, tests: map[string]int{}, good: true}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20) // a line of a log may be long
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil { // what go itself says is no JSON
			fmt.Fprintln(w, lines.Text())
			continue
		}
		p.take(e)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(w, "report: read go test's output:", err)
		return false
	}
	if !p.began {
		fmt.Fprintln(w, "report: go test ran nothing")
		return false
	}
	if len(p.skipped) > 0 {
		fmt.Fprintf(w, "%d skipped:\n", len(p.skipped))
		for _, line := range p.skipped {
			fmt.Fprintln(w, "  "+line)
		}
	}
	return p.good
}

func (p *page) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "start":
		p.began = true
	case "output":
		p.output[key] = append(p.output[key], e.Output)
	case "build-output":
		fmt.Fprint(p.w, e.Output)
	case "build-fail":
		p.good, p.began = false, true
	case "pass", "skip", "fail":
		if e.Test == "" {
			p.endPackage(e)
		} else {
			p.endTest(e)
		}
		delete(p.output, key)
	}
}

func (p *page) endTest(e event) {
	output := p.output[e.Package+" "+e.Test]
	switch e.Action {
	case "pass":
		p.tests[e.Package]++
		if e.Elapsed >= slow { // so that one sees it move
			fmt.Fprintf(p.w, "        %s %s  %.1f s\n", short(e.Package), e.Test, e.Elapsed)
		}
	case "skip":
		p.skipped = append(p.skipped, short(e.Package)+" "+e.Test+": "+reason(output))
	case "fail":
		p.good = false
		fmt.Fprintf(p.w, "\n%s %s\n%s", short(e.Package), e.Test, strings.Join(output, ""))
	}
}

func (p *page) endPackage(e event) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(p.w, "ok      %-40s %4d tests  %6.1f s\n", short(e.Package), p.tests[e.Package], e.Elapsed)
	case "skip":
		fmt.Fprintf(p.w, "-       %-40s no tests\n", short(e.Package))
	case "fail":
		p.good = false
		fmt.Fprintf(p.w, "%sFAILED  %s after %.1f s\n", strings.Join(p.output[e.Package+" "], ""), short(e.Package), e.Elapsed)
	}
}

// reason returns why a test was skipped: its last line that is none of go test's own.
func reason(output []string) string {
	why := "no reason given"
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if _, after, found := strings.Cut(line, ".go:"); found {
			_, line, _ = strings.Cut(after, ": ")
		}
		why = line
	}
	return why
}

func short(pkg string) string { return strings.TrimPrefix(pkg, "imagingrouter/") }
