// Package explain tells the whole story of one instance, as JSON and as text: how it came, what was seen, what was written, where it was
// sent and why. It decides nothing, and says of DICOM tags only whether they are there.
package explain

import (
	"context"
	"fmt"
	"strings"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/facts"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/rules"
	"imagingrouter/sidecar/internal/store"
)

// What one answer holds at most, so that an instance that was tried for days does not make it endless.
const (
	mostEvents     = 300
	mostDeliveries = 100
	patience       = 10 * time.Second // with an Orthanc that does not answer
)

// Explainer answers for one router.
type Explainer struct {
	Store   *store.Store
	Orthanc *orthanc.Client
	Rules   *rules.Current
	Policy  bodypart.Policy
	Levels  []orthanc.Level // that carry labels
	// Forwarding says in words how the main switch stands.
	Forwarding func(ctx context.Context) (string, error)
}

// Story is what the router knows about one instance.
type Story struct {
	Instance   string     `json:"instance"`
	Series     string     `json:"series,omitempty"`
	Study      string     `json:"study,omitempty"`
	State      string     `json:"state"`
	Reason     string     `json:"reason,omitempty"`
	LastError  string     `json:"last_error,omitempty"`
	Arrival    Arrival    `json:"arrival"`
	Result     *Result    `json:"result"`
	Labels     []Label    `json:"labels"`
	Decision   string     `json:"decision,omitempty"` // what the rules said when the result was published
	Forwarding string     `json:"forwarding"`         // how the switch stands now
	RulesNow   RulesNow   `json:"rules_now"`
	Waits      []Wait     `json:"waits"`
	Deliveries []Delivery `json:"deliveries"`
	Events     []Event    `json:"events"`
	Earlier    bool       `json:"earlier_events_left_out,omitempty"`
}

// Arrival is how the instance came into Orthanc, and how the router heard of it.
type Arrival struct {
	ReceivedAt    time.Time    `json:"received_at,omitzero"` // by Orthanc
	Origin        string       `json:"origin,omitempty"`
	RemoteAET     string       `json:"remote_aet,omitempty"`
	CalledAET     string       `json:"called_aet,omitempty"`
	HTTPUsername  string       `json:"http_username,omitempty"`
	Copy          bool         `json:"copy,omitempty"` // made by modify or anonymise
	Error         string       `json:"error,omitempty"`
	AnnouncedBy   store.Source `json:"announced_by"` // the last mark: hook, follower, replay, sweep, command
	MayForward    bool         `json:"may_forward"`  // a replay and a sweep label only
	FirstMarkedAt time.Time    `json:"first_marked_at,omitzero"`
	MarkedAt      time.Time    `json:"marked_at,omitzero"`
	FinishedAt    time.Time    `json:"finished_at,omitzero"`
}

// Result is what the network said, and what the policy made of it.
type Result struct {
	bodypart.Result
	Threshold  float64                    `json:"threshold"` // of the class, as it is set now
	Thresholds map[bodypart.Class]float64 `json:"thresholds"`
	Picture    string                     `json:"picture,omitempty"` // the steps from file to picture, with their times
}

// Label is one line of the ledger.
type Label struct {
	Level string           `json:"level"`
	ID    string           `json:"id"`
	Label string           `json:"label"`
	State store.LabelState `json:"state"`
}

// RulesNow are the verdicts of the rules that are in force now, about the instance as it is now. They need not be those of its decision.
type RulesNow struct {
	Note     string          `json:"note"`
	Verdicts []rules.Verdict `json:"verdicts"`
	Error    string          `json:"error,omitempty"`
}

// Wait is what a rule waits for, or waited for, that sends the instance's series or study as one.
type Wait struct {
	Level     string    `json:"level"` // series, study
	Resource  string    `json:"resource"`
	Rule      string    `json:"rule"`
	State     string    `json:"state"` // waiting, held, decided, skipped, gone
	Reason    string    `json:"reason,omitempty"`
	Since     time.Time `json:"since,omitzero"`
	DecidedAt time.Time `json:"decided_at,omitzero"`
}

