package rules

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestWholeErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		rule Rule
		want string
	}{
		"level":               {Rule{Level: "patient"}, `rules[0].level: rule "a": unknown level "patient" (known: instance, series, study)`},
		"on_timeout":          {Rule{Level: LevelStudy, OnTimeout: "drop"}, `rules[0].on_timeout: rule "a": unknown on_timeout "drop" (known: send, hold)`},
		"on_review":           {Rule{Level: LevelSeries, OnReview: "wait"}, `rules[0].on_review: rule "a": unknown on_review "wait" (known: hold, send, skip)`},
		"a negative wait":     {Rule{Level: LevelStudy, WaitAtMost: -time.Minute}, `rules[0].wait_at_most: rule "a": must not be negative (got -1m0s)`},
		"a wait for nothing":  {Rule{WaitAtMost: time.Minute}, `rules[0].wait_at_most: rule "a": only a rule that waits can have this: add "level: study" or "level: series"`},
		"nor for an instance": {Rule{Level: LevelInstance, OnReview: ReviewSkip}, `rules[0].on_review: rule "a": only a rule that waits can have this: add "level: study" or "level: series"`},
		"and no timeout":      {Rule{OnTimeout: TimeoutHold}, `rules[0].on_timeout: rule "a": only a rule that waits can have this: add "level: study" or "level: series"`},
		"all at once": {Rule{Level: "patient", WaitAtMost: -1, OnTimeout: "x", OnReview: "y"}, `rules[0].level: rule "a": unknown level "patient" (known: instance, series, study)
rules[0].on_timeout: rule "a": unknown on_timeout "x" (known: send, hold)
rules[0].on_review: rule "a": unknown on_review "y" (known: hold, send, skip)
rules[0].wait_at_most: rule "a": must not be negative (got -1ns)`},
	} {
		t.Run(name, func(t *testing.T) {
			tc.rule.Name, tc.rule.When, tc.rule.To = "a", "true", []string{"pacs"}
			_, err := Compile([]Rule{tc.rule}, destinations, nil)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got\n%v\nwant\n%s", err, tc.want)
			}
		})
	}
}

func TestWholes(t *testing.T) {
	to := []string{"pacs"}
	all := Rule{Name: "all", When: `confidence > 0.5`, To: to, Level: LevelStudy}
	own := Rule{Name: "own", When: `study.instances > 1`, To: to, Level: LevelSeries, WaitAtMost: time.Minute, OnTimeout: TimeoutHold, OnReview: ReviewSkip}
	classes := Rule{Name: "classes", When: `"spine" in study.classes`, To: to, Level: LevelStudy, OnReview: ReviewSend}
	set := compile(t, Rule{Name: "single", When: "true", To: to}, all, Rule{Name: "named", When: `study.instances > 0`, To: to, Level: LevelInstance}, own, classes)
	all.WaitAtMost, all.OnTimeout, all.OnReview = DefaultWait, TimeoutSend, ReviewHold
	classes.WaitAtMost, classes.OnTimeout = DefaultWait, TimeoutSend
	want := []Whole{{Rule: all}, {Rule: own, MayChange: true}, {Rule: classes, MayChange: true}}
	got := set.Wholes()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	got[0].To[0] = "elsewhere"
	if set.Wholes()[0].To[0] != "pacs" {
		t.Error("a compiled rule changed its destination")
	}
	var none *Set
	if none.Wholes() != nil || compile(t, Rule{Name: "single", When: "true", To: to}).Wholes() != nil {
		t.Error("a rule waits where there is none that could")
	}
}

// What a rule takes that waits for the whole, it takes from none that sends something smaller, nor the other way round.
func TestLevelsTakeNothingFromOneAnother(t *testing.T) {
	rule := func(name string, level Level, to ...string) Rule {
		return Rule{Name: name, When: "true", To: to, Level: level}
	}
	set := compile(t, rule("study", LevelStudy, "pacs", "chest-ai"), rule("series", LevelSeries, "pacs"), rule("one", "", "pacs"), rule("again", LevelStudy, "chest-ai", "spine-ai"), rule("one again", LevelInstance, "pacs"))
	verdicts := explained(t, set, result("spine", 1, false))
	want := []Verdict{
		{Rule: "study", Level: LevelStudy, Destinations: []string{"pacs", "chest-ai"}},
		{Rule: "series", Level: LevelSeries, Destinations: []string{"pacs"}},
		{Rule: "one", Level: LevelInstance, Destinations: []string{"pacs"}},
		{Rule: "again", Level: LevelStudy, Destinations: []string{"spine-ai"}},
		{Rule: "one again", Level: LevelInstance},
	}
	for i, v := range verdicts {
		if w := want[i]; v.Rule != w.Rule || v.Level != w.Level || !reflect.DeepEqual(v.Destinations, w.Destinations) || !v.Matched {
			t.Errorf("got %+v, want %+v", v, w)
		}
	}
	if got, want := Matches(verdicts), []Match{to("one", "pacs")}; !reflect.DeepEqual(got, want) {
		t.Errorf("by itself goes %v, want %v", got, want)
	}
}

// What no rule has looked at is passed: that differs from what it has looked at and not matched.
func TestPassed(t *testing.T) {
	to := []string{"pacs"}
	set := compile(t, Rule{Name: "rest", When: "true", To: to, Fallback: true}, Rule{Name: "no", When: `class == "others"`, To: to},
		Rule{Name: "last word", When: `class == "spine"`, To: to, Stop: true, Level: LevelStudy}, Rule{Name: "later", When: "true", To: to})
	for name, tc := range map[string]struct {
		in   Context
		want string
	}{
		"the last word was spoken": {result("spine", 1, false), "rest later"},
		"a rule has matched":       {result("abdominal", 1, false), "rest"},
		"under review":             {result("spine", 1, true), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var passed []string
			for _, v := range explained(t, set, tc.in) {
				if v.Passed {
					passed = append(passed, v.Rule)
				}
				if v.Passed && (v.Matched || !strings.HasPrefix(v.Why, "not looked at: ")) {
					t.Errorf("%+v", v)
				}
			}
			if got := strings.Join(passed, " "); got != tc.want {
				t.Errorf("passed %q, want %q", got, tc.want)
			}
		})
	}
}

func TestCopiesGoWhereARuleSaysSo(t *testing.T) {
	set := compile(t, Rule{Name: "all", When: "true", To: []string{"pacs"}, Stop: true}, Rule{Name: "copies", When: `class == "spine"`, To: []string{"spine-ai", "pacs"}, Copies: true})
	original := result("spine", 1, false)
	copied, other := original, result("others", 1, false)
	copied.Copy, other.Copy = true, true
	for name, tc := range map[string]struct {
		in   Context
		want []Match
	}{
		"the original":       {original, []Match{to("all", "pacs")}},
		"a copy":             {copied, []Match{to("copies", "spine-ai", "pacs")}},
		"a copy of no match": {other, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := evaluate(t, set, tc.in); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	if why := explained(t, set, copied)[0].Why; why != "a copy made by modify or anonymise, and the rule does not say copies: true" {
		t.Error(why)
	}
}

func TestARuleWithoutPriorityLeavesItToTheTags(t *testing.T) {
	set := compile(t, Rule{Name: "open", When: "true", To: []string{"pacs"}}, Rule{Name: "normal", When: "true", To: []string{"spine-ai"}, Priority: Normal})
	if got := evaluate(t, set, result("spine", 1, false)); got[0].Priority != "" || got[1].Priority != Normal {
		t.Errorf("%+v", got)
	}
}
