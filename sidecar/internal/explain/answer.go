package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/rules"
	"imagingrouter/sidecar/internal/store"
)

// ServeHTTP answers GET …/instances/{id}/explain: JSON, or text with ?format=text or Accept: text/plain. It asks for no token itself.
func (e *Explainer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	id, format := r.PathValue("id"), r.URL.Query().Get("format")
	if format == "" && strings.HasPrefix(r.Header.Get("Accept"), "text/plain") {
		format = "text"
	}
	switch {
	case !orthanc.ValidID(id):
		refuse(w, http.StatusBadRequest, "not an Orthanc identifier: five groups of eight hexadecimal digits")
		return
	case format != "" && format != "json" && format != "text":
		refuse(w, http.StatusBadRequest, "unknown format (known: json, text)")
		return
	}
	story, err := e.Of(r.Context(), id)
	switch {
	case errors.Is(err, store.ErrUnknown):
		refuse(w, http.StatusNotFound, "unknown to this router: it has never heard of this instance, or has forgotten it (database.keep)")
	case err != nil:
		refuse(w, http.StatusInternalServerError, err.Error())
	case format == "text":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_ = story.Text(w) // else the client is gone
	default:
		answer(w, http.StatusOK, story)
	}
}

func refuse(w http.ResponseWriter, status int, text string) {
	answer(w, status, map[string]string{"error": text})
}

func answer(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // else the client is gone
}

// Text writes the story for people.
func (s *Story) Text(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("instance\t%s", s.Instance)
	line("series\t%s", dash(s.Series))
	line("study\t%s", dash(s.Study))
	line("state\t%s %s", s.State, s.Reason)
	if s.LastError != "" {
		line("last error\t%s", s.LastError)
	}
	a := s.Arrival
	line("received\t%s %s", clock(a.ReceivedAt), from(a))
	line("announced\t%s by %s, may be forwarded: %t", clock(a.MarkedAt), a.AnnouncedBy, a.MayForward)
	line("finished\t%s", clock(a.FinishedAt))
	if r := s.Result; r != nil {
		line("\nRESULT\t%s %.4f (threshold %.4f), review: %t %s", r.Class, r.Confidence, r.Threshold, r.Review, words(r.Reasons))
		for _, class := range bodypart.Classes() {
			line("\t%s\t%.4f\tthreshold %.4f", class, r.Probabilities[class], r.Thresholds[class])
		}
		line("BodyPartExamined\t%s", r.Tag)
		line("model\t%s, %s", r.Model, clock(r.ClassifiedAt))
		line("picture\t%s", dash(r.Picture))
	} else {
		line("\nRESULT\tnone")
	}
	line("\nLABELS\t%d", len(s.Labels))
	for _, l := range s.Labels {
		line("\t%s %s\t%s\t%s", l.Level, l.ID, l.Label, l.State)
	}
	line("\nDECISION\t%s", dash(s.Decision))
	line("forwarding\t%s", s.Forwarding)
	line("\nRULES\t%s", s.RulesNow.Note)
	if s.RulesNow.Error != "" {
		line("\t%s", s.RulesNow.Error)
	}
	for _, v := range s.RulesNow.Verdicts {
		to := ""
		if v.Matched {
			to = " → " + dash(strings.Join(v.Destinations, ", "))
			if v.Level != rules.LevelInstance {
				to += " with its whole " + string(v.Level)
			}
		}
		line("\t%s %q%s: %s", map[bool]string{true: "✓", false: "–"}[v.Matched], v.Rule, to, v.Why)
	}
	if len(s.Waits) > 0 {
		line("\nWAITS\t%d", len(s.Waits))
	}
	for _, g := range s.Waits {
		line("\t%s %s\trule %q\t%s since %s\t%s", g.Level, g.Resource, g.Rule, g.State, clock(g.Since), g.Reason)
	}
	line("\nDELIVERIES\t%d", len(s.Deliveries))
	for _, d := range s.Deliveries {
		to := d.Destination
		if d.Via != "" {
			to = d.Via + " instead of " + to
		}
		what := ""
		if d.Level != store.LevelInstance.One() {
			what = fmt.Sprintf(", %d instances of its %s", d.Instances, d.Level)
		}
		line("\t%s\tto %s by rule %q%s\t%s\t%d attempts\tOrthanc's job %s\t%s", d.ID, to, d.Rule, what, d.State, d.Attempts, dash(d.OrthancJob), when(d))
	}
	line("\nTIME\tSTAGE\tJOB\tATTEMPT\tTOOK\tWHAT")
	if s.Earlier {
		line("(earlier ones left out)")
	}
	for _, e := range s.Events {
		line("%s\t%s\t%d\t%d\t%d ms\t%s", clock(e.At), e.Stage, e.Job, e.Attempt, e.TookMS, strings.TrimSpace(e.Outcome+"  "+e.Detail))
	}
	return w.Flush()
}

func from(a Arrival) string {
	var parts []string
	for _, p := range []struct{ word, value string }{{"by", a.Origin}, {"from", a.RemoteAET}, {"to", a.CalledAET}, {"user", a.HTTPUsername}} {
		if p.value != "" {
			parts = append(parts, p.word+" "+p.value)
		}
	}
	if a.Copy {
		parts = append(parts, "a copy made by modify or anonymise")
	}
	if a.Error != "" {
		parts = append(parts, a.Error)
	}
	return strings.Join(parts, ", ")
}

func when(d Delivery) string {
	switch {
	case !d.FinishedAt.IsZero():
		return strings.TrimSpace(clock(d.FinishedAt) + " " + d.Reason)
	case d.NotBefore.After(time.Now()):
		return "not before " + clock(d.NotBefore)
	default:
		return d.LastError
	}
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05.000Z")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func words(reasons []bodypart.Reason) string {
	list := make([]string, 0, len(reasons))
	for _, r := range reasons {
		list = append(list, string(r))
	}
	return strings.Join(list, ", ")
}

func sorted(ledger map[string]store.LabelState) []string { return slices.Sorted(maps.Keys(ledger)) }
