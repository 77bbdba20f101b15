package faults

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// storiesTold is of how many instances a failure tells the story.
const storiesTold = 3

func linesWith(text string, words ...string) []string {
	var out []string
	for line := range strings.Lines(text) {
		for _, word := range words {
			if word != "" && strings.Contains(line, word) {
				out = append(out, strings.TrimRight(line, "\n"))
				break
			}
		}
	}
	return out
}

// history tells the faults of the seed, with their times.
func (w *world) history() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out strings.Builder
	faults := slices.SortedStableFunc(slices.Values(w.faults), func(a, b *fault) int { return a.from.Compare(b.from) })
	for _, f := range faults {
		if f.from.IsZero() {
			fmt.Fprintf(&out, "  (did not begin)                  %s\n", f.name)
			continue
		}
		to := "…"
		if !f.to.IsZero() {
			to = clock(f.to)
		}
		fmt.Fprintf(&out, "  %s – %-13s  %s", clock(f.from), to, f.name)
		for _, note := range f.notes {
			fmt.Fprintf(&out, "; %s", note)
		}
		out.WriteString("\n")
	}
	return out.String()
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// stories tells what is known of the first instances that findings are about.
func (w *world) stories(found findings) string {
	var out strings.Builder
	told := map[*instance]bool{}
	for _, one := range found {
		if one.about == nil || told[one.about] || len(told) == storiesTold {
			continue
		}
		told[one.about] = true
		w.story(&out, one.about)
	}
	return out.String()
}

func (w *world) story(out *strings.Builder, i *instance) {
	fmt.Fprintf(out, "\n---- %s, %s, SOP Instance UID %s, C-STORE: %t\n", i.name, i.id, i.sop, i.dicom)
	for n, c := range i.contents {
		fmt.Fprintf(out, "  content %d, %s, SHA-256 %s…, tried from %s, stored", n+1, c.said, c.sha256[:12], clock(c.begun))
		for _, t := range c.accepted {
			fmt.Fprintf(out, " %s", clock(t))
		}
		out.WriteString("\n")
	}
	if i.id != "" {
		fmt.Fprintf(out, "  imaging-router jobs show:\n%s", indented(w.router.Show(w.ctx, i.id)))
	}
	jobs := []string{i.id}
	for _, s := range w.front.shipments() {
		if s.of(i, s.peer) {
			jobs = append(jobs, s.job)
			fmt.Fprintf(out, "  job %s to %s: submitted %s, its end known %s, success %t\n", s.job, s.peer, clock(s.from), clock(s.until), s.success)
		}
	}
	for name, d := range w.destinations {
		for _, p := range d.proxy.Posts() {
			if p.SOPInstanceUID == i.sop {
				fmt.Fprintf(out, "  %s  POST to %s, SHA-256 %s…, answered %d\n", clock(p.At), name, p.SHA256[:12], p.Status)
			}
		}
	}
	out.WriteString("  the router's log:\n" + indented(strings.Join(linesWith(w.router.Log(), jobs...), "\n")))
	out.WriteString("  the router's requests:\n")
	for _, e := range w.front.exchanges() {
		text := e.URI + string(e.Sent)
		for _, id := range jobs {
			if id != "" && strings.Contains(text, id) {
				fmt.Fprintf(out, "    %s – %s  %d  %s %s %s  %s\n", clock(e.At), clock(e.Done), e.Status, e.Method, e.URI, e.Sent, e.Effect)
				break
			}
		}
	}
}

func indented(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString("    " + line)
	}
	if !strings.HasSuffix(text, "\n") {
		out.WriteString("\n")
	}
	return out.String()
}
