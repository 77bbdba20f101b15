// Package rules decides by CEL expressions where a result is forwarded. It knows results and the names of destinations; it
// neither sends anything nor reads files.
package rules

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"

	"imagingrouter/sidecar/internal/bodypart"
)

// Rule is one entry of the configuration's list "rules".
type Rule struct {
	Name string   `yaml:"name"` // unique; recorded with every delivery that the rule caused
	When string   `yaml:"when"` // a CEL expression of type bool over the variables of Context
	To   []string `yaml:"to"`   // names of destinations
}

// Context is what an expression can ask about one result. The names in parentheses are those of the expression.
type Context struct {
	Class         bodypart.Class             // (class) one of the five classes
	Confidence    float64                    // (confidence) the class's calibrated probability, 0…1
	Review        bool                       // (review) a person must look at the picture first
	Probabilities map[bodypart.Class]float64 // (probabilities) of all five classes; a class that is absent here counts as 0
}

// Match is a rule that fired, with the destinations that no earlier rule had named.
type Match struct {
	Rule         string
	Destinations []string
}

// Verdict explains one rule's decision about one result.
type Verdict struct {
	Rule         string   `json:"rule"`
	Matched      bool     `json:"matched"`
	Destinations []string `json:"destinations,omitempty"` // what this rule added; empty when earlier rules named all of them
	Why          string   `json:"why"`                    // the expression with the values it saw
}

// Set is a compiled list of rules. The zero value and nil hold no rule. A Set is safe for concurrent use.
type Set struct{ rules []compiled }

type compiled struct {
	Rule
	program cel.Program
	mention map[string]bool // the variables that the expression names
}

// Rules returns the rules in their order.
func (s *Set) Rules() []Rule {
	if s == nil {
		return nil
	}
	list := make([]Rule, 0, len(s.rules))
	for _, r := range s.rules {
		r.To = slices.Clone(r.To)
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

// Evaluate returns the rules that match, in the order of the list. Every rule that matches contributes its destinations; a
// destination is named once, by the first rule that asked for it, and a rule that adds none is left out. A result under
// review matches no rule, unless the rule's expression mentions review itself.
func (s *Set) Evaluate(c Context) []Match {
	var matches []Match
	for _, v := range s.Explain(c) {
		if v.Matched && len(v.Destinations) > 0 {
			matches = append(matches, Match{Rule: v.Rule, Destinations: v.Destinations})
		}
	}
	return matches
}

// Explain returns one verdict for each rule, in the order of the list.
func (s *Set) Explain(c Context) []Verdict {
	if s == nil {
		return nil
	}
	verdicts := make([]Verdict, 0, len(s.rules))
	taken := map[string]bool{}
	vars := c.variables()
	for _, r := range s.rules {
		v := Verdict{Rule: r.Name}
		v.Matched, v.Why = r.decide(c, vars)
		if v.Matched {
			for _, d := range r.To {
				if !taken[d] {
					taken[d] = true
					v.Destinations = append(v.Destinations, d)
				}
			}
			if len(v.Destinations) == 0 {
				v.Why += "; earlier rules already name its destinations"
			}
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

func (r compiled) decide(c Context, vars map[string]any) (matched bool, why string) {
	if c.Review && !r.mention[varReview] {
		return false, "the result is under review, and the rule does not mention review"
	}
	out, _, err := r.program.Eval(vars)
	if err != nil {
		// A rule that cannot be decided sends nothing: a picture too few is found in the archive, one too many is not.
		return false, fmt.Sprintf("%s cannot be evaluated: %v", oneLine(r.When), err)
	}
	matched, _ = out.Value().(bool)
	word := "false"
	if matched {
		word = "true"
	}
	return matched, fmt.Sprintf("%s is %s%s", oneLine(r.When), word, r.seen(c))
}

// seen lists the values of the variables that the expression names.
func (r compiled) seen(c Context) string {
	var parts []string
	for _, name := range variableNames() {
		if !r.mention[name] {
			continue
		}
		switch name {
		case varClass:
			parts = append(parts, fmt.Sprintf("class = %q", c.Class))
		case varConfidence:
			parts = append(parts, fmt.Sprintf("confidence = %.4f", c.Confidence))
		case varReview:
			parts = append(parts, fmt.Sprintf("review = %t", c.Review))
		case varProbabilities:
			for _, class := range bodypart.Classes() {
				parts = append(parts, fmt.Sprintf("probabilities[%q] = %.4f", class, c.Probabilities[class]))
			}
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func (c Context) variables() map[string]any {
	probabilities := make(map[string]float64, len(bodypart.Classes()))
	for _, class := range bodypart.Classes() {
		probabilities[string(class)] = c.Probabilities[class]
	}
	return map[string]any{
		varClass:         string(c.Class),
		varConfidence:    c.Confidence,
		varReview:        c.Review,
		varProbabilities: probabilities,
	}
}

func oneLine(expression string) string { return strings.Join(strings.Fields(expression), " ") }
