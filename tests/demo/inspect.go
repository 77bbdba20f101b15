package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const labelPrefix = "bodypart-"

// result is the JSON that the router writes into the metadata BodyPartResult.
type result struct {
	Class         string             `json:"class"`
	Confidence    float64            `json:"confidence"`
	Review        bool               `json:"review"`
	Reasons       []string           `json:"reasons"`
	Probabilities map[string]float64 `json:"probabilities"`
	Model         string             `json:"model"`
	Tag           string             `json:"tag"`
}

// label is the one label that a result asks for.
func (r result) label() string {
	if r.Review {
		return labelPrefix + "review"
	}
	return labelPrefix + strings.ReplaceAll(r.Class, "_", "-")
}

// inspection collects what is not as it should be.
type inspection struct {
	scene    *scene
	failures []string
	studies  map[string]*resource // by identifier
	series   map[string]*resource
}

// resource is a study or series: the labels it has, and those that its instances ask for.
type resource struct {
	name   string // for messages
	parent string
	labels []string
	wanted []string
}

func (i *inspection) fail(name, format string, args ...any) {
	i.failures = append(i.failures, name+": "+fmt.Sprintf(format, args...))
}

// inspect asks the Orthancs what has really happened: not the router, which might believe it.
func (c *scene) inspect(ctx context.Context, files []*file) (failures []string, err error) {
	i := inspection{scene: c, studies: map[string]*resource{}, series: map[string]*resource{}}
	for _, f := range files {
		if f.notSent != "" {
			if xrays[f.sopClass] {
				i.fail(f.name, "an X-ray, %s", f.notSent)
			}
			continue
		}
		if f.id == "" {
			if f.xray() {
				i.fail(f.name, "sent, and not in the archive")
			}
			continue
		}
		if err := i.instance(ctx, f); err != nil {
			return nil, fmt.Errorf("inspect %s: %w", f.name, err)
		}
	}
	for _, all := range []map[string]*resource{i.studies, i.series} {
		for _, r := range all {
			if !slices.Equal(r.labels, r.wanted) {
				i.fail(r.name, "labels are %v, its X-rays ask for %v", r.labels, r.wanted)
			}
		}
	}
	if err := i.destinations(ctx, files); err != nil {
		return nil, err
	}
	slices.Sort(i.failures)
	return i.failures, nil
}

// instance inspects one file in the archive: result and metadata, and the labels of its series and study.
func (i *inspection) instance(ctx context.Context, f *file) error {
	archive := i.scene.archive
	var instance struct{ ParentSeries string }
	if err := archive.GetJSON(ctx, "/instances/"+f.id, &instance); err != nil {
		return err
	}
	// An element that the file does not have is a 404.
	if status, value, err := archive.Do(ctx, http.MethodGet, "/instances/"+f.id+"/content/0018-0015", nil); err != nil {
		return err
	} else if status == http.StatusOK {
		f.tag = strings.TrimRight(string(value), " \x00")
	}
	if err := i.storedAt(ctx, f); err != nil {
		return err
	}
	if err := i.metadata(ctx, f); err != nil {
		return err
	}
	series, err := i.resource(ctx, i.series, "series", instance.ParentSeries, f)
	if err != nil {
		return err
	}
	study, err := i.resource(ctx, i.studies, "studies", series.parent, f)
	if err != nil {
		return err
	}
	f.study, f.labels = series.parent, study.labels
	return nil
}

// metadata reads the two values that the router writes, and holds them against each other.
func (i *inspection) metadata(ctx context.Context, f *file) error {
	values := map[int]string{}
	for _, number := range []int{metadataPart, metadataJSON} {
		status, value, err := i.scene.archive.Do(ctx, http.MethodGet, fmt.Sprintf("/instances/%s/metadata/%d", f.id, number), nil)
		if err != nil {
			return err
		}
		if status == http.StatusOK {
			values[number] = string(value)
		}
	}
	if !f.picture() {
		if len(values) > 0 {
			i.fail(f.name, "is no X-ray picture and has a result")
		}
		return nil
	}
	if f.state != "published" {
		i.fail(f.name, "no result: %s %s", orDash(f.state), f.reason)
	}
	if len(values) < 2 {
		if f.state == "published" {
			i.fail(f.name, "published, and its metadata are not in Orthanc")
		}
		return nil
	}
	var r result
	if err := json.Unmarshal([]byte(values[metadataJSON]), &r); err != nil {
		i.fail(f.name, "metadata BodyPartResult is no JSON: %v", err)
		return nil
	}
	f.result = &r
	if values[metadataPart] != r.Class {
		i.fail(f.name, "metadata BodyPart is %q, BodyPartResult says %q", values[metadataPart], r.Class)
	}
	if r.Model == "" || len(r.Probabilities) != len(classes) || r.Probabilities[r.Class] != r.Confidence {
		i.fail(f.name, "metadata BodyPartResult is not whole: %s", values[metadataJSON])
	}
	return nil
}

// resource notes what an X-ray asks of its series or study.
func (i *inspection) resource(ctx context.Context, known map[string]*resource, level, id string, f *file) (*resource, error) {
	r := known[id]
	if r == nil {
		var answer struct {
			ParentStudy string
			Labels      []string
		}
		if err := i.scene.archive.GetJSON(ctx, "/"+level+"/"+id, &answer); err != nil {
			return nil, err
		}
		slices.Sort(answer.Labels)
		r = &resource{name: level + " of " + f.name, parent: answer.ParentStudy, labels: answer.Labels}
		known[id] = r
	}
	if f.result != nil && !slices.Contains(r.wanted, f.result.label()) {
		r.wanted = append(r.wanted, f.result.label())
		slices.Sort(r.wanted)
	}
	return r, nil
}

// storedAt reads when the archive wrote the file. Orthanc's own metadata ReceptionDate counts whole seconds only.
func (i *inspection) storedAt(ctx context.Context, f *file) error {
	var attachment struct {
		UUID string `json:"Uuid"`
	}
	if err := i.scene.archive.GetJSON(ctx, "/instances/"+f.id+"/attachments/dicom/info", &attachment); err != nil {
		return err
	}
	if len(attachment.UUID) < 4 {
		return errors.New("the archive names no stored file")
	}
	stored, err := os.Stat(filepath.Join(i.scene.archive.Dir, "storage", attachment.UUID[:2], attachment.UUID[2:4], attachment.UUID))
	if err != nil {
		return err
	}
	f.stored = stored.ModTime()
	return nil
}

// destinations compares what the destinations hold with what the rules say, both ways.
func (i *inspection) destinations(ctx context.Context, files []*file) error {
	for _, name := range []string{chestAI, spineAI} {
		var held []string
		if err := i.scene.destinations[name].GetJSON(ctx, "/instances", &held); err != nil {
			return err
		}
		strangers := map[string]bool{}
		for _, id := range held {
			strangers[id] = true
		}
		for _, f := range files {
			there := f.id != "" && slices.Contains(held, f.id)
			should := f.result != nil && slices.Contains(wanted(*f.result), name)
			delete(strangers, f.id)
			switch {
			case there:
				f.arrived = append(f.arrived, name)
				if !should {
					i.fail(f.name, "is at %s, where no rule sends it", name)
				}
			case should:
				i.fail(f.name, "is not at %s, where the rules send it", name)
			}
		}
		if len(strangers) > 0 {
			i.fail(name, "holds %d instances that were not sent", len(strangers))
		}
	}
	return nil
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
