package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/riverqueue/river"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/facts"
	"imagingrouter/sidecar/internal/intake"
	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/rules"
	"imagingrouter/sidecar/internal/store"
)

// Gather looks whether a series or study is complete, and lets the rules decide that send it whole. It comes back until all of them have.
func (p *Pipeline) Gather(ctx context.Context, job *river.Job[jobs.Gather]) (err error) {
	level, id := job.Args.Level, job.Args.Resource
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic in gather: %s", panicText(v))
		}
		if err != nil && ctx.Err() == nil {
			err = p.ungathered(job, err)
		}
	}()
	list, err := p.Store.Gatherings(ctx, level, id)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(g store.Gathering) bool { return !g.Open() })
	if len(list) > 0 {
		if err := p.gather(ctx, job, list); err != nil {
			return err
		}
		p.outage.Store(0)
	}
	return p.gatherOn(ctx, job)
}

// gatherOn ends the job when nothing is waited for any more, else puts it off.
func (p *Pipeline) gatherOn(ctx context.Context, job *river.Job[jobs.Gather]) error {
	level, id := job.Args.Level, job.Args.Resource
	var pause time.Duration
	err := p.Store.Tx(ctx, func(tx *sql.Tx) error {
		open, err := p.Store.OpenGatherings(ctx, tx, level, id)
		if err != nil {
			return err
		}
		for _, g := range open {
			if next := gatherPause(g); pause == 0 || next < pause {
				pause = next
			}
		}
		if len(open) > 0 {
			return nil
		}
		return errors.Join(p.Store.SetGatheringJob(ctx, tx, level, id, 0), jobs.Complete(ctx, tx, job))
	})
	if err == nil && pause > 0 {
		return jobs.Later(pause)
	}
	return err
}

// gatherPause is when to look again: soon after something came, seldom when nothing has for long.
func gatherPause(g store.Gathering) time.Duration {
	if g.State == store.GatheringHeld {
		return jitter(max(15*time.Second, min(2*time.Minute, time.Since(g.OpenedAt)/20)))
	}
	return max(500*time.Millisecond, min(10*time.Second, time.Since(g.ChangedAt)/8))
}

// ungathered gives an error its meaning: an Orthanc that cannot be reached costs no attempt, and is told once.
func (p *Pipeline) ungathered(job *river.Job[jobs.Gather], err error) error {
	var snooze *river.JobSnoozeError
	if errors.As(err, &snooze) {
		return err
	}
	p.Metrics.Retry(job.Kind)
	if orthanc.IsUnreachable(err) || orthanc.IsDenied(err) {
		if p.outage.Load() == 0 {
			p.Log.Warn().Err(err).Str(job.Args.Level.One(), job.Args.Resource).Msg("Orthanc cannot be asked whether it is complete; the job waits")
		}
		return jobs.Later(p.gap())
	}
	p.Log.Warn().Err(err).Str(job.Args.Level.One(), job.Args.Resource).Int64("job", job.ID).Int("attempt", job.Attempt).Msg("attempt failed")
	return err
}

// whole is a series or study as it is now.
type whole struct {
	level   store.Level
	id      string
	stable  bool
	members []member
	changed time.Time // when the router last heard of something new in it
}

// member is one instance of it.
type member struct {
	inst     orthanc.Instance
	received time.Time
	row      store.Instance
	known    bool // the router has heard of it
	waiting  bool // it will be classified
	result   *bodypart.Result
}

func (m member) item() store.Item {
	item := store.Item{InstanceID: m.inst.ID, FileUUID: m.inst.FileUUID}
	if m.known && m.row.FileUUID == m.inst.FileUUID && m.row.HasResult() {
		item.ContentMD5 = m.row.ContentMD5
	}
	return item
}

// gather lets each rule decide that waits for the resource, when its time has come.
func (p *Pipeline) gather(ctx context.Context, job *river.Job[jobs.Gather], list []store.Gathering) error {
	end := func(state store.GatheringState, reason string) error {
		for _, g := range list {
			if err := p.endGathering(ctx, job, g, state, nil, nil, nil, reason); err != nil {
				return err
			}
		}
		return nil
	}
	on, err := p.Forwarding.Creates(ctx)
	if err != nil {
		return err
	}
	if !on {
		return end(store.GatheringSkipped, "not forwarded: forwarding is off (pilot mode)")
	}
	w, err := p.whole(ctx, list)
	var gone *ended
	if errors.As(err, &gone) {
		return end(store.GatheringGone, gone.reason)
	}
	if err != nil {
		return err
	}
	set := p.Rules.Set()
	wholes := set.Wholes()
	for _, g := range list {
		at := slices.IndexFunc(wholes, func(r rules.Whole) bool { return r.Name == g.Rule && storeLevel(r.Level) == g.Level })
		if at < 0 {
			if err := p.endGathering(ctx, job, g, store.GatheringSkipped, w.members, nil, nil, "the configuration no longer has this rule"); err != nil {
				return err
			}
			continue
		}
		if err := p.gatherFor(ctx, job, g, wholes[at], set, w); err != nil {
			return err
		}
	}
	return nil
}

