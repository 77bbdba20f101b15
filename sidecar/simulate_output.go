package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"imagingrouter/sidecar/internal/rules"
)

// simulationWriter writes what simulate finds, and counts it.
type simulationWriter struct {
	out           io.Writer
	json, against bool

	all, failed, differ int
	studies, elsewhere  map[string]bool
	sent                map[string]int // by destination
}

func (w *simulationWriter) write(r simulationResult) error {
	if w.studies == nil {
		w.studies, w.elsewhere, w.sent = map[string]bool{}, map[string]bool{}, map[string]int{}
	}
	w.all++
	if r.Study != "" {
		w.studies[r.Study] = true
	}
	for _, to := range r.SendTo {
		w.sent[to]++
	}
	switch {
	case r.Error != "":
		w.failed++
	case r.Differs:
		w.differ++
		w.elsewhere[r.Study] = true
	case w.against:
		return nil
	}
	if w.json {
		encoder := json.NewEncoder(w.out)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(r)
	}
	return w.table(r)
}

func (w *simulationWriter) table(r simulationResult) error {
	var b strings.Builder
	name := r.Instance
	if r.File != "" {
		name = printable(r.File)
	}
	if r.Error != "" {
		fmt.Fprintf(&b, "%s  error: %s\n", name, printable(r.Error))
		_, err := io.WriteString(w.out, b.String())
		return err
	}
	review := ""
	if r.Review {
		review = ", under review"
	}
	fmt.Fprintf(&b, "%s  %s %.4f%s\n", name, r.Class, r.Confidence, review)
	if w.against {
		fmt.Fprintf(&b, "  study %s\n", r.Study)
		one(&b, "now", r.routed)
		one(&b, "then", *r.Against)
	} else {
		one(&b, "", r.routed)
	}
	_, err := io.WriteString(w.out, b.String())
	return err
}

// one writes one configuration's decision: where to, then each rule.
func one(b *strings.Builder, word string, r routed) {
	to := orDefault(strings.Join(r.SendTo, ", "), "nowhere")
	if word != "" {
		word += ": "
	}
	fmt.Fprintf(b, "  %s→ %s\n", word, to)
	for _, d := range r.NotBack {
		fmt.Fprintf(b, "    not to %s: it came from there\n", d)
	}
	for _, v := range r.Rules {
		fmt.Fprintf(b, "    %s %q%s: %s\n", map[bool]string{true: "✓", false: "–"}[v.Matched], v.Rule, turn(v), printable(v.Why))
	}
}

// turn says when and in which order a rule's deliveries would go, where that is out of the ordinary.
func turn(v rules.Verdict) string {
	var parts []string
	if v.Matched && v.Level != rules.LevelInstance {
		parts = append(parts, "the whole "+string(v.Level)+", when it is complete")
	}
	if v.Priority != "" && v.Priority != rules.Normal {
		parts = append(parts, string(v.Priority)+" priority")
	}
	if !v.NotBefore.IsZero() {
		parts = append(parts, "not before "+v.NotBefore.Format(time.RFC3339))
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func (w *simulationWriter) summary() string {
	var words []string
	for _, to := range slices.Sorted(maps.Keys(w.sent)) {
		words = append(words, fmt.Sprintf("%d to %s", w.sent[to], to))
	}
	text := fmt.Sprintf("%d instances of %d studies: %s; nothing was sent", w.all, len(w.studies), orDefault(strings.Join(words, ", "), "none would be sent"))
	if w.against {
		text = fmt.Sprintf("%d of %d studies (%d of %d instances) would have gone elsewhere; nothing was sent", len(w.elsewhere), len(w.studies), w.differ, w.all)
	}
	if w.failed > 0 {
		text += fmt.Sprintf("; %d could not be decided", w.failed)
	}
	return text
}
