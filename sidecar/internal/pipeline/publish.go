package pipeline

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/riverqueue/river"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/facts"
	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/rules"
	"imagingrouter/sidecar/internal/store"
)

// Publish writes an instance's result into Orthanc, and marks it published together with the deliveries that the rules name.
func (p *Pipeline) Publish(ctx context.Context, job *river.Job[jobs.Publish]) error {
	row, err := p.Store.Instance(ctx, job.Args.Instance)
	if err != nil {
		return err
	}
	return p.guard(ctx, job.JobRow, row.ID, func() error { return p.publish(ctx, job, row) },
		func(e *ended) error {
			return endInstance(ctx, p, job, row, row.Done, orthanc.Instance{FileUUID: row.FileUUID}, e)
		})
}

func (p *Pipeline) publish(ctx context.Context, job *river.Job[jobs.Publish], row store.Instance) error {
	began := time.Now()
	result, known, err := p.Store.Result(ctx, row.ID, row.ContentMD5, row.Model)
	if err != nil {
		return err
	}
	if !known || !row.HasResult() {
		return p.finishPublish(ctx, job, row, nil, "superseded", "the instance ended in the meantime: "+string(row.State), began)
	}
	inst, err := p.Orthanc.Instance(ctx, row.ID)
	if err != nil {
		return p.orMissing(ctx, row.ID, err)
	}
	if inst.FileUUID != row.FileUUID { // overwritten since: this result is not the new content's
		if err := p.Marker.Mark(ctx, store.SourceFollower, row.ID); err != nil {
			return err
		}
		return p.finishPublish(ctx, job, row, nil, "superseded", "overwritten in the meantime: marked again", began)
	}
	clock := newStages(p)
	if err := p.Publisher.Result(ctx, result); err != nil {
		return p.orMissing(ctx, row.ID, err)
	}
	clock.next("metadata")
	if err := p.Publisher.Labels(ctx, row); err != nil {
		return p.orMissing(ctx, row.ID, err)
	}
	clock.next("labels")
	decided, why, err := p.routes(ctx, row, inst, result)
	if err != nil {
		return err
	}
	if err := p.finishPublish(ctx, job, row, decided, "published", why, began); err != nil {
		return err
	}
	if row.Forward && row.LabelledUUID != row.FileUUID { // not when the follower announces what the hook has brought
		p.Metrics.Labelled(time.Since(row.MarkedAt))
	}
	p.Log.Info().Str("instance", row.ID).Str("label", result.Label(p.Publisher.Prefix)).Str("routes", why).Int64("job", job.ID).Int("attempt", job.Attempt).
		Dur("took", time.Since(began)).Msg("published")
	return nil
}

// finishPublish ends the job: published, and one delivery for each destination, in one transaction. When a newer classification came
// while the job ran, it is enqueued anew instead.
func (p *Pipeline) finishPublish(ctx context.Context, job *river.Job[jobs.Publish], row store.Instance, decided *decision, outcome, why string, began time.Time) error {
	return p.Store.Tx(ctx, func(tx *sql.Tx) error {
		done, err := p.Store.Published(ctx, tx, row.ID, row.Done)
		if err != nil {
			return err
		}
		if !done.Published {
			if err := p.enqueuePublish(ctx, tx, done.Instance); err != nil {
				return err
			}
		}
		if err := p.route(ctx, tx, row, decided); err != nil {
			return err
		}
		if err := p.Store.AddEvent(ctx, tx, store.Event{InstanceID: row.ID, Stage: job.Kind, Job: job.ID, Attempt: job.Attempt,
			Outcome: outcome, Detail: why, Took: time.Since(began)}); err != nil {
			return err
		}
		return jobs.Complete(ctx, tx, job)
	})
}

// decision is what the rules say about one arrival; nil where they were not asked.
type decision struct {
	matches []rules.Match
	waits   []rules.Whole // the rules that may send the instance's series or study when it is complete
	file    string        // Orthanc's name of the stored file that was decided about
}

// route creates within tx the deliveries that the rules ask for, begins the waits of those that send a whole series or study, and notes that
// the rules have decided.
func (p *Pipeline) route(ctx context.Context, tx *sql.Tx, row store.Instance, d *decision) error {
	if d == nil {
		return nil
	}
	for _, m := range d.matches {
		for _, destination := range m.Destinations {
			plan := store.Delivery{Level: store.LevelInstance, ResourceID: row.ID, StudyID: row.StudyID, Destination: destination, Rule: m.Rule,
				ReceivedAt: row.ReceivedAt, Priority: int(queuePriority[m.Priority]), NotBefore: m.NotBefore}
			item := store.Item{InstanceID: row.ID, ContentMD5: row.ContentMD5, FileUUID: d.file}
			if _, _, err := p.addDelivery(ctx, tx, plan, []store.Item{item}); err != nil {
				return err
			}
		}
	}
	for _, rule := range d.waits {
		if err := p.await(ctx, tx, row, rule); err != nil {
			return err
		}
	}
	// It came late to what rules have sent already, or are still waiting for, whether they would begin with it or not.
	if err := p.Marker.LateIn(ctx, tx, row.SeriesID, row.StudyID); err != nil {
		return err
	}
	return p.Store.SetRouted(ctx, tx, row.ID, row.Arrival())
}