func storeLevel(l rules.Level) store.Level {
	return map[rules.Level]store.Level{rules.LevelSeries: store.LevelSeries, rules.LevelStudy: store.LevelStudy}[l]
}

// whole fetches what the resource holds, and what the router knows of it.
func (p *Pipeline) whole(ctx context.Context, list []store.Gathering) (*whole, error) {
	w := &whole{level: list[0].Level, id: list[0].ResourceID}
	for _, g := range list {
		if g.ChangedAt.After(w.changed) {
			w.changed = g.ChangedAt
		}
	}
	contents, err := p.Orthanc.Contents(ctx, orthanc.Level(w.level), w.id)
	if orthanc.IsNotFound(err) {
		return nil, p.missingWhole(ctx, w)
	}
	if err != nil {
		return nil, err
	}
	w.stable = contents.Stable
	instances, err := p.Orthanc.Instances(ctx, contents.Instances)
	if err != nil {
		return nil, err
	}
	rows, err := p.Store.InstancesByID(ctx, contents.Instances)
	if err != nil {
		return nil, err
	}
	modalities, err := p.modalities(ctx, instances)
	if err != nil {
		return nil, err
	}
	for _, inst := range instances {
		m, err := p.member(ctx, inst, rows, modalities[inst.ParentSeries], w.changed)
		if err != nil {
			return nil, err
		}
		w.members = append(w.members, m)
	}
	return w, nil
}

// missingWhole is missing for a series or study.
func (p *Pipeline) missingWhole(ctx context.Context, w *whole) error {
	if _, err := p.Orthanc.System(ctx); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(p.GonePause):
	}
	_, err := p.Orthanc.Contents(ctx, orthanc.Level(w.level), w.id)
	switch {
	case err == nil:
		return jobs.Later(0)
	case !orthanc.IsNotFound(err):
		return err
	}
	return &ended{store.StateGone, whyDeleted}
}

func (p *Pipeline) modalities(ctx context.Context, instances []orthanc.Instance) (map[string]string, error) {
	if len(p.Objects.Modalities) == 0 {
		return nil, nil
	}
	var ids []string
	for _, i := range instances {
		ids = append(ids, i.ParentSeries)
	}
	slices.Sort(ids)
	series, err := p.Orthanc.SeriesMany(ctx, slices.Compact(ids))
	out := make(map[string]string, len(series))
	for _, s := range series {
		out[s.ID] = s.Modality
	}
	return out, err
}

// unheard is how long an X-ray that the router has never heard of is waited for after the last thing that it did hear of in the study: the
// follower takes seconds.
const unheard = 2 * time.Minute

func (p *Pipeline) member(ctx context.Context, inst orthanc.Instance, rows map[string]store.Instance, modality string, changed time.Time) (member, error) {
	m := member{inst: inst}
	var err error
	if m.received, err = orthanc.ReceivedAt(inst); err != nil {
		return m, err
	}
	m.row, m.known = rows[inst.ID]
	wanted := p.Objects.Wanted(inst.Metadata["SopClassUid"], modality) && intake.Frames(inst) == 1
	switch {
	case !m.known: // announced in a moment, or never: it came before the router's first start
		m.waiting = wanted && time.Since(changed) < unheard
		return m, nil
	case m.row.Done < m.row.Due || m.row.State == store.StateDue || m.row.State == store.StateClassified:
		m.waiting = true
	case m.row.State == store.StatePublished && m.row.FileUUID != inst.FileUUID: // overwritten, and the router will hear of it
		m.waiting = true
	}
	if m.row.State != store.StatePublished || m.waiting {
		return m, nil
	}
	r, known, err := p.Store.Result(ctx, inst.ID, m.row.ContentMD5, m.row.Model)
	if known {
		m.result = &r
	}
	return m, err
}

