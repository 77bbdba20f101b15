package rules

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
)

// marked is what a tag of the patient holds. A verdict that hides tags must not repeat it.
const marked = "QZX^MARKED"

// FuzzRule looks for an expression, or for facts, that break the rules: Compile takes the list or names each fault and its place; what it
// takes decides about any facts without an error, and repeats no tag that is to be hidden.
func FuzzRule(f *testing.F) {
	for _, when := range []string{
		"true", `class == "spine" && confidence >= 0.9`, `tags["PatientName"].matches("(?i)q.*")`, `tags.StudyDescription == ""`,
		`age_known && age_years < 18.0`, `study.classes.exists(c, c == "spine") || study.instances > 3`, `int(tags["PatientID"]) > 5`,
		`probabilities["spine"] + probabilities.others > 0.5`, `now.getHours("Europe/Berlin") < 8`, `review || !agrees`, `modality in ["CR", "DX"]`,
		`timestamp(tags["StudyDate"]) < now`, `tags[station] == tag_body_part`, `remote_aet + called_aet + origin != ""`, `class = "x"`, `has(tags.PatientName)`,
		`tags.exists(t, tags[t] == "x")`, `dyn(tags)["PatientName"] + 1 == 2`, "\x00", `class == "chest"`,
	} {
		f.Add(when, "spine", 0.8, marked, false, true)
		f.Add(when, "", -1.0, "", true, false)
	}
	f.Fuzz(func(t *testing.T, when, class string, confidence float64, tag string, review, hide bool) {
		set, err := Compile([]Rule{{Name: "r", When: when, To: []string{"d"}}, {Name: "last", When: "true", To: []string{"d"}, Fallback: true}}, []string{"d"}, nil)
		if err != nil {
			checkProblems(t, err)
			return
		}
		tag = marked + tag
		values := map[string]string{}
		for _, keyword := range []string{"PatientName", "PatientID", "StudyDescription", "StudyDate", "BodyPartExamined", "Modality", "StationName"} {
			values[keyword] = tag
		}
		c := Context{
			Class: bodypart.Class(class), Confidence: confidence, Review: review, HideTags: hide, Now: time.Unix(1_800_000_000, 0),
			Probabilities: map[bodypart.Class]float64{bodypart.Spine: confidence},
			Tags: func(context.Context) (Tags, error) {
				return Tags{Values: values, AgeYears: confidence, AgeKnown: !review}, nil
			},
			Arrival: func(context.Context) (Arrival, error) {
				return Arrival{RemoteAET: class, CalledAET: class, Origin: class}, nil
			},
			Study: func(context.Context) (Study, error) {
				return Study{Classes: []bodypart.Class{bodypart.Class(class), bodypart.Spine}, Instances: int(int32(confidence))}, nil
			},
		}
		verdicts, err := set.Explain(t.Context(), c)
		if err != nil || len(verdicts) != 2 {
			t.Fatalf("%d verdicts, %v", len(verdicts), err)
		}
		v := verdicts[0]
		if v.Why == "" || v.Matched && v.Undecided {
			t.Errorf("%+v", v)
		}
		if hide && !strings.Contains(when, "QZX") && strings.Contains(v.Why, "QZX") {
			t.Errorf("the verdict repeats a tag: %s", v.Why)
		}
		again, err := set.Explain(t.Context(), c)
		if err != nil || again[0].Matched != v.Matched || again[0].Undecided != v.Undecided {
			t.Errorf("asked again: %+v, %v, first %+v", again, err, v)
		}
	})
}

// checkProblems wants every fault to have a place and a sentence of one line.
func checkProblems(t *testing.T, err error) {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) == 0 {
		t.Fatalf("not a list of problems: %v", err)
	}
	for _, one := range joined.Unwrap() {
		var p Problem
		if !errors.As(one, &p) || p.At == "" || strings.TrimSpace(p.Message) == "" {
			t.Errorf("no problem with a place: %v", one)
		}
	}
}

// FuzzSchedule looks for a schedule whose next opening is none: it never lies before the time asked for, nor beyond the week after it, and
// it is open.
func FuzzSchedule(f *testing.F) {
	f.Add("20:00", "06:00", "mon", "Europe/Berlin", int64(1_800_000_000))
	f.Add("00:00", "", "", "UTC", int64(0))
	f.Add("02:30", "02:30", "sun", "America/New_York", int64(1_772_953_200)) // the hour that summer time leaves out
	f.Add("02:10", "02:20", "sun", "Europe/Berlin", int64(1_774_746_000))
	f.Add("00:00", "00:10", "sun", "America/Havana", int64(1_772_946_000)) // midnight itself is left out
	f.Add("23:59", "00:00", "FRI", "../../etc/passwd", int64(-62135596800))
	f.Fuzz(func(t *testing.T, from, to, day, zone string, at int64) {
		if at < -62135596800 || at > 253402300799 { // years 1 to 9999
			return
		}
		s := Schedule{From: from, To: to, Zone: zone}
		if day != "" {
			s.Days = []string{day}
		}
		set, err := Compile([]Rule{{Name: "r", When: "true", To: []string{"d"}, Schedule: s}}, []string{"d"}, nil)
		if err != nil {
			checkProblems(t, err)
			return
		}
		asked := time.Unix(at, 0)
		opens := set.Opens("r", asked)
		if opens.Before(asked) || opens.Sub(asked) > 9*24*time.Hour {
			t.Errorf("%v asked at %v opens at %v", s, asked.UTC(), opens.UTC())
		}
		if again := set.Opens("r", opens); !again.Equal(opens) {
			t.Errorf("%v opens at %v, and asked then at %v", s, opens.UTC(), again.UTC())
		}
	})
}
