// Package rules decides by CEL expressions where a result is forwarded. It knows results, the facts that it is lent, and the names of
// destinations; it neither sends anything nor reads files.
package rules

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"cel.dev/cel-go/cel"
)

// Rule is one entry of the configuration's list "rules".
type Rule struct {
	Name     string   `yaml:"name"`     // unique; recorded with every delivery that the rule caused
	When     string   `yaml:"when"`     // a CEL expression of type bool over the variables of Context
	To       []string `yaml:"to"`       // names of destinations
	Priority Priority `yaml:"priority"` // of the deliveries in their destination's queue; "" is what the picture's own tags say, else normal
	Schedule Schedule `yaml:"schedule"` // when the deliveries may go; the zero value is always
	Stop     bool     `yaml:"stop"`     // when it matches, no later rule is looked at
	Fallback bool     `yaml:"fallback"` // looked at last, and only when no other rule matched
	Copies   bool     `yaml:"copies"`   // it may match what Orthanc's modify and anonymise made

	Level      Level         `yaml:"level"`        // what is sent: "" is the instance
	WaitAtMost time.Duration `yaml:"wait_at_most"` // of level series and study: how long to wait until it is complete; 0 is DefaultWait
	OnTimeout  OnTimeout     `yaml:"on_timeout"`   // of level series and study: what then; "" is to send
	OnReview   OnReview      `yaml:"on_review"`    // of level series and study: what becomes of one with a result under review; "" is to hold
}

// Level is what a rule sends.
type Level string

// The levels. A rule of level series or study decides when that is complete: nothing comes any more, and every instance is classified.
const (
	LevelInstance Level = "instance"
	LevelSeries   Level = "series"
	LevelStudy    Level = "study"
)

func (l Level) orInstance() Level {
	if l == "" {
		return LevelInstance
	}
	return l
}

// OnTimeout is what becomes of a series or study that is not complete after the longest wait.
type OnTimeout string

// The choices.
const (
	TimeoutSend OnTimeout = "send" // what is there goes; what comes later follows
	TimeoutHold OnTimeout = "hold" // it waits for a person, or until it is complete after all
)

// OnReview is what becomes of a series or study in which a result is under review.
type OnReview string

// The choices.
const (
	ReviewHold OnReview = "hold" // it waits for the review
	ReviewSend OnReview = "send" // it goes all the same, when the rule matches one of its other results
	ReviewSkip OnReview = "skip" // it is not sent
)

// DefaultWait is how long a rule waits for a series or study that says nothing else.
const DefaultWait = time.Hour

// Priority orders the deliveries within one destination's queue.
type Priority string

// The priorities. Within each, the oldest goes first.
const (
	High   Priority = "high"
	Normal Priority = "normal"
	Low    Priority = "low"
)

// Match is a rule that fired, with the destinations that no earlier rule had named.
type Match struct {
	Rule         string
	Destinations []string
	Priority     Priority  // "" where the rule leaves it to the picture's own tags
	NotBefore    time.Time // when the rule's schedule opens; zero when it is open
}

// Verdict explains one rule's decision about one result.
type Verdict struct {
	Rule         string    `json:"rule"`
	Level        Level     `json:"level"`
	Matched      bool      `json:"matched"`
	Passed       bool      `json:"passed,omitempty"`       // not looked at: an earlier rule had the last word, or it is a fallback
	Undecided    bool      `json:"undecided,omitempty"`    // the expression failed on this picture's values: counts as no match
	Destinations []string  `json:"destinations,omitempty"` // what this rule added; empty when earlier rules named all of them
	Priority     Priority  `json:"priority,omitempty"`     // of a rule that matched
	NotBefore    time.Time `json:"not_before,omitzero"`    // of a rule that matched outside its schedule
	Why          string    `json:"why"`                    // the expression with the values it saw
}

// Set is a compiled list of rules. The zero value and nil hold no rule. A Set is safe for concurrent use.
type Set struct{ rules []compiled }

type compiled struct {
	Rule
	schedule *window // nil: always
	program  cel.Program
	mention  map[string]bool // the variables that the expression names
	tags     []string        // the DICOM keywords that it names
}

// Current is the set that is in force, for a program that exchanges it while it runs. The zero value holds no rule.
type Current struct{ set atomic.Pointer[Set] }

// NewCurrent returns a Current with a set in force.
func NewCurrent(s *Set) *Current {
	c := &Current{}
	c.Use(s)
	return c
}

// Set returns the set in force; whoever decides about a result takes it once.
func (c *Current) Set() *Set { return c.set.Load() }

// Use puts another set in force.
func (c *Current) Use(s *Set) { c.set.Store(s) }

// Rules returns the rules in their order.
func (s *Set) Rules() []Rule {
	if s == nil {
		return nil
	}
	list := make([]Rule, 0, len(s.rules))
	for _, r := range s.rules {
		r.To = slices.Clone(r.To)
		r.Schedule.Days = slices.Clone(r.Schedule.Days)
		list = append(list, r.Rule)
	}
	return list
}

// Len returns the number of rules.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.rules)
}

// Whole is a rule that sends a series or study as one.
type Whole struct {
	Rule
	// MayChange says that the verdict about an instance can differ when the study is complete: the expression asks about the study.
	MayChange bool
}

