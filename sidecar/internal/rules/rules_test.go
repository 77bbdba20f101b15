package rules

import (
	"context"
	"reflect"
	"sync"
	"testing"

	"imagingrouter/sidecar/internal/bodypart"
)

var destinations = []string{"chest-ai", "spine-ai", "pacs"}

func result(c bodypart.Class, confidence float64, review bool) Context {
	rest := (1 - confidence) / 4
	p := map[bodypart.Class]float64{}
	for _, other := range bodypart.Classes() {
		p[other] = rest
	}
	p[c] = confidence
	return Context{Class: c, Confidence: confidence, Review: review, Probabilities: p}
}

func compile(t *testing.T, list ...Rule) *Set {
	t.Helper()
	set, err := Compile(list, destinations, nil)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func evaluate(t *testing.T, set *Set, c Context) []Match {
	t.Helper()
	matches, err := set.Evaluate(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return matches
}

func explained(t *testing.T, set *Set, c Context) []Verdict {
	t.Helper()
	verdicts, err := set.Explain(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return verdicts
}

func to(rule string, destinations ...string) Match {
	return Match{Rule: rule, Destinations: destinations}
}

func TestEvaluate(t *testing.T) {
	chest := Rule{Name: "chest", When: `class in ["adult_chest", "pediatric_chest"] && confidence >= 0.9`, To: []string{"chest-ai", "pacs"}}
	spine := Rule{Name: "spine", When: `class == "spine"`, To: []string{"spine-ai"}}
	all := Rule{Name: "all", When: `true`, To: []string{"pacs", "chest-ai"}}
	unsure := Rule{Name: "unsure", When: `review && probabilities["spine"] > 0.3`, To: []string{"spine-ai"}}
	sure := Rule{Name: "sure", When: `!review && confidence >= 1`, To: []string{"pacs"}}
	for name, tc := range map[string]struct {
		rules []Rule
		in    Context
		want  []Match
	}{
		"one rule":                     {[]Rule{chest, spine}, result("spine", 0.8, false), []Match{to("spine", "spine-ai")}},
		"no rule":                      {[]Rule{chest, spine}, result("others", 1, false), nil},
		"below the rule's confidence":  {[]Rule{chest}, result("adult_chest", 0.89, false), nil},
		"at the rule's confidence":     {[]Rule{chest}, result("adult_chest", 0.9, false), []Match{to("chest", "chest-ai", "pacs")}},
		"a destination is named once":  {[]Rule{spine, all, chest}, result("adult_chest", 1, false), []Match{to("all", "pacs", "chest-ai")}},
		"the first rule is recorded":   {[]Rule{chest, all}, result("adult_chest", 1, false), []Match{to("chest", "chest-ai", "pacs")}},
		"several rules contribute":     {[]Rule{spine, all}, result("spine", 1, false), []Match{to("spine", "spine-ai"), to("all", "pacs", "chest-ai")}},
		"review matches no class rule": {[]Rule{chest, spine, all}, result("spine", 1, true), nil},
		"review matches its own rule":  {[]Rule{spine, unsure}, result("spine", 0.4, true), []Match{to("unsure", "spine-ai")}},
		"its own rule may be false":    {[]Rule{unsure}, result("others", 0.9, true), nil},
		"not under review":             {[]Rule{unsure, sure}, result("spine", 1, false), []Match{to("sure", "pacs")}},
		"whole numbers compare":        {[]Rule{sure}, result("spine", 0.99, false), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := evaluate(t, compile(t, tc.rules...), tc.in); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestAbsentProbabilityIsZero(t *testing.T) {
	set := compile(t, Rule{Name: "r", When: `probabilities["spine"] < 0.1 && probabilities.others == 0.0`, To: []string{"pacs"}})
	if got := evaluate(t, set, Context{Class: bodypart.Spine}); len(got) != 1 {
		t.Errorf("got %v; an absent probability must count as 0", got)
	}
}

func TestExplain(t *testing.T) {
	set := compile(t,
		Rule{Name: "chest", When: "class == \"adult_chest\"\n  && confidence > 0.5", To: []string{"pacs"}},
		Rule{Name: "again", When: `probabilities["spine"] < 0.5`, To: []string{"pacs"}},
		Rule{Name: "broken", When: `probabilities[class + "x"] > 0.5`, To: []string{"chest-ai"}},
		Rule{Name: "always", When: `true`, To: []string{"spine-ai"}},
	)
	got := explained(t, set, result("adult_chest", 0.92, false))
	want := []Verdict{
		{Rule: "chest", Level: LevelInstance, Matched: true, Destinations: []string{"pacs"}, Why: `class == "adult_chest" && confidence > 0.5 is true (class = "adult_chest", confidence = 0.9200)`},
		{Rule: "again", Level: LevelInstance, Matched: true, Why: `probabilities["spine"] < 0.5 is true (probabilities["abdominal"] = 0.0200, probabilities["adult_chest"] = 0.9200, ` +
			`probabilities["pediatric_chest"] = 0.0200, probabilities["spine"] = 0.0200, probabilities["others"] = 0.0200); earlier rules already name its destinations`},
		{Rule: "broken", Level: LevelInstance, Undecided: true, Why: `probabilities[class + "x"] > 0.5 cannot be evaluated: no such key: adult_chestx`},
		{Rule: "always", Level: LevelInstance, Matched: true, Destinations: []string{"spine-ai"}, Why: `true is true`},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
	got = explained(t, set, result("adult_chest", 0.92, true))
	for _, v := range got {
		if v.Matched || v.Why != "the result is under review, and the rule does not mention review" {
			t.Errorf("under review: %+v", v)
		}
	}
}

func TestNilAndEmptySets(t *testing.T) {
	var none *Set
	if none.Len() != 0 || evaluate(t, none, result("spine", 1, false)) != nil || none.Rules() != nil {
		t.Error("a nil set must hold no rule")
	}
	if set := compile(t); set.Len() != 0 || len(evaluate(t, set, result("spine", 1, false))) != 0 {
		t.Error("an empty list must match nothing")
	}
}

func TestRulesAreCopied(t *testing.T) {
	to := []string{"pacs"}
	set := compile(t, Rule{Name: "r", When: "true", To: to})
	to[0] = "elsewhere"
	set.Rules()[0].To[0] = "elsewhere"
	if got := evaluate(t, set, result("spine", 1, false)); got[0].Destinations[0] != "pacs" {
		t.Errorf("a compiled rule changed its destination: %v", got)
	}
}

func TestConcurrentUse(t *testing.T) {
	set := compile(t, Rule{Name: "r", When: `class == "spine" && probabilities["spine"] > 0.5`, To: []string{"pacs"}})
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 100 {
				hit, err := set.Evaluate(context.Background(), result("spine", 0.9, false))
				miss, other := set.Evaluate(context.Background(), result("others", 0.9, false))
				if err != nil || other != nil || len(hit) != 1 || len(miss) != 0 {
					t.Error("wrong match")
					return
				}
			}
		})
	}
	wait.Wait()
}

func TestCompileErrors(t *testing.T) {
	const variables = "(a rule can use: class, confidence, probabilities, review, agrees, tag_body_part, age_years, age_known, modality, station, remote_aet, called_aet, origin, tags, study.classes, study.instances, now)"
	const five = "abdominal, adult_chest, pediatric_chest, spine, others"
	to := []string{"pacs"}
	for name, tc := range map[string]struct {
		rules []Rule
		want  string
	}{
		"unknown variable": {[]Rule{{Name: "a", When: `clas == "spine"`, To: to}},
			`rules[0].when:1:1: rule "a": "clas" does not exist, did you mean "class"? ` + variables},
		"a far variable": {[]Rule{{Name: "a", When: `confidence > 0.5 && manufacturer == "A"`, To: to}},
			`rules[0].when:1:21: rule "a": "manufacturer" does not exist ` + variables},
		"unknown class": {[]Rule{{Name: "a", When: `class == "chest"`, To: to}},
			`rules[0].when:1:10: rule "a": "chest" is not a class, did you mean "adult_chest"? (classes: ` + five + `)`},
		"unknown class on the left": {[]Rule{{Name: "a", When: `"Spine" != class`, To: to}},
			`rules[0].when:1:1: rule "a": "Spine" is not a class, did you mean "spine"? (classes: ` + five + `)`},
		"unknown class in a list": {[]Rule{{Name: "a", When: "review ||\nclass in [\"spine\", \"hand\"]", To: to}},
			`rules[0].when:2:20: rule "a": "hand" is not a class (classes: ` + five + `)`},
		"unknown key of probabilities": {[]Rule{{Name: "a", When: `probabilities["chest"] > 0.5 || "hand" in probabilities || probabilities.leg > 0.1`, To: to}},
			`rules[0].when:1:15: rule "a": "chest" is not a class, did you mean "adult_chest"? (classes: ` + five + ")\n" +
				`rules[0].when:1:33: rule "a": "hand" is not a class (classes: ` + five + ")\n" +
				`rules[0].when:1:60: rule "a": "leg" is not a class (classes: ` + five + `)`},
		"not a condition": {[]Rule{{Name: "a", When: `confidence`, To: to}}, `rules[0].when:1:1: rule "a": the expression must be true or false, it is of type double`},
		"single =":        {[]Rule{{Name: "a", When: `class = "spine"`, To: to}}, `rules[0].when:1:7: rule "a": a single = compares nothing, write ==`},
		"cut off":         {[]Rule{{Name: "a", When: `class ==`, To: to}}, `rules[0].when:1:9: rule "a": the expression ends too early`},
		"types":           {[]Rule{{Name: "a", When: `confidence == "high"`, To: to}}, `rules[0].when:1:12: rule "a": == cannot be used with values of these types: double, string`},
		"function":        {[]Rule{{Name: "a", When: `lower(class) == "spine"`, To: to}}, `rules[0].when:1:6: rule "a": "lower" does not exist ` + variables},
		"empty":           {[]Rule{{Name: "a", When: " \n", To: to}}, `rules[0].when:1:1: rule "a": needs an expression in "when" ("true" matches every result that is not under review)`},
		"destination":     {[]Rule{{Name: "a", When: `true`, To: []string{"pacs", "chest"}}}, `rules[0].to[1]: rule "a": unknown destination "chest", did you mean "chest-ai"?`},
		"no destination":  {[]Rule{{Name: "a", When: `true`, To: nil}}, `rules[0].to[0]: rule "a": names no destination in "to"`},
		"a name twice":    {[]Rule{{Name: "a", When: `true`, To: to}, {Name: "a", When: `true`, To: to}}, `rules[1].name: rule "a": the name is already taken by rules[0]`},
		"all of them": {[]Rule{{Name: "", When: `clas`, To: nil}, {Name: "b", When: `x`, To: to}},
			"rules[0].name: needs a name\n" +
				`rules[0].when:1:1: "clas" does not exist, did you mean "class"? ` + variables + "\n" +
				`rules[0].to[0]: names no destination in "to"` + "\n" +
				`rules[1].when:1:1: rule "b": "x" does not exist ` + variables},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(tc.rules, destinations, nil)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got\n%v\nwant\n%s", err, tc.want)
			}
		})
	}
}
