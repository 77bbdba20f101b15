// Package worldtest reads what an Orthanc shows of the router's work: results, labels, and what has arrived. It looks by Orthanc's REST API
// alone, with an account that may see everything.
package worldtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"imagingrouter/tests/orthanctest"
)

// Prefix is of the labels.
const Prefix = "bodypart-"

// Review is what is said of an instance that a person must look at.
const Review = "review"

// Classes are those of the network.
var Classes = []string{"abdominal", "adult_chest", "pediatric_chest", "spine", "others"}

// Label is the label of a class, or of review.
func Label(class string) string { return Prefix + strings.ReplaceAll(class, "_", "-") }

// Shown is what Orthanc shows of one instance.
type Shown struct {
	ID, Series, Study         string
	BodyPart, Result          string // metadata
	Said                      string // the class, or "review"; empty before there is a result
	SeriesLabels, StudyLabels []string
	Metadata                  map[string]string
	SeriesMetadata            map[string]string
	StudyMetadata             map[string]string
}

type bulk struct {
	ID, ParentSeries, ParentStudy string
	MainDicomTags, Metadata       map[string]string
	Labels                        []string
}

func bulkContent(ctx context.Context, archive *orthanctest.Server, level string, ids []string) (map[string]bulk, error) {
	status, answer, err := archive.Do(ctx, http.MethodPost, "/tools/bulk-content", map[string]any{"Resources": ids, "Level": level, "Metadata": true})
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("bulk-content: HTTP %d: %s: %w", status, answer, err)
	}
	var list []bulk
	if err := json.Unmarshal(answer, &list); err != nil {
		return nil, err
	}
	out := make(map[string]bulk, len(list))
	for _, b := range list {
		out[b.ID] = b
	}
	return out, nil
}

// Look returns all that the archive shows, by SOP Instance UID.
func Look(ctx context.Context, archive *orthanctest.Server) (map[string]Shown, error) {
	var ids []string
	if err := archive.GetJSON(ctx, "/instances", &ids); err != nil {
		return nil, err
	}
	instances, err := bulkContent(ctx, archive, "Instance", ids)
	if err != nil {
		return nil, err
	}
	series, err := bulkContent(ctx, archive, "Series", ids)
	if err != nil {
		return nil, err
	}
	studies, err := bulkContent(ctx, archive, "Study", ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]Shown, len(instances))
	for _, i := range instances {
		s := Shown{ID: i.ID, Series: i.ParentSeries, Study: series[i.ParentSeries].ParentStudy, Metadata: i.Metadata, BodyPart: i.Metadata["BodyPart"], Result: i.Metadata["BodyPartResult"]}
		if s.Said = s.BodyPart; strings.Contains(s.Result, `"review":true`) {
			s.Said = Review
		}
		s.SeriesLabels, s.StudyLabels = series[s.Series].Labels, studies[s.Study].Labels
		s.SeriesMetadata, s.StudyMetadata = series[s.Series].Metadata, studies[s.Study].Metadata
		out[i.MainDicomTags["SOPInstanceUID"]] = s
	}
	return out, nil
}

// Valid checks an instance's metadata against each other.
func (s Shown) Valid() error {
	if s.BodyPart == "" {
		return errors.New("no metadata BodyPart")
	}
	if len(s.Result) >= 1024 {
		return fmt.Errorf("BodyPartResult has %d bytes", len(s.Result))
	}
	var r struct {
		Class         string
		Confidence    float64
		Review        bool
		Reasons       []string
		Probabilities map[string]float64
		Model, Tag    string
		At            string
	}
	if err := json.Unmarshal([]byte(s.Result), &r); err != nil {
		return fmt.Errorf("BodyPartResult is no JSON: %q: %w", s.Result, err)
	}
	sum := 0.0
	for _, p := range r.Probabilities {
		sum += p
	}
	if r.Class != s.BodyPart || len(r.Probabilities) != len(Classes) || sum < 0.99 || sum > 1.01 || r.Model == "" || r.At == "" || r.Review != (len(r.Reasons) > 0) {
		return fmt.Errorf("BodyPart %q and BodyPartResult %s do not fit", s.BodyPart, s.Result)
	}
	return nil
}

// Arrived returns the Orthanc identifiers of the instances at a destination, by SOP Instance UID.
func Arrived(ctx context.Context, destination *orthanctest.Server) (map[string]string, error) {
	var instances []struct {
		ID            string
		MainDicomTags map[string]string
	}
	if err := destination.GetJSON(ctx, "/instances?expand", &instances); err != nil {
		return nil, err
	}
	out := make(map[string]string, len(instances))
	for _, i := range instances {
		out[i.MainDicomTags["SOPInstanceUID"]] = i.ID
	}
	return out, nil
}

// LastNewInstance is the Seq of the newest instance in the archive's log of changes.
func LastNewInstance(ctx context.Context, archive *orthanctest.Server) (int64, error) {
	last := int64(0)
	for {
		var page struct {
			Changes []struct {
				ChangeType string
				Seq        int64
			}
			Done bool
			Last int64
		}
		if err := archive.GetJSON(ctx, fmt.Sprintf("/changes?since=%d&limit=1000&type=NewInstance", last), &page); err != nil {
			return 0, err
		}
		for _, c := range page.Changes {
			last = max(last, c.Seq)
		}
		if page.Done || len(page.Changes) == 0 {
			return last, nil
		}
	}
}
