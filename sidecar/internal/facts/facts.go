// Package facts lends the rules what they ask about an instance: its DICOM tags, how it arrived, what its study holds. It fetches from
// Orthanc only what an expression really asks for, and keeps nothing: tags never reach the database or the log.
package facts

import (
	"context"
	"strconv"
	"strings"

	"github.com/suyashkumar/dicom/pkg/tag"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/picture"
	"imagingrouter/sidecar/internal/rules"
	"imagingrouter/sidecar/internal/store"
)

// Source is where facts come from.
type Source struct {
	Orthanc *orthanc.Client
	Store   *store.Store
}

// Of returns what a rule can ask about the result of one instance. inst is Orthanc's entry for it, nil when it is yet to be fetched. What was
// fetched once is not fetched again, whoever asks.
func (s Source) Of(row store.Instance, inst *orthanc.Instance, r bodypart.Result) rules.Context {
	c := rules.Context{
		Class: r.Class, Confidence: r.Confidence, Probabilities: r.Probabilities, Review: r.Review, Agrees: r.Tag == bodypart.TagAgrees,
		Copy: inst != nil && inst.IsCopy(),
		Arrival: func(ctx context.Context) (rules.Arrival, error) {
			if inst == nil {
				found, err := s.Orthanc.Instance(ctx, row.ID)
				if err != nil {
					return rules.Arrival{}, err
				}
				inst = &found
			}
			return rules.Arrival{RemoteAET: inst.Metadata["RemoteAET"], CalledAET: inst.Metadata["CalledAET"], Origin: inst.Metadata["Origin"]}, nil
		},
		Study: func(ctx context.Context) (rules.Study, error) {
			results, err := s.Store.ResultsOf(ctx, string(orthanc.LevelStudy), row.StudyID)
			if err != nil {
				return rules.Study{}, err
			}
			n, err := s.Orthanc.StudyInstances(ctx, row.StudyID)
			return rules.Study{Classes: Certain(results), Instances: n}, err
		},
	}
	var tags *rules.Tags
	c.Tags = func(ctx context.Context) (rules.Tags, error) {
		if tags == nil {
			numbered, err := s.Orthanc.Tags(ctx, row.ID)
			if err != nil {
				return rules.Tags{}, err
			}
			found := TagsOf(byKeyword(numbered))
			tags = &found
		}
		return *tags, nil
	}
	return c
}

// Priority is the turn that an order itself asks for: Requested Procedure Priority (0040,1003), else the older Study Priority ID (0032,000C).
// STAT and HIGH go first, LOW goes last, and whatever else stands there is ordinary (PS3.3 C.4.11).
func Priority(t rules.Tags) rules.Priority {
	word := t.Values["RequestedProcedurePriority"]
	if word == "" {
		word = t.Values["StudyPriorityID"]
	}
	switch strings.ToUpper(strings.TrimSpace(word)) {
	case "STAT", "HIGH":
		return rules.High
	case "LOW":
		return rules.Low
	default:
		return rules.Normal
	}
}

// Certain returns the classes of the results that are not under review.
func Certain(results []bodypart.Result) []bodypart.Class {
	var classes []bodypart.Class
	for _, r := range results {
		if !r.Review {
			classes = append(classes, r.Class)
		}
	}
	return classes
}

// TagsOf works out the patient's age beside the tags.
func TagsOf(values map[string]string) rules.Tags {
	t := rules.Tags{Values: values}
	t.AgeYears, t.AgeKnown = picture.Age(values["PatientAge"], values["PatientBirthDate"], values["StudyDate"])
	return t
}

// byKeyword turns "0008,1030" into "StudyDescription". Tags that DICOM's dictionary does not know, private ones among them, are left out.
func byKeyword(numbered map[string]string) map[string]string {
	values := make(map[string]string, len(numbered))
	for number, value := range numbered {
		group, element, _ := strings.Cut(number, ",")
		g, err := strconv.ParseUint(group, 16, 16)
		if err != nil {
			continue
		}
		e, err := strconv.ParseUint(element, 16, 16)
		if err != nil {
			continue
		}
		if known, err := tag.Find(tag.Tag{Group: uint16(g), Element: uint16(e)}); err == nil {
			values[known.Keyword] = strings.Trim(value, " \x00")
		}
	}
	return values
}
