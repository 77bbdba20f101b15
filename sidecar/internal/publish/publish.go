// Package publish writes results into Orthanc: metadata on the instance, labels on its study and series. It compares before it
// writes, keeps the ledger of which labels are ours, and never touches anybody else's.
package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// Numbers are the user metadata that the router writes (1024…65535; registered in Orthanc's UserMetadata).
type Numbers struct {
	BodyPart int // instance: the class; whether it needs review stands in Result and in the labels
	Result   int // instance: JSON, see resultJSON
	Marker   int // study and series: written with the first label; gone when an overwrite recreated the resource
}

// Publisher writes results. It is safe for concurrent use; labels of one resource are written by one caller at a time.
type Publisher struct {
	Orthanc *orthanc.Client
	Store   *store.Store
	Prefix  string          // of labels, "bodypart-"
	Levels  []orthanc.Level // that carry labels
	Numbers Numbers
	Log     zerolog.Logger

	locks [256]sync.Mutex // by a hash of level and id: bounded, however many studies pass
}

// resultJSON is the value of the metadata BodyPartResult, under 1 KB.
type resultJSON struct {
	Class         bodypart.Class             `json:"class"`
	Confidence    float64                    `json:"confidence"`
	Review        bool                       `json:"review"`
	Reasons       []bodypart.Reason          `json:"reasons,omitempty"`
	Probabilities map[bodypart.Class]float64 `json:"probabilities"`
	Model         string                     `json:"model"`
	Tag           bodypart.Agreement         `json:"tag"` // BodyPartExamined compared with the class
	At            string                     `json:"at"`  // RFC 3339, UTC
}

// Result writes the metadata of one instance. Values that are there already are left alone: every write would make Orthanc announce
// a change.
func (p *Publisher) Result(ctx context.Context, r bodypart.Result) error {
	probabilities := make(map[bodypart.Class]float64, len(r.Probabilities))
	for c, v := range r.Probabilities {
		probabilities[c] = round4(v)
	}
	text, err := json.Marshal(resultJSON{r.Class, round4(r.Confidence), r.Review, r.Reasons, probabilities, r.Model, r.Tag, r.ClassifiedAt.UTC().Format(time.RFC3339)})
	if err != nil {
		return fmt.Errorf("describe result of instance %s: %w", r.InstanceID, err)
	}
	if err := p.metadata(ctx, orthanc.LevelInstance, r.InstanceID, p.Numbers.Result, string(text)); err != nil {
		return err
	}
	return p.metadata(ctx, orthanc.LevelInstance, r.InstanceID, p.Numbers.BodyPart, string(r.Class))
}

func round4(v float64) float64 { return float64(int64(v*1e4+0.5)) / 1e4 }

func (p *Publisher) metadata(ctx context.Context, level orthanc.Level, id string, number int, value string) error {
	old, found, etag, err := p.Orthanc.Metadata(ctx, level, id, number)
	if err != nil {
		return fmt.Errorf("read metadata %d of %s %s: %w", number, level, id, err)
	}
	if found && old == value {
		return nil
	}
	if err := p.Orthanc.PutMetadata(ctx, level, id, number, value, etag); err != nil {
		return fmt.Errorf("write metadata %d of %s %s: %w", number, level, id, err)
	}
	return nil
}

// Labels brings the labels of an instance's study, series and, where configured, of itself in line with the results.
func (p *Publisher) Labels(ctx context.Context, i store.Instance) error {
	for _, level := range p.Levels {
		if err := p.Resource(ctx, level, map[orthanc.Level]string{
			orthanc.LevelInstance: i.ID, orthanc.LevelSeries: i.SeriesID, orthanc.LevelStudy: i.StudyID,
		}[level]); err != nil {
			return err
		}
	}
	return nil
}

// Resource gives one resource the union of its instances' labels, where its level carries labels. The lock makes read, decide and
// write one step for this process, which the store's lock makes the only one.
func (p *Publisher) Resource(ctx context.Context, level orthanc.Level, id string) error {
	if !slices.Contains(p.Levels, level) {
		return nil
	}
	mutex := &p.locks[crc32.ChecksumIEEE([]byte(string(level)+"/"+id))%uint32(len(p.locks))]
	mutex.Lock()
	defer mutex.Unlock()

	results, err := p.Store.ResultsOf(ctx, string(level), id)
	if err != nil {
		return err
	}
	var wanted []string
	for _, r := range results {
		wanted = append(wanted, r.Label(p.Prefix))
	}
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)

	current, err := p.Orthanc.Labels(ctx, level, id)
	if err != nil {
		return fmt.Errorf("read labels of %s %s: %w", level, id, err)
	}
	marked, etag, err := p.marked(ctx, level, id)
	if err != nil {
		return err
	}
	ledger, err := p.Store.Ledger(ctx, string(level), id)
	if err != nil {
		return err
	}
	plan := decide(wanted, current, ledger, marked)
	if err := p.Store.SetLedger(ctx, string(level), id, plan.before); err != nil {
		return err
	}
	if len(plan.add) > 0 && !marked {
		if err := p.Orthanc.PutMetadata(ctx, level, id, p.Numbers.Marker, markerBegins+time.Now().UTC().Format(time.RFC3339), etag); err != nil {
			return fmt.Errorf("write marker of %s %s: %w", level, id, err)
		}
	}
	for _, label := range plan.add {
		if err := p.Orthanc.PutLabel(ctx, level, id, label); err != nil {
			return fmt.Errorf("add label %s to %s %s: %w", label, level, id, err)
		}
	}
	for _, label := range plan.remove {
		if err := p.Orthanc.DeleteLabel(ctx, level, id, label); err != nil {
			return fmt.Errorf("remove label %s from %s %s: %w", label, level, id, err)
		}
	}
	if err := p.Store.SetLedger(ctx, string(level), id, plan.after); err != nil {
		return err
	}
	if plan.changes() {
		p.Log.Info().Str("resource", string(level)+"/"+id).Strs("added", plan.add).Strs("removed", plan.remove).
			Strs("left_out", plan.respected).Msg("labels changed")
	}
	return nil
}

