package rules

import (
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
		"one rule":                     {[]Rule{chest, spine}, result("spine", 0.8, false), []Match{{"spine", []string{"spine-ai"}}}},
		"no rule":                      {[]Rule{chest, spine}, result("others", 1, false), nil},
		"below the rule's confidence":  {[]Rule{chest}, result("adult_chest", 0.89, false), nil},
		"at the rule's confidence":     {[]Rule{chest}, result("adult_chest", 0.9, false), []Match{{"chest", []string{"chest-ai", "pacs"}}}},
		"a destination is named once":  {[]Rule{spine, all, chest}, result("adult_chest", 1, false), []Match{{"all", []string{"pacs", "chest-ai"}}}},
		"the first rule is recorded":   {[]Rule{chest, all}, result("adult_chest", 1, false), []Match{{"chest", []string{"chest-ai", "pacs"}}}},
		"several rules contribute":     {[]Rule{spine, all}, result("spine", 1, false), []Match{{"spine", []string{"spine-ai"}}, {"all", []string{"pacs", "chest-ai"}}}},
		"review matches no class rule": {[]Rule{chest, spine, all}, result("spine", 1, true), nil},
		"review matches its own rule":  {[]Rule{spine, unsure}, result("spine", 0.4, true), []Match{{"unsure", []string{"spine-ai"}}}},
		"its own rule may be false":    {[]Rule{unsure}, result("others", 0.9, true), nil},
		"not under review":             {[]Rule{unsure, sure}, result("spine", 1, false), []Match{{"sure", []string{"pacs"}}}},
		"whole numbers compare":        {[]Rule{sure}, result("spine", 0.99, false), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := compile(t, tc.rules...).Evaluate(tc.in); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestAbsentProbabilityIsZero(t *testing.T) {
	set := compile(t, Rule{Name: "r", When: `probabilities["spine"] < 0.1 && probabilities.others == 0.0`, To: []string{"pacs"}})
	if got := set.Evaluate(Context{Class: bodypart.Spine}); len(got) != 1 {
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
	got := set.Explain(result("adult_chest", 0.92, false))
	want := []Verdict{
		{"chest", true, []string{"pacs"}, `class == "adult_chest" && confidence > 0.5 is true (class = "adult_chest", confidence = 0.9200)`},
		{"again", true, nil, `probabilities["spine"] < 0.5 is true (probabilities["abdominal"] = 0.0200, probabilities["adult_chest"] = 0.9200, ` +
			`probabilities["pediatric_chest"] = 0.0200, probabilities["spine"] = 0.0200, probabilities["others"] = 0.0200); earlier rules already name its destinations`},
		{"broken", false, nil, `probabilities[class + "x"] > 0.5 cannot be evaluated: no such key: adult_chestx`},
		{"always", true, []string{"spine-ai"}, `true is true`},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
	got = set.Explain(result("adult_chest", 0.92, true))
	for _, v := range got {
		if v.Matched || v.Why != "the result is under review, and the rule does not mention review" {
			t.Errorf("under review: %+v", v)
		}
	}
}

func TestNilAndEmptySets(t *testing.T) {
	var none *Set
	if none.Len() != 0 || none.Evaluate(result("spine", 1, false)) != nil || none.Rules() != nil {
		t.Error("a nil set must hold no rule")
	}
	if set := compile(t); set.Len() != 0 || len(set.Evaluate(result("spine", 1, false))) != 0 {
		t.Error("an empty list must match nothing")
	}
}

func TestRulesAreCopied(t *testing.T) {
	to := []string{"pacs"}
	set := compile(t, Rule{Name: "r", When: "true", To: to})
	to[0] = "elsewhere"
	set.Rules()[0].To[0] = "elsewhere"
	if got := set.Evaluate(result("spine", 1, false)); got[0].Destinations[0] != "pacs" {
		t.Errorf("a compiled rule changed its destination: %v", got)
	}
}

func TestConcurrentUse(t *testing.T) {
	set := compile(t, Rule{Name: "r", When: `class == "spine" && probabilities["spine"] > 0.5`, To: []string{"pacs"}})
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 100 {
				if len(set.Evaluate(result("spine", 0.9, false))) != 1 || len(set.Evaluate(result("others", 0.9, false))) != 0 {
					t.Error("wrong match")
					return
				}
			}
		})
	}
	wait.Wait()
}

func TestCompileErrors(t *testing.T) {
	const variables = "(a rule can use: class, confidence, probabilities, review)"
	const five = "abdominal, adult_chest, pediatric_chest, spine, others"
	to := []string{"pacs"}
	for name, tc := range map[string]struct {
		rules []Rule
		want  string
	}{
		"unknown variable": {[]Rule{{"a", `clas == "spine"`, to}},
			`rules[0].when:1:1: rule "a": "clas" does not exist, did you mean "class"? (a rule can use: class, confidence, probabilities, review)`},
		"a far variable": {[]Rule{{"a", `confidence > 0.5 && station == "A"`, to}},
			`rules[0].when:1:21: rule "a": "station" does not exist (a rule can use: class, confidence, probabilities, review)`},
		"unknown class": {[]Rule{{"a", `class == "chest"`, to}},
			`rules[0].when:1:10: rule "a": "chest" is not a class, did you mean "adult_chest"? (classes: ` + five + `)`},
		"unknown class on the left": {[]Rule{{"a", `"Spine" != class`, to}},
			`rules[0].when:1:1: rule "a": "Spine" is not a class, did you mean "spine"? (classes: ` + five + `)`},
		"unknown class in a list": {[]Rule{{"a", "review ||\nclass in [\"spine\", \"hand\"]", to}},
			`rules[0].when:2:20: rule "a": "hand" is not a class (classes: ` + five + `)`},
		"unknown key of probabilities": {[]Rule{{"a", `probabilities["chest"] > 0.5 || "hand" in probabilities || probabilities.leg > 0.1`, to}},
			`rules[0].when:1:15: rule "a": "chest" is not a class, did you mean "adult_chest"? (classes: ` + five + ")\n" +
				`rules[0].when:1:33: rule "a": "hand" is not a class (classes: ` + five + ")\n" +
				`rules[0].when:1:60: rule "a": "leg" is not a class (classes: ` + five + `)`},
		"not a condition": {[]Rule{{"a", `confidence`, to}}, `rules[0].when:1:1: rule "a": the expression must be true or false, it is of type double`},
		"single =":        {[]Rule{{"a", `class = "spine"`, to}}, `rules[0].when:1:7: rule "a": a single = compares nothing, write ==`},
		"cut off":         {[]Rule{{"a", `class ==`, to}}, `rules[0].when:1:9: rule "a": the expression ends too early`},
		"types":           {[]Rule{{"a", `confidence == "high"`, to}}, `rules[0].when:1:12: rule "a": == cannot be used with values of these types: double, string`},
		"function":        {[]Rule{{"a", `lower(class) == "spine"`, to}}, `rules[0].when:1:6: rule "a": "lower" does not exist ` + variables},
		"empty":           {[]Rule{{"a", " \n", to}}, `rules[0].when:1:1: rule "a": needs an expression in "when" ("true" matches every result that is not under review)`},
		"destination":     {[]Rule{{"a", `true`, []string{"pacs", "chest"}}}, `rules[0].to[1]: rule "a": unknown destination "chest", did you mean "chest-ai"?`},
		"no destination":  {[]Rule{{"a", `true`, nil}}, `rules[0].to[0]: rule "a": names no destination in "to"`},
		"a name twice":    {[]Rule{{"a", `true`, to}, {"a", `true`, to}}, `rules[1].name: rule "a": the name is already taken by rules[0]`},
		"all of them": {[]Rule{{"", `clas`, nil}, {"b", `x`, to}},
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
