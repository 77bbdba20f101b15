package rules

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
)

// lender counts how often each fact is fetched.
type lender struct {
	tags, arrival, study int
	fail                 error
}

func (l *lender) of(c bodypart.Class) Context {
	return Context{
		Class: c, Confidence: 0.99, Agrees: true, Now: time.Date(2026, 11, 23, 19, 30, 0, 0, time.UTC),
		Tags: func(context.Context) (Tags, error) {
			l.tags++
			return Tags{Values: map[string]string{
				"BodyPartExamined": "LSPINE", "Modality": "DX", "StationName": "ROOM1", "StudyDescription": "Wirbelsäule Kontrolle", "InstitutionName": "",
			}, AgeYears: 41.5, AgeKnown: true}, l.fail
		},
		Arrival: func(context.Context) (Arrival, error) {
			l.arrival++
			return Arrival{RemoteAET: "MODALITY", CalledAET: "ORTHANC", Origin: "DicomProtocol"}, l.fail
		},
		Study: func(context.Context) (Study, error) {
			l.study++
			return Study{Classes: []bodypart.Class{"spine", "abdominal", "spine"}, Instances: 3}, l.fail
		},
	}
}

func TestEveryVariable(t *testing.T) {
	for expression, want := range map[string]bool{
		`agrees && class == "spine"`:                                         true,
		`tag_body_part == "LSPINE" && tag_body_part.contains("SPINE")`:       true,
		`age_known && age_years > 41 && age_years < 42`:                      true,
		`modality in ["CR", "DX"] && station.startsWith("ROOM")`:             true,
		`remote_aet == "MODALITY" && called_aet == "ORTHANC"`:                true,
		`origin != "DicomProtocol"`:                                          false,
		`tags["StudyDescription"].matches("(?i)wirbels")`:                    true,
		`tags.StudyDescription == ""`:                                        false,
		`tags["AccessionNumber"] == "" && tags.ReferringPhysicianName == ""`: true,
		`"InstitutionName" in tags || "AccessionNumber" in tags`:             false,
		`"StudyDescription" in tags`:                                         true,
		`tags["no such" + class] == ""`:                                      true,
		`"abdominal" in study.classes && study.classes.size() == 2`:          true,
		`study.instances == 3`:                                               true,
		`study.classes.exists(c, c == "others")`:                             false,
		`now.getHours("Europe/Berlin") == 20`:                                true,
		`now < timestamp("2026-11-23T19:00:00Z")`:                            false,
	} {
		t.Run(expression, func(t *testing.T) {
			got := evaluate(t, compile(t, Rule{Name: "r", When: expression, To: []string{"pacs"}}), new(lender).of("spine"))
			if (len(got) == 1) != want {
				t.Errorf("%t, want %t", len(got) == 1, want)
			}
		})
	}
}

// Where nothing is known, everything has a value.
func TestUnknownFacts(t *testing.T) {
	set := compile(t, Rule{Name: "r", When: `!age_known && age_years == -1.0 && tag_body_part == "" && tags["StudyDescription"] == "" && modality == "" &&
		station == "" && remote_aet == "" && called_aet == "" && origin == "" && study.classes == [] && study.instances == 0 && !agrees &&
		now > timestamp("2020-01-01T00:00:00Z")`, To: []string{"pacs"}})
	if got := explained(t, set, Context{Class: "spine"}); !got[0].Matched {
		t.Error(got[0].Why)
	}
}

func TestFactsAreFetchedWhenAskedForAndOnce(t *testing.T) {
	set := compile(t,
		Rule{Name: "not evaluated that far", When: `class == "others" && tags["StudyDescription"] != "" && study.instances > 0 && origin != ""`, To: []string{"pacs"}},
		Rule{Name: "asks", When: `modality == "DX" && station != "" && age_years > 1 && tags["StudyDescription"] != ""`, To: []string{"spine-ai"}},
		Rule{Name: "asks again", When: `tag_body_part != ""`, To: []string{"chest-ai"}},
	)
	l := &lender{}
	verdicts := explained(t, set, l.of("spine"))
	if l.tags != 1 || l.study != 0 || l.arrival != 0 || !verdicts[1].Matched || !verdicts[2].Matched {
		t.Errorf("fetched %+v, %v", l, verdicts)
	}
	if want := `is false (class = "spine")`; !strings.HasSuffix(verdicts[0].Why, want) {
		t.Errorf("%q does not end with %q: it shows what was never asked for", verdicts[0].Why, want)
	}
	l = &lender{}
	review := l.of("spine")
	review.Review = true
	if explained(t, set, review); l.tags != 0 {
		t.Error("tags were fetched for a result under review, which no rule looks at")
	}
}