// gatherFor lets one rule decide, or notes what it waits for.
func (p *Pipeline) gatherFor(ctx context.Context, job *river.Job[jobs.Gather], g store.Gathering, rule rules.Whole, set *rules.Set, w *whole) error {
	// What is too old to be forwarded by itself is not forwarded with its study either. It is old by what it was when the wait began.
	members := slices.DeleteFunc(slices.Clone(w.members), func(m member) bool { return g.OpenedAt.Sub(m.received) > p.RouteMaxAge })
	why := p.incomplete(w, members)
	waited := time.Since(g.OpenedAt)
	late := ""
	if why != "" && !g.Released {
		switch {
		case waited < rule.WaitAtMost:
			return p.gatherLater(ctx, job, g, store.GatheringWaiting, why)
		case rule.OnTimeout == rules.TimeoutHold && waited > p.GiveUpAfter:
			return p.endGathering(ctx, job, g, store.GatheringSkipped, members, nil, nil, fmt.Sprintf("not complete within give_up_after (%s): %s", p.GiveUpAfter, why))
		case rule.OnTimeout == rules.TimeoutHold:
			return p.gatherLater(ctx, job, g, store.GatheringHeld, fmt.Sprintf("not complete after %s: %s", rule.WaitAtMost, why))
		}
		late = fmt.Sprintf("not complete after %s (%s); ", rule.WaitAtMost, why)
	}
	members, doubtful, err := p.reviewed(ctx, g, members)
	if err != nil {
		return err
	}
	if doubtful > 0 && !g.Released {
		why := fmt.Sprintf("%d of %d instances are under review", doubtful, len(members))
		switch {
		case rule.OnReview == rules.ReviewSkip:
			return p.endGathering(ctx, job, g, store.GatheringSkipped, members, nil, nil, "not sent: "+why+" (on_review: skip)")
		case rule.OnReview == rules.ReviewHold && waited > p.GiveUpAfter:
			return p.endGathering(ctx, job, g, store.GatheringSkipped, members, nil, nil, fmt.Sprintf("not sent: no review within give_up_after (%s)", p.GiveUpAfter))
		case rule.OnReview == rules.ReviewHold:
			return p.gatherLater(ctx, job, g, store.GatheringHeld, why)
		}
	}
	if g.Released {
		late = "released by a person; "
	}
	return p.decideWhole(ctx, job, g, rule, set, members, late)
}

// incomplete says why the resource does not count as complete; "" when it does.
func (p *Pipeline) incomplete(w *whole, members []member) string {
	waiting := 0
	for _, m := range members {
		if m.waiting {
			waiting++
		}
	}
	switch quiet := time.Since(w.changed); {
	case waiting > 0:
		return fmt.Sprintf("%d of %d instances are not classified yet", waiting, len(members))
	case !w.stable:
		return "instances may still arrive: Orthanc does not call it stable"
	case quiet >= 0 && quiet < p.Quiet:
		return fmt.Sprintf("instances may still arrive: the last came less than %s ago", p.Quiet)
	default:
		return ""
	}
}

// reviewed applies what a person has decided about results under review, and counts those that are still to be decided. A person decides by the
// study's labels: takes the label "review" away, and sets the right class where the router's is wrong.
func (p *Pipeline) reviewed(ctx context.Context, g store.Gathering, members []member) ([]member, int, error) {
	var before map[string]bool // what went although it was under review is not asked about again when something comes late
	if g.Sent {
		var err error
		if before, err = p.Store.SentBy(ctx, g.Rule, g.ResourceID); err != nil {
			return nil, 0, err
		}
	}
	doubtful := 0
	for _, m := range members {
		if m.result != nil && m.result.Review && !before[m.inst.ID] {
			doubtful++
		}
	}
	if doubtful == 0 {
		return members, 0, nil
	}
	verdict, err := p.Publisher.Verdict(ctx, g.StudyID)
	if err != nil {
		if orthanc.IsNotFound(err) {
			return members, doubtful, nil
		}
		return nil, 0, err
	}
	if !verdict.Reviewed {
		return members, doubtful, nil
	}
	seen, err := p.Store.Reviewed(ctx, g)
	if err != nil {
		return nil, 0, err
	}
	doubtful = 0
	out := slices.Clone(members)
	for i, m := range out {
		if m.result == nil || !m.result.Review {
			continue
		}
		if m.result.ClassifiedAt.After(seen) { // the decision was about others
			if !before[m.inst.ID] {
				doubtful++
			}
			continue
		}
		r := *m.result
		r.Review = false
		if verdict.Class != "" {
			r.Class, r.Confidence = verdict.Class, 1
		}
		out[i].result = &r
	}
	return out, doubtful, nil
}