// await begins, or prolongs, within tx the wait of a rule for the instance's series or study.
func (p *Pipeline) await(ctx context.Context, tx *sql.Tx, row store.Instance, rule rules.Whole) error {
	level := storeLevel(rule.Level)
	resource := map[store.Level]string{store.LevelSeries: row.SeriesID, store.LevelStudy: row.StudyID}[level]
	job, err := p.Store.Gather(ctx, tx, level, resource, row.StudyID, rule.Name)
	if err != nil {
		return err
	}
	if job == 0 {
		if job, err = p.Queue.Gather(ctx, tx, level, resource); err != nil {
			return err
		}
	}
	return p.Store.SetGatheringJob(ctx, tx, level, resource, job)
}

// queuePriority says what a rule's priority is to the destination's queue.
var queuePriority = map[rules.Priority]jobs.Priority{rules.High: jobs.High, rules.Normal: jobs.Normal, rules.Low: jobs.Low}

// addDelivery creates within tx a delivery of those of the items that the destination has not got, with its job, unless the volume brake holds it.
func (p *Pipeline) addDelivery(ctx context.Context, tx *sql.Tx, plan store.Delivery, items []store.Item) (store.Delivery, bool, error) {
	policy := p.Destinations[plan.Destination].Resend
	left, err := p.Store.Uncovered(ctx, tx, plan.Destination, policy, items)
	if err != nil || len(left) == 0 {
		return plan, false, err
	}
	if plan.Reason, err = p.Volume.Hold(ctx, tx); err != nil {
		return plan, false, err
	}
	if plan.Reason != "" {
		plan.State = store.DeliveryHeld
	}
	d, created, err := p.Store.AddDelivery(ctx, tx, plan, policy, left)
	if err != nil || !created || d.State == store.DeliveryHeld {
		return d, created, err
	}
	job, err := p.Queue.Deliver(ctx, tx, d.ID, d.Destination, jobs.Priority(d.Priority), d.NotBefore)
	if err != nil {
		return d, created, err
	}
	return d, created, p.Store.SetDeliveryJob(ctx, tx, d.ID, job)
}

// routes returns where the rules send the result, and a sentence that says why there and not elsewhere.
func (p *Pipeline) routes(ctx context.Context, row store.Instance, inst orthanc.Instance, r bodypart.Result) (*decision, string, error) {
	on, err := p.Forwarding.Creates(ctx)
	if err != nil {
		return nil, "", err
	}
	age := time.Since(row.ReceivedAt)
	switch {
	case !on:
		return nil, "not forwarded: forwarding is off (pilot mode)", nil
	case !row.Forward:
		return nil, "not forwarded: marked by " + string(row.Source) + ", which labels only", nil
	case age > p.RouteMaxAge:
		return nil, fmt.Sprintf("not forwarded: received %s ago, route_max_age is %s", age.Round(time.Second), p.RouteMaxAge), nil
	case row.Routed == row.Arrival() && row.Source != store.SourceCommand:
		return nil, "the rules have decided about this file before", nil
	}
	set := p.Rules.Set()
	asked := facts.Source{Orthanc: p.Orthanc, Store: p.Store}.Of(row, &inst, r)
	verdicts, err := set.Explain(ctx, asked)
	if err != nil {
		return nil, "", p.orMissing(ctx, row.ID, err)
	}
	var words []string
	for _, v := range verdicts {
		if v.Undecided { // the values are not told: they may be the patient's
			p.Metrics.RuleFailed(v.Rule)
			p.Log.Warn().Str("instance", row.ID).Str("rule", v.Rule).Msg("a rule could not be evaluated and counts as no match; see /v1/instances/{id}/explain")
			words = append(words, fmt.Sprintf("rule %q could not be evaluated", v.Rule))
		}
	}
	out := &decision{file: inst.FileUUID}
	for _, m := range rules.Matches(verdicts) {
		kept := m
		kept.Destinations = nil
		for _, name := range m.Destinations {
			if p.Destinations[name].SentIt(inst) {
				words = append(words, fmt.Sprintf("not to %s: it came from there", name))
				continue
			}
			kept.Destinations = append(kept.Destinations, name)
			word := fmt.Sprintf("to %s by rule %q", name, m.Rule)
			if !m.NotBefore.IsZero() {
				word += ", not before " + m.NotBefore.Format(time.RFC3339)
			}
			words = append(words, word)
		}
		if kept.Priority == "" && len(kept.Destinations) > 0 { // the rule leaves it to the order's own priority
			tags, err := asked.Tags(ctx)
			if err != nil {
				return nil, "", p.orMissing(ctx, row.ID, err)
			}
			kept.Priority = facts.Priority(tags)
		}
		out.matches = append(out.matches, kept)
	}
	for _, rule := range set.Wholes() {
		at := slices.IndexFunc(verdicts, func(v rules.Verdict) bool { return v.Rule == rule.Name })
		if v := verdicts[at]; !v.Matched && (v.Passed || !rule.MayChange && !r.Review) || asked.Copy && !rule.Copies {
			continue
		}
		out.waits = append(out.waits, rule)
		words = append(words, fmt.Sprintf("rule %q waits for the whole %s", rule.Name, rule.Level))
	}
	if len(words) == 0 {
		return out, "no rule matched", nil
	}
	return out, strings.Join(words, "; "), nil
}