// markerBegins is how the marker begins, and ends with when it was set.
const markerBegins = "imaging-router "

// marked says whether a resource carries our marker. A proxy that answers nonsense with status 200 is no marker: without one of ours the labels
// would count as somebody's decisions, or the marker would never be set.
func (p *Publisher) marked(ctx context.Context, level orthanc.Level, id string) (marked bool, etag string, err error) {
	value, found, etag, err := p.Orthanc.Metadata(ctx, level, id, p.Numbers.Marker)
	if err != nil {
		return false, "", fmt.Errorf("read marker of %s %s: %w", level, id, err)
	}
	return found && strings.HasPrefix(value, markerBegins), etag, nil
}

// plan is what to do with the labels of one resource. before is written into the ledger ahead of the requests, after when all of
// them succeeded: a crash in between leaves "intended" rows, which the next run completes.
type plan struct {
	add, remove   []string
	respected     []string // newly found to have been removed by a person
	before, after map[string]store.LabelState
}

func (p plan) changes() bool { return len(p.add)+len(p.remove)+len(p.respected) > 0 }

// decide compares what should be with what is. marked says that the resource still carries our marker: when it does not and the
// ledger knows labels, an overwrite has recreated the resource and everything is applied again. When it does, a label of ours that
// is missing was removed by a person, and stays away.
func decide(wanted, current []string, ledger map[string]store.LabelState, marked bool) plan {
	p := plan{before: map[string]store.LabelState{}, after: map[string]store.LabelState{}}
	for _, label := range sorted(ledger) {
		state, present := ledger[label], slices.Contains(current, label)
		switch {
		case !marked && !slices.Contains(wanted, label):
			// Recreated: neither our label nor anybody's decision about it exists any more. A present one is a person's.
			p.before[label] = ""
		case !marked:
			// handled with the wanted ones below
		case state == store.LabelRemovedByPerson && present:
			p.before[label] = "" // a person put it back: it is theirs now
		case (state == store.LabelWritten || state == store.LabelKept) && !present:
			p.before[label] = store.LabelRemovedByPerson
			p.respected = append(p.respected, label)
		case state != store.LabelRemovedByPerson && state != store.LabelKept && !slices.Contains(wanted, label):
			if present {
				p.remove = append(p.remove, label)
			}
			p.after[label] = ""
		}
	}
	for _, label := range wanted {
		state, ours := ledger[label]
		present := slices.Contains(current, label)
		switch {
		case marked && ours && state != store.LabelIntended: // stands, or a person took it away
		case present && !ours: // a person was faster: it is theirs
		case present && !marked: // recreated, and a person has set it since
			p.before[label] = ""
		case present: // intended, and a crash came before the confirmation
			p.after[label] = store.LabelWritten
		default:
			p.add = append(p.add, label)
			p.before[label] = store.LabelIntended
			p.after[label] = store.LabelWritten
		}
	}
	return p
}

// Verdict is what a person has decided about a study whose results are under review.
type Verdict struct {
	Reviewed bool           // the label that asks for the review was taken away
	Class    bodypart.Class // the one class that a person has labelled the study with; "" when there is none, or several
}

// Verdict reads a person's decision about a study from its labels: they take the router's label for the review away, and set another class
// where the router's is wrong. Where labels are not on studies, nobody can decide by them.
func (p *Publisher) Verdict(ctx context.Context, study string) (Verdict, error) {
	level := orthanc.LevelStudy
	if !slices.Contains(p.Levels, level) {
		return Verdict{}, nil
	}
	ledger, err := p.Store.Ledger(ctx, string(level), study)
	if err != nil {
		return Verdict{}, err
	}
	current, err := p.Orthanc.Labels(ctx, level, study)
	if err != nil {
		return Verdict{}, fmt.Errorf("read labels of study %s: %w", study, err)
	}
	marked, _, err := p.marked(ctx, level, study)
	if err != nil {
		return Verdict{}, err
	}
	return verdict(p.Prefix, current, ledger, marked), nil
}

func verdict(prefix string, current []string, ledger map[string]store.LabelState, marked bool) Verdict {
	review := bodypart.ReviewLabel(prefix)
	asked := ledger[review] == store.LabelWritten || ledger[review] == store.LabelRemovedByPerson
	v := Verdict{Reviewed: marked && asked && !slices.Contains(current, review)}
	for _, class := range bodypart.Classes() {
		label := class.Label(prefix)
		if _, ours := ledger[label]; ours || !slices.Contains(current, label) {
			continue
		}
		if v.Class != "" {
			return Verdict{Reviewed: v.Reviewed}
		}
		v.Class = class
	}
	return v
}

func sorted(ledger map[string]store.LabelState) []string {
	labels := make([]string, 0, len(ledger))
	for l := range ledger {
		labels = append(labels, l)
	}
	slices.Sort(labels)
	return labels
}
