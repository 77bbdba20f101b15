package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// printTable prints what became of each X-ray, and then of the files that were none.
func printTable(s *screen, files []*file) {
	s.say("")
	table := tabwriter.NewWriter(s.w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "FILE\tEXPECTED\tCLASS\tCONFIDENCE\tLABELS OF THE STUDY\tTAG\tFORWARDED TO\tMS")
	var others []*file
	for _, f := range files {
		if !f.picture() {
			others = append(others, f)
			continue
		}
		fmt.Fprintln(table, strings.Join(row(f), "\t"))
	}
	_ = table.Flush() // what cannot be written to the terminal cannot be reported there
	if len(others) == 0 {
		return
	}
	s.say("")
	var reasons []string
	byReason := map[string][]string{}
	for _, f := range others {
		if byReason[why(f)] == nil {
			reasons = append(reasons, why(f))
		}
		byReason[why(f)] = append(byReason[why(f)], f.name)
	}
	for _, reason := range reasons {
		names := byReason[reason]
		s.say("skipped   %d: %s", len(names), printable(reason, 160))
		s.say("          %s", printable(strings.Join(names, ", "), 160))
	}
}

const nameWidth = 40

func row(f *file) []string {
	class, confidence := orDash(f.state), "-"
	if f.result != nil {
		class, confidence = f.result.Class, fmt.Sprintf("%.4f", f.result.Confidence)
		if f.result.Review {
			class += " (review)"
		}
	}
	return []string{
		printable(f.name, nameWidth), orDash(f.expected), class, confidence, orDash(strings.Join(f.labels, ", ")), orDash(printable(f.tag, 16)),
		orDash(strings.Join(f.arrived, ", ")), milliseconds(f),
	}
}

// printable makes a stranger's text harmless for a terminal and short enough for a table.
func printable(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
	if letters := []rune(text); len(letters) > most {
		return string(letters[:most-1]) + "…"
	}
	return text
}

// latency is the time from the moment when the archive had written the file to the moment when its labels were in the archive.
func latency(f *file) (time.Duration, bool) {
	if f.stored.IsZero() || f.done.IsZero() {
		return 0, false
	}
	return f.done.Sub(f.stored), true
}

func milliseconds(f *file) string {
	d, known := latency(f)
	if !known {
		return "-"
	}
	return strconv.FormatInt(d.Milliseconds(), 10)
}

func why(f *file) string {
	if f.notSent != "" {
		return f.notSent
	}
	if f.xray() {
		return f.reason
	}
	if f.sopClassName != "" {
		return f.sopClassName + " is not X-ray"
	}
	return "SOP class " + f.sopClass + " is not X-ray"
}

func printSummary(s *screen, files []*file, failures []string) {
	var known, agreed, review, xrays, labelled, arrived int
	var times []time.Duration
	for _, f := range files {
		if !f.picture() {
			continue
		}
		xrays++
		arrived += len(f.arrived)
		if d, ok := latency(f); ok {
			times = append(times, d)
		}
		if f.result == nil {
			continue
		}
		labelled++
		if f.result.Review {
			review++
		} else if f.expected != "" {
			known++
			if f.result.Class == f.expected {
				agreed++
			}
		}
	}
	s.say("\nsummary   %d of %d X-rays labelled (%d of them for review by a person), %d deliveries", labelled, xrays, review, arrived)
	if known > 0 {
		s.say("          without review: %d of %d have the expected class", agreed, known)
	}
	if len(times) > 0 {
		slices.Sort(times)
		s.say("          MS: from the archive's file written to labels in the archive (time of the file; the router's record): median %d, slowest %d;",
			times[len(times)/2].Milliseconds(), times[len(times)-1].Milliseconds())
		s.say("          the files came in one burst: waiting in the queue is part of it")
	}
	if len(failures) == 0 {
		s.say("verified  in the Orthancs themselves: result, metadata and labels of every X-ray, and each destination holds exactly what the rules name")
		return
	}
	s.say("\n%d things are not as they should be:", len(failures))
	for _, failure := range failures {
		s.say("  %s", printable(failure, 240))
	}
}