// Wholes returns the rules of level series and study, with their defaults filled in.
func (s *Set) Wholes() []Whole {
	if s == nil {
		return nil
	}
	var list []Whole
	for _, r := range s.rules {
		if r.Level.orInstance() == LevelInstance {
			continue
		}
		w := Whole{Rule: r.Rule, MayChange: r.mention[varStudyClasses] || r.mention[varStudyInstances]}
		w.To = slices.Clone(r.To)
		if w.WaitAtMost == 0 {
			w.WaitAtMost = DefaultWait
		}
		if w.OnTimeout == "" {
			w.OnTimeout = TimeoutSend
		}
		if w.OnReview == "" {
			w.OnReview = ReviewHold
		}
		list = append(list, w)
	}
	return list
}

// Opens returns when a delivery that the named rule caused may go: at itself, or when the rule's schedule opens next. A rule that does
// not exist (any more) has no schedule.
func (s *Set) Opens(rule string, at time.Time) time.Time {
	if s == nil {
		return at
	}
	i := slices.IndexFunc(s.rules, func(r compiled) bool { return r.Name == rule })
	if i < 0 {
		return at
	}
	return s.rules[i].schedule.opens(at)
}

// Evaluate returns the rules that match, in the order of the list. Every rule that matches contributes its destinations, until one that
// says stop; a destination is named once, by the first rule that asked for it, and a rule that adds none is left out. Fallback rules are
// looked at when no other rule matched, and end with the first of them that does. A result under review matches no rule, unless the rule's
// expression mentions review itself. The error is that of a fact that could not be fetched: then nothing is decided.
func (s *Set) Evaluate(ctx context.Context, c Context) ([]Match, error) {
	verdicts, err := s.Explain(ctx, c)
	if err != nil {
		return nil, err
	}
	return Matches(verdicts), nil
}

// Matches returns the matches of rules that send the instance by itself. What sends its series or study waits for that.
func Matches(verdicts []Verdict) []Match {
	var matches []Match
	for _, v := range verdicts {
		if v.Matched && v.Level == LevelInstance && len(v.Destinations) > 0 {
			matches = append(matches, Match{Rule: v.Rule, Destinations: v.Destinations, Priority: v.Priority, NotBefore: v.NotBefore})
		}
	}
	return matches
}

// Explain returns one verdict for each rule, in the order of the list.
func (s *Set) Explain(ctx context.Context, c Context) ([]Verdict, error) {
	if s == nil {
		return nil, nil
	}
	if c.Now.IsZero() {
		c.Now = time.Now()
	}
	seen := newFacts(ctx, c)
	verdicts := make([]Verdict, len(s.rules))
	taken := map[Level]map[string]bool{LevelInstance: {}, LevelSeries: {}, LevelStudy: {}} // a rule that waits takes nothing from one that does not
	matched, stopped := "", ""
	for _, fallback := range []bool{false, true} {
		for i, r := range s.rules {
			if r.Fallback != fallback {
				continue
			}
			v := &verdicts[i]
			v.Rule, v.Level = r.Name, r.Level.orInstance()
			switch {
			case stopped != "":
				v.Passed, v.Why = true, fmt.Sprintf("not looked at: rule %q has the last word (stop)", stopped)
				continue
			case fallback && matched != "":
				v.Passed, v.Why = true, fmt.Sprintf("not looked at: a fallback, and rule %q matched", matched)
				continue
			}
			if err := r.decide(seen, v); err != nil {
				return nil, err
			}
			if !v.Matched {
				continue
			}
			if matched == "" {
				matched = r.Name
			}
			if r.Stop {
				stopped = r.Name
			}
			r.match(v, c.Now, taken[v.Level])
		}
	}
	return verdicts, nil
}

// match fills in what a rule that matched adds to what is taken already.
func (r compiled) match(v *Verdict, now time.Time, taken map[string]bool) {
	for _, d := range r.To {
		if !taken[d] {
			taken[d] = true
			v.Destinations = append(v.Destinations, d)
		}
	}
	if len(v.Destinations) == 0 {
		v.Why += "; earlier rules already name its destinations"
		return
	}
	v.Priority = r.Priority
	if opens := r.schedule.opens(now); opens.After(now) {
		v.NotBefore = opens
	}
}

// decide evaluates the rule's expression. Its error is that of a fact, never of the expression: a rule that cannot be decided sends
// nothing, since a picture too few is found in the archive, and one too many is not.
func (r compiled) decide(f *facts, v *Verdict) error {
	switch {
	case f.c.Review && !r.mention[varReview]:
		v.Why = "the result is under review, and the rule does not mention review"
		return nil
	case f.c.Copy && !r.Copies:
		v.Why = "a copy made by modify or anonymise, and the rule does not say copies: true"
		return nil
	}
	out, _, err := r.program.Eval(f)
	if f.err != nil {
		return fmt.Errorf("rule %q: %w", r.Name, f.err)
	}
	if err != nil {
		v.Undecided = true
		v.Why = oneLine(r.When) + " cannot be evaluated"
		if !f.c.HideTags { // the message may repeat a tag's value
			v.Why += ": " + err.Error()
		}
		return nil
	}
	v.Matched, _ = out.Value().(bool)
	v.Why = fmt.Sprintf("%s is %t%s", oneLine(r.When), v.Matched, r.seen(f))
	return nil
}

// seen lists the values of the variables that the expression names and that were known or fetched.
func (r compiled) seen(f *facts) string {
	var parts []string
	for _, name := range variableNames() {
		if r.mention[name] {
			parts = append(parts, f.show(name, r.tags)...)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func oneLine(expression string) string { return strings.Join(strings.Fields(expression), " ") }
