package pipeline

import (
	"context"
	"database/sql"
	"fmt"
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
		func(e *ended) error { return endInstance(ctx, p, job, row, row.Done, row.FileUUID, e) })
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
type decision struct{ matches []rules.Match }

// route creates within tx the deliveries that the rules ask for, and notes that they have decided.
func (p *Pipeline) route(ctx context.Context, tx *sql.Tx, row store.Instance, d *decision) error {
	if d == nil {
		return nil
	}
	for _, m := range d.matches {
		for _, destination := range m.Destinations {
			if err := p.addDelivery(ctx, tx, row, m, destination); err != nil {
				return err
			}
		}
	}
	return p.Store.SetRouted(ctx, tx, row.ID, row.Arrival())
}

// queuePriority says what a rule's priority is to the destination's queue.
var queuePriority = map[rules.Priority]jobs.Priority{rules.High: jobs.High, rules.Normal: jobs.Normal, rules.Low: jobs.Low}

func (p *Pipeline) addDelivery(ctx context.Context, tx *sql.Tx, row store.Instance, m rules.Match, destination string) error {
	d, created, err := p.Store.AddDelivery(ctx, tx, store.Delivery{
		InstanceID: row.ID, ContentMD5: row.ContentMD5, Destination: destination, Rule: m.Rule, ReceivedAt: row.ReceivedAt,
		Priority: int(queuePriority[m.Priority]), NotBefore: m.NotBefore,
	})
	if err != nil || !created {
		return err
	}
	job, err := p.Queue.Deliver(ctx, tx, d.ID, destination, jobs.Priority(d.Priority), d.NotBefore)
	if err != nil {
		return err
	}
	return p.Store.SetDeliveryJob(ctx, tx, d.ID, job)
}

// routes returns where the rules send the result, and a sentence that says why there and not elsewhere.
func (p *Pipeline) routes(ctx context.Context, row store.Instance, inst orthanc.Instance, r bodypart.Result) (*decision, string, error) {
	on, err := p.Forwarding.Creates(ctx)
	if err != nil {
		return nil, "", err
	}
	age := time.Since(row.ReceivedAt)
	_, modified := inst.Metadata["ModifiedFrom"]
	_, anonymised := inst.Metadata["AnonymizedFrom"]
	switch {
	case !on:
		return nil, "not forwarded: forwarding is off (pilot mode)", nil
	case !row.Forward:
		return nil, "not forwarded: marked by " + string(row.Source) + ", which labels only", nil
	case age > p.RouteMaxAge:
		return nil, fmt.Sprintf("not forwarded: received %s ago, route_max_age is %s", age.Round(time.Second), p.RouteMaxAge), nil
	case row.Routed == row.Arrival() && row.Source != store.SourceCommand:
		return nil, "the rules have decided about this file before", nil
	case !p.Copies && (modified || anonymised):
		return nil, "not forwarded: a copy made by modify or anonymise", nil
	}
	out := &decision{}
	var words []string
	verdicts, err := p.Rules.Set().Explain(ctx, facts.Source{Orthanc: p.Orthanc, Store: p.Store}.Of(row, &inst, r))
	if err != nil {
		return nil, "", p.orMissing(ctx, row.ID, err)
	}
	for _, v := range verdicts {
		if v.Undecided { // the values are not told: they may be the patient's
			p.Metrics.RuleFailed(v.Rule)
			p.Log.Warn().Str("instance", row.ID).Str("rule", v.Rule).Msg("a rule could not be evaluated and counts as no match; see /v1/instances/{id}/explain")
			words = append(words, fmt.Sprintf("rule %q could not be evaluated", v.Rule))
		}
	}
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
		out.matches = append(out.matches, kept)
	}
	if len(words) == 0 {
		return out, "no rule matched", nil
	}
	return out, strings.Join(words, "; "), nil
}
