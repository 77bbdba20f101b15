package setup

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// Remover takes out of Orthanc what the router wrote there, and nothing else: labels that the ledger says are ours, metadata on
// instances that we published, markers. Every step can be repeated, so that an interrupted removal is finished by another one.
type Remover struct {
	Orthanc  *orthanc.Client
	Store    *store.Store
	Numbers  config.Metadata
	DryRun   bool                  // only count
	Progress func(done, total int) // may be nil
	named    map[int][]string      // the names under which Orthanc shows a number
	seen     map[string]bool       // instances that were looked at
	total    int
	done     int
	removed  Removed
}

// Removed is what was found and, unless it was a dry run, taken out.
type Removed struct {
	Labels, Markers, BodyParts, Results int // ours
	Labelled                            int // resources whose labels they were
	Theirs                              int // values under our numbers, and labels like ours, that somebody else wrote since: they stay
	Gone                                int // resources that Orthanc no longer has
}

// Nothing says whether there was nothing of ours.
func (r Removed) Nothing() bool { return r.Labels+r.Markers+r.BodyParts+r.Results == 0 }

// page is how many resources are asked for at a time.
const page = 200

// Run goes through everything once.
func (r *Remover) Run(ctx context.Context) (Removed, error) {
	system, err := r.Orthanc.System(ctx)
	if err != nil {
		return r.removed, explain(err)
	}
	r.removed, r.seen, r.done = Removed{}, map[string]bool{}, 0
	r.named = map[int][]string{}
	for _, number := range []int{r.Numbers.BodyPart, r.Numbers.Result, r.Numbers.Marker} {
		r.named[number] = []string{strconv.Itoa(number)}
		for name, n := range system.UserMetadata {
			if n == number {
				r.named[number] = append(r.named[number], name)
			}
		}
	}
	began, after, err := r.Store.UninstallProgress(ctx)
	if err != nil {
		return r.removed, err
	}
	if began.IsZero() {
		began = time.Now()
	}
	// What the database has forgotten is found through the ledger, so it comes before the ledger is emptied.
	forgotten, err := r.Store.LabelledOnly(ctx)
	if err != nil {
		return r.removed, err
	}
	resources, err := r.Store.MarkedResources(ctx)
	if err != nil {
		return r.removed, err
	}
	instances, err := r.Store.ClassifiedInstances(ctx, after, began)
	if err != nil {
		return r.removed, err
	}
	r.total = len(instances) + len(forgotten) + len(resources)
	for part := range slices.Chunk(instances, page) {
		if err := r.instances(ctx, part); err != nil {
			return r.removed, err
		}
		if !r.DryRun {
			if err := r.Store.SetUninstallProgress(ctx, began, part[len(part)-1]); err != nil {
				return r.removed, err
			}
		}
		r.step(len(part))
	}
	for _, resource := range forgotten {
		if err := r.forgotten(ctx, resource); err != nil {
			return r.removed, err
		}
		r.step(1)
	}
	for part := range slices.Chunk(resources, page) {
		if err := r.resources(ctx, part); err != nil {
			return r.removed, err
		}
		r.step(len(part))
	}
	if !r.DryRun {
		return r.removed, r.Store.SetUninstallProgress(ctx, time.Time{}, "")
	}
	return r.removed, nil
}

func (r *Remover) step(n int) {
	r.done += n
	if r.Progress != nil {
		r.Progress(r.done, r.total)
	}
}