// A fact that cannot be fetched decides nothing: neither a match nor none, and no later rule either.
func TestAFactThatCannotBeFetchedIsAnError(t *testing.T) {
	failure := errors.New("orthanc: connection refused")
	for _, expression := range []string{
		`tags["StudyDescription"] == ""`, `modality == "DX" || class == "spine"`, `!(station == "x" && class == "others")`, `study.instances > 0`, `origin == ""`,
	} {
		set := compile(t, Rule{Name: "certain", When: "true", To: []string{"pacs"}}, Rule{Name: "r", When: expression, To: []string{"chest-ai"}})
		matches, err := set.Evaluate(t.Context(), (&lender{fail: failure}).of("spine"))
		if !errors.Is(err, failure) || matches != nil || !strings.Contains(err.Error(), `rule "r"`) {
			t.Errorf("%s: %v, %v", expression, matches, err)
		}
	}
}

func TestVerdictsHideTags(t *testing.T) {
	set := compile(t,
		Rule{Name: "all", When: `tags["StudyDescription"] != "" && tags.AccessionNumber == "" && tag_body_part != "" && station != "" && modality != "" && age_years > 3 && age_known && remote_aet != ""`, To: []string{"pacs"}},
		Rule{Name: "error", When: `int(tags["StudyDescription"]) > 0`, To: []string{"chest-ai"}},
	)
	c := new(lender).of("spine")
	open := explained(t, set, c)
	if !strings.Contains(open[0].Why, `tags["StudyDescription"] = "Wirbelsäule Kontrolle"`) || !strings.Contains(open[0].Why, "age_years = 41.50") {
		t.Errorf("%+v", open)
	}
	c.HideTags = true
	for _, v := range explained(t, set, c) {
		for _, value := range []string{"Wirbels", "LSPINE", "ROOM1", "DX", "41"} {
			if strings.Contains(v.Why, value) {
				t.Errorf("a verdict shows %q: %s", value, v.Why)
			}
		}
		if v.Rule != "all" {
			continue
		}
		for _, want := range []string{`tags["StudyDescription"] present`, `tags["AccessionNumber"] absent`, "station present", "age_years present", "age_known = true", `remote_aet = "MODALITY"`} {
			if !strings.Contains(v.Why, want) {
				t.Errorf("%q is missing in %s", want, v.Why)
			}
		}
	}
}

func TestStopAndFallback(t *testing.T) {
	rest := Rule{Name: "rest", When: "true", To: []string{"pacs"}, Fallback: true}
	second := Rule{Name: "second", When: "true", To: []string{"chest-ai"}, Fallback: true}
	spine := Rule{Name: "spine", When: `class == "spine"`, To: []string{"spine-ai"}, Stop: true, Priority: High}
	sure := Rule{Name: "sure", When: `confidence > 0.9`, To: []string{"chest-ai"}, Priority: Low}
	set := compile(t, rest, spine, second, sure) // a fallback comes last wherever it stands
	for name, tc := range map[string]struct {
		in   Context
		want []Match
		why  string
	}{
		"stop ends it":             {result("spine", 0.99, false), []Match{{Rule: "spine", Destinations: []string{"spine-ai"}, Priority: High}}, `rule "spine" has the last word`},
		"no stop without a match":  {result("others", 0.99, false), []Match{{Rule: "sure", Destinations: []string{"chest-ai"}, Priority: Low}}, `a fallback, and rule "sure" matched`},
		"the first fallback only":  {result("others", 0.5, false), []Match{to("rest", "pacs")}, `a fallback, and rule "rest" matched`},
		"no fallback under review": {result("others", 0.5, true), nil, "under review"},
	} {
		t.Run(name, func(t *testing.T) {
			got := evaluate(t, set, tc.in)
			if len(got) != len(tc.want) || len(got) > 0 && (got[0].Rule != tc.want[0].Rule || got[0].Priority != tc.want[0].Priority || got[0].Destinations[0] != tc.want[0].Destinations[0]) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			var all []string
			for _, v := range explained(t, set, tc.in) {
				all = append(all, v.Why)
			}
			if !strings.Contains(strings.Join(all, "\n"), tc.why) {
				t.Errorf("no verdict says %q: %q", tc.why, all)
			}
		})
	}
}