// decideWhole asks the rules about each result of the resource. When the rule matches one of them, all of it goes: what a destination has got
// already is left out, and so is what came from there.
func (p *Pipeline) decideWhole(ctx context.Context, job *river.Job[jobs.Gather], g store.Gathering, rule rules.Whole, set *rules.Set, members []member, note string) error {
	matched, priority, why := g.Sent, rule.Priority, "no instance of it matches"
	if g.Sent {
		why = "the rest of it was sent before"
	}
	for _, m := range members {
		if m.result == nil {
			continue
		}
		asked := facts.Source{Orthanc: p.Orthanc, Store: p.Store}.Of(m.row, &m.inst, *m.result)
		verdicts, err := set.Explain(ctx, asked)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(verdicts, func(v rules.Verdict) bool { return v.Rule == rule.Name })
		if at >= 0 && verdicts[at].Undecided {
			p.Metrics.RuleFailed(rule.Name)
		}
		if at < 0 || !verdicts[at].Matched {
			continue
		}
		if !matched || g.Sent {
			matched, why = true, "instance "+m.inst.ID+" matches"
		}
		if rule.Priority != "" {
			break
		}
		tags, err := asked.Tags(ctx)
		if err != nil {
			return err
		}
		if priority = urgent(priority, facts.Priority(tags)); priority == rules.High {
			break
		}
	}
	if !matched {
		return p.endGathering(ctx, job, g, store.GatheringDecided, members, nil, nil, note+why)
	}
	var plans []store.Delivery
	items := map[string][]store.Item{}
	now := time.Now()
	for _, name := range rule.To {
		plan := store.Delivery{Level: g.Level, ResourceID: g.ResourceID, StudyID: g.StudyID, Destination: name, Rule: rule.Name, Priority: int(queuePriority[priority])}
		if opens := set.Opens(rule.Name, now); opens.After(now) {
			plan.NotBefore = opens
		}
		for _, m := range members {
			if p.Destinations[name].SentIt(m.inst) || m.inst.IsCopy() && !rule.Copies {
				continue
			}
			items[name] = append(items[name], m.item())
			if m.received.After(plan.ReceivedAt) {
				plan.ReceivedAt = m.received
			}
		}
		plans = append(plans, plan)
	}
	return p.endGathering(ctx, job, g, store.GatheringDecided, members, plans, items, note+why)
}

// urgent returns the more urgent of two priorities; "" is none yet.
func urgent(a, b rules.Priority) rules.Priority {
	order := []rules.Priority{rules.High, rules.Normal, rules.Low}
	if a == "" || slices.Index(order, b) < slices.Index(order, a) {
		return b
	}
	return a
}

// gatherLater notes what a rule waits for; what waits for a person is told aloud, once.
func (p *Pipeline) gatherLater(ctx context.Context, job *river.Job[jobs.Gather], g store.Gathering, state store.GatheringState, reason string) error {
	news, err := p.Store.StillGathering(ctx, g, state, reason)
	if err != nil || !news || state != store.GatheringHeld {
		return err
	}
	p.Metrics.Gathered(string(state))
	p.Log.Warn().Str(g.Level.One(), g.ResourceID).Str("rule", g.Rule).Str("reason", reason).Int64("job", job.ID).Msg("held for a person: imaging-router deliveries release, or the review by label")
	return nil
}

// endGathering stores what a rule has decided, with its deliveries, in one transaction, and tells it in the story of every member.
func (p *Pipeline) endGathering(ctx context.Context, job *river.Job[jobs.Gather], g store.Gathering, state store.GatheringState, members []member, plans []store.Delivery, items map[string][]store.Item, why string) error {
	began, words, created := time.Now(), []string{why}, 0
	err := p.Store.Tx(ctx, func(tx *sql.Tx) error {
		for _, plan := range plans {
			d, made, err := p.addDelivery(ctx, tx, plan, items[plan.Destination])
			if err != nil {
				return err
			}
			if !made {
				words = append(words, "to "+plan.Destination+": nothing that it has not got")
				continue
			}
			created++
			words = append(words, fmt.Sprintf("%d instances to %s", d.Instances, plan.Destination))
		}
		told := make([]string, len(members))
		for i, m := range members {
			told[i] = m.inst.ID
		}
		if _, err := p.Store.EndGathering(ctx, tx, g, state, created > 0, strings.Join(words, "; ")); err != nil {
			return err
		}
		return p.Store.AddEventTo(ctx, tx, told, store.Event{Stage: job.Kind, Job: job.ID, Attempt: job.Attempt, Outcome: string(state),
			Detail: fmt.Sprintf("%s %s, rule %q: %s", g.Level.One(), g.ResourceID, g.Rule, strings.Join(words, "; ")), Took: time.Since(began)})
	})
	if err != nil {
		return err
	}
	p.Metrics.Gathered(string(state))
	p.Log.Info().Str(g.Level.One(), g.ResourceID).Str("rule", g.Rule).Str("state", string(state)).Int("deliveries", created).Str("why", strings.Join(words, "; ")).
		Dur("waited", time.Since(g.OpenedAt)).Int64("job", job.ID).Msg("a whole " + g.Level.One() + " was decided about")
	return nil
}