// instances takes out BodyPart and BodyPartResult where they are ours.
func (r *Remover) instances(ctx context.Context, ids []string) error {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return r.seen[id] })
	for _, id := range ids {
		r.seen[id] = true
	}
	found, err := r.Orthanc.Instances(ctx, ids)
	if err != nil {
		return fmt.Errorf("read metadata of instances: %w", err)
	}
	r.removed.Gone += len(ids) - len(found)
	for _, i := range found {
		if err := r.instance(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (r *Remover) instance(ctx context.Context, i orthanc.Instance) error {
	class, hasClass := r.value(i.Metadata, r.Numbers.BodyPart)
	result, hasResult := r.value(i.Metadata, r.Numbers.Result)
	if !hasClass && !hasResult {
		return nil
	}
	classes, err := r.Store.ClassesOf(ctx, i.ID)
	if err != nil {
		return err
	}
	written, oursResult := ourResult(result)
	if oursResult {
		classes = []string{written} // what we wrote last
	}
	switch {
	case !hasClass:
	case !slices.Contains(classes, class): // a person's correction
		r.removed.Theirs++
	default: // first: as long as the result is there, this one can be told from a stranger's
		if err := r.delete(ctx, orthanc.LevelInstance, i.ID, r.Numbers.BodyPart, class, &r.removed.BodyParts); err != nil {
			return err
		}
	}
	switch {
	case !hasResult:
	case !oursResult:
		r.removed.Theirs++
	default:
		return r.delete(ctx, orthanc.LevelInstance, i.ID, r.Numbers.Result, result, &r.removed.Results)
	}
	return nil
}

// ourResult says whether a text is a BodyPartResult as the router writes it, and of which class.
func ourResult(text string) (class string, ours bool) {
	var v struct {
		Class         bodypart.Class             `json:"class"`
		Confidence    *float64                   `json:"confidence"`
		Review        *bool                      `json:"review"`
		Reasons       []string                   `json:"reasons"`
		Probabilities map[bodypart.Class]float64 `json:"probabilities"`
		Model         string                     `json:"model"`
		Tag           string                     `json:"tag"`
		At            time.Time                  `json:"at"`
	}
	d := json.NewDecoder(bytes.NewBufferString(text))
	d.DisallowUnknownFields()
	ours = d.Decode(&v) == nil && !d.More() && slices.Contains(bodypart.Classes(), v.Class) && v.Confidence != nil && v.Review != nil &&
		len(v.Probabilities) > 0 && strings.Contains(v.Model, "@") && !v.At.IsZero()
	return string(v.Class), ours
}

// value returns a metadata of a bulk answer, where Orthanc shows a number under its name.
func (r *Remover) value(metadata map[string]string, number int) (string, bool) {
	for _, name := range r.named[number] {
		if v, ok := metadata[name]; ok {
			return v, true
		}
	}
	return "", false
}

// delete takes out one metadata, unless its value is another one by now.
func (r *Remover) delete(ctx context.Context, level orthanc.Level, id string, number int, value string, count *int) error {
	if r.DryRun {
		*count++
		return nil
	}
	now, there, etag, err := r.Orthanc.Metadata(ctx, level, id, number)
	switch {
	case err == nil && there && now == value:
		err = r.Orthanc.DeleteMetadata(ctx, level, id, number, etag)
	case err == nil:
		return nil
	}
	if orthanc.IsNotFound(err) { // deleted since the bulk answer
		r.removed.Gone++
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove metadata %d of %s %s: %w", number, level, id, err)
	}
	*count++
	return nil
}

// forgotten looks at all instances of a series or study that only the ledger knows.
func (r *Remover) forgotten(ctx context.Context, resource store.Resource) error {
	series := []string{resource.ID}
	switch orthanc.Level(resource.Level) {
	case orthanc.LevelInstance:
		return r.instances(ctx, []string{resource.ID})
	case orthanc.LevelStudy:
		studies, err := r.Orthanc.Studies(ctx, []string{resource.ID})
		if err != nil {
			return fmt.Errorf("read study %s: %w", resource.ID, err)
		}
		series = nil
		for _, s := range studies {
			series = append(series, s.Series...)
		}
	case orthanc.LevelSeries:
	}
	all, err := r.Orthanc.SeriesMany(ctx, series)
	if err != nil {
		return fmt.Errorf("read the series of %s %s: %w", resource.Level, resource.ID, err)
	}
	for _, s := range all {
		for part := range slices.Chunk(s.Instances, page) {
			if err := r.instances(ctx, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// content is what of a resource concerns us.
type content struct {
	labels   []string
	metadata map[string]string
}

func (r *Remover) resources(ctx context.Context, part []store.Resource) error {
	ids := map[orthanc.Level][]string{}
	for _, resource := range part {
		ids[orthanc.Level(resource.Level)] = append(ids[orthanc.Level(resource.Level)], resource.ID)
	}
	there := map[store.Resource]content{}
	studies, err := r.Orthanc.Studies(ctx, ids[orthanc.LevelStudy])
	if err != nil {
		return fmt.Errorf("read labels of studies: %w", err)
	}
	for _, s := range studies {
		there[store.Resource{Level: string(orthanc.LevelStudy), ID: s.ID}] = content{s.Labels, s.Metadata}
	}
	series, err := r.Orthanc.SeriesMany(ctx, ids[orthanc.LevelSeries])
	if err != nil {
		return fmt.Errorf("read labels of series: %w", err)
	}
	for _, s := range series {
		there[store.Resource{Level: string(orthanc.LevelSeries), ID: s.ID}] = content{s.Labels, s.Metadata}
	}
	instances, err := r.Orthanc.Instances(ctx, ids[orthanc.LevelInstance])
	if err != nil {
		return fmt.Errorf("read labels of instances: %w", err)
	}
	for _, i := range instances {
		there[store.Resource{Level: string(orthanc.LevelInstance), ID: i.ID}] = content{i.Labels, i.Metadata}
	}
	for _, resource := range part {
		c, ok := there[resource]
		if !ok {
			r.removed.Gone++
			continue
		}
		if err := r.resource(ctx, resource, c); err != nil {
			return err
		}
	}
	return nil
}

// resource takes out labels, then the marker, then the ledger's rows: whatever interrupts this, another run knows what is ours.
func (r *Remover) resource(ctx context.Context, resource store.Resource, c content) error {
	level := orthanc.Level(resource.Level)
	ledger, err := r.Store.Ledger(ctx, resource.Level, resource.ID)
	if err != nil {
		return err
	}
	marker, marked := r.value(c.metadata, r.Numbers.Marker)
	marked = marked && strings.HasPrefix(marker, "imaging-router ")
	labels := 0
	forget := make(map[string]store.LabelState, len(ledger))
	for label, state := range ledger {
		forget[label] = ""
		switch {
		case !slices.Contains(c.labels, label):
		case !marked || state == store.LabelRemovedByPerson:
			// The study was recreated, or a person had removed ours: this one was set by somebody since.
			r.removed.Theirs++
		default:
			if !r.DryRun {
				if err := r.Orthanc.DeleteLabel(ctx, level, resource.ID, label); err != nil && !orthanc.IsNotFound(err) {
					return fmt.Errorf("remove label %s from %s %s: %w", label, level, resource.ID, err)
				}
			}
			labels++
		}
	}
	r.removed.Labels += labels
	if labels > 0 {
		r.removed.Labelled++
	}
	if marked {
		if err := r.delete(ctx, level, resource.ID, r.Numbers.Marker, marker, &r.removed.Markers); err != nil {
			return err
		}
	}
	if r.DryRun {
		return nil
	}
	return r.Store.SetLedger(ctx, resource.Level, resource.ID, forget)
}