// Delivery is one delivery with its jobs.
type Delivery struct {
	ID          string    `json:"id"`
	Level       string    `json:"level"` // what it sends: instance, series, study
	Resource    string    `json:"resource"`
	Instances   int       `json:"instances"`
	Destination string    `json:"destination"`
	Via         string    `json:"via,omitempty"` // the alternate that it goes to instead
	Rule        string    `json:"rule"`
	State       string    `json:"state"`
	Attempts    int       `json:"attempts"`
	Job         int64     `json:"job,omitempty"`         // the router's, while there is one
	OrthancJob  string    `json:"orthanc_job,omitempty"` // of the last attempt
	Priority    int       `json:"priority"`              // 1 goes first
	NotBefore   time.Time `json:"not_before,omitzero"`
	CreatedAt   time.Time `json:"created_at,omitzero"`
	SubmittedAt time.Time `json:"submitted_at,omitzero"`
	FinishedAt  time.Time `json:"finished_at,omitzero"`
	Reason      string    `json:"reason,omitempty"`
	LastError   string    `json:"last_error,omitempty"`
}

// Event is one attempt at something, or a step between.
type Event struct {
	At      time.Time `json:"at"`
	Stage   string    `json:"stage"`
	Job     int64     `json:"job,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	Outcome string    `json:"outcome"`
	Detail  string    `json:"detail,omitempty"`
	TookMS  int64     `json:"took_ms,omitempty"`
}

// note stands beside the verdicts.
const note = "evaluated now, with the rules in force now and the instance as Orthanc has it now; of tags only whether they are there"

// Of tells the story of one instance. The error is store.ErrUnknown for one that the router has never heard of.
func (e *Explainer) Of(ctx context.Context, id string) (*Story, error) {
	row, err := e.Store.Instance(ctx, id)
	if err != nil {
		return nil, err
	}
	s := &Story{
		Instance: row.ID, Series: row.SeriesID, Study: row.StudyID, State: string(row.State), Reason: row.Reason, LastError: row.LastError,
		Arrival: Arrival{ReceivedAt: row.ReceivedAt, AnnouncedBy: row.Source, MayForward: row.Forward, FirstMarkedAt: row.FirstMarked, MarkedAt: row.MarkedAt, FinishedAt: row.FinishedAt},
		Labels:  []Label{}, Waits: []Wait{}, Deliveries: []Delivery{}, Events: []Event{}, RulesNow: RulesNow{Note: note, Verdicts: []rules.Verdict{}},
	}
	if s.Forwarding, err = e.Forwarding(ctx); err != nil {
		return nil, err
	}
	if err := e.events(ctx, s); err != nil {
		return nil, err
	}
	if err := e.labels(ctx, row, s); err != nil {
		return nil, err
	}
	if err := e.deliveries(ctx, s); err != nil {
		return nil, err
	}
	r, known, err := e.Store.Result(ctx, row.ID, row.ContentMD5, row.Model)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	inst := e.arrival(ctx, row, s)
	if !known {
		return s, nil
	}
	s.Result = &Result{Result: r, Threshold: e.Policy.Thresholds[r.Class], Thresholds: e.Policy.Thresholds, Picture: picture(s.Events)}
	if s.Result.Reasons == nil {
		s.Result.Reasons = []bodypart.Reason{}
	}
	asked := facts.Source{Orthanc: e.Orthanc, Store: e.Store}.Of(row, inst, r)
	asked.HideTags = true
	verdicts, err := e.Rules.Set().Explain(ctx, asked)
	switch {
	case orthanc.IsNotFound(err):
		s.RulesNow.Error = "deleted in Orthanc: what the rules ask for is no longer there"
	case err != nil:
		s.RulesNow.Error = err.Error()
	case verdicts != nil:
		s.RulesNow.Verdicts = verdicts
	}
	return s, nil
}

// arrival adds what Orthanc wrote down when the instance came. An Orthanc that cannot say leaves the rest of the story as it is.
func (e *Explainer) arrival(ctx context.Context, row store.Instance, s *Story) *orthanc.Instance {
	inst, err := e.Orthanc.Instance(ctx, row.ID)
	switch {
	case orthanc.IsNotFound(err):
		s.Arrival.Error = "no longer in Orthanc"
		return nil
	case err != nil:
		s.Arrival.Error = err.Error()
		return nil
	}
	m := inst.Metadata
	s.Arrival.Origin, s.Arrival.RemoteAET, s.Arrival.CalledAET, s.Arrival.HTTPUsername = m["Origin"], m["RemoteAET"], m["CalledAET"], m["HttpUsername"]
	s.Arrival.Copy = m["ModifiedFrom"] != "" || m["AnonymizedFrom"] != ""
	return &inst
}

func (e *Explainer) events(ctx context.Context, s *Story) error {
	events, err := e.Store.LastEvents(ctx, s.Instance, mostEvents+1)
	if err != nil {
		return err
	}
	if len(events) > mostEvents {
		events, s.Earlier = events[1:], true
	}
	for _, ev := range events {
		s.Events = append(s.Events, Event{At: ev.At, Stage: ev.Stage, Job: ev.Job, Attempt: ev.Attempt, Outcome: ev.Outcome, Detail: ev.Detail, TookMS: ev.Took.Milliseconds()})
		if ev.Stage == "publish" && ev.Outcome == "published" {
			s.Decision = ev.Detail
		}
	}
	return nil
}

// picture returns the steps of the last classification that looked at the file.
func picture(events []Event) string {
	for i := len(events) - 1; i >= 0; i-- {
		if ev := events[i]; ev.Stage == "classify" && strings.HasPrefix(ev.Detail, "fetch ") {
			return ev.Detail
		}
	}
	return ""
}

func (e *Explainer) labels(ctx context.Context, row store.Instance, s *Story) error {
	ids := map[orthanc.Level]string{orthanc.LevelInstance: row.ID, orthanc.LevelSeries: row.SeriesID, orthanc.LevelStudy: row.StudyID}
	for _, level := range e.Levels {
		if ids[level] == "" {
			continue
		}
		ledger, err := e.Store.Ledger(ctx, string(level), ids[level])
		if err != nil {
			return fmt.Errorf("explain instance %s: %w", row.ID, err)
		}
		for _, label := range sorted(ledger) {
			s.Labels = append(s.Labels, Label{Level: string(level), ID: ids[level], Label: label, State: ledger[label]})
		}
	}
	return nil
}

func (e *Explainer) deliveries(ctx context.Context, s *Story) error {
	list, err := e.Store.Deliveries(ctx, store.DeliveryFilter{InstanceID: s.Instance, Limit: mostDeliveries})
	if err != nil {
		return err
	}
	for _, d := range list {
		s.Deliveries = append(s.Deliveries, Delivery{
			ID: d.ID, Level: d.Level.One(), Resource: d.ResourceID, Instances: d.Instances, Destination: d.Destination, Via: d.Via, Rule: d.Rule, State: string(d.State), Attempts: d.Attempts, Job: d.Job, OrthancJob: d.OrthancJob,
			Priority: d.Priority, NotBefore: d.NotBefore, CreatedAt: d.CreatedAt, SubmittedAt: d.SubmittedAt, FinishedAt: d.FinishedAt,
			Reason: d.Reason, LastError: d.LastError,
		})
	}
	if s.Study == "" {
		return nil
	}
	waits, err := e.Store.GatheringsOf(ctx, s.Study)
	if err != nil {
		return err
	}
	for _, g := range waits {
		if g.ResourceID != s.Study && g.ResourceID != s.Series {
			continue
		}
		s.Waits = append(s.Waits, Wait{Level: g.Level.One(), Resource: g.ResourceID, Rule: g.Rule, State: string(g.State), Reason: g.Reason, Since: g.OpenedAt, DecidedAt: g.DecidedAt})
	}
	return nil
}
