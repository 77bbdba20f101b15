package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/delivery"
	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/metrics"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/rules"
	"imagingrouter/sidecar/internal/store"
)

// gated is a pipeline with a database, a queue that nobody works, and two destinations, of which the second stands in for the first at once.
func gated(t *testing.T) *Pipeline {
	t.Helper()
	ctx := context.Background()
	s, err := store.Open(ctx, filepath.Join(t.TempDir(), "router.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	q, err := jobs.Open(ctx, s.DB(), nil, jobs.Options{Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return &Pipeline{
		Store: s, Queue: q, Forwarding: &Forwarding{Store: s, Configured: true}, Rules: rules.NewCurrent(nil), Metrics: metrics.New(), Log: zerolog.Nop(), Volume: &Volume{Store: s},
		Destinations: map[string]delivery.Destination{
			"first": {Name: "first", Alternate: "spare", Gate: delivery.NewGate("first", delivery.GateOptions{Failures: 1, Pause: time.Hour})},
			"spare": {Name: "spare", Gate: delivery.NewGate("spare", delivery.GateOptions{})},
		},
	}
}

// pending adds a delivery of these instances to a destination, with its job.
func pending(t *testing.T, p *Pipeline, to string, instances ...string) store.Delivery {
	t.Helper()
	var d store.Delivery
	err := p.Store.Tx(context.Background(), func(tx *sql.Tx) (err error) {
		var items []store.Item
		for _, id := range instances {
			if _, err := p.Store.Mark(context.Background(), tx, id, store.SourceHook); err != nil {
				return err
			}
			items = append(items, store.Item{InstanceID: id, ContentMD5: "x"})
		}
		d, _, err = p.addDelivery(context.Background(), tx, store.Delivery{Level: store.LevelStudy, ResourceID: "study", Destination: to, Rule: "r"}, items)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return stored(t, p, d.ID)
}

func stored(t *testing.T, p *Pipeline, id string) store.Delivery {
	t.Helper()
	d, err := p.Store.Delivery(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDivertWhen(t *testing.T) {
	ctx := context.Background()
	refused := func(p *Pipeline, d store.Delivery) error { return p.Store.Unsent(ctx, d.ID, "refused") }
	for name, tt := range map[string]struct {
		prepare func(p *Pipeline, d store.Delivery) error
		via     string
	}{
		"tried in vain":     {refused, "spare"},
		"a long queue only": {func(*Pipeline, store.Delivery) error { return nil }, ""},
		"the destination is left": {func(p *Pipeline, _ store.Delivery) error {
			if err := p.Destinations["first"].Gate.Pass(ctx, "d", func() error { return errors.New("down") }); err == nil {
				return errors.New("no error came back")
			}
			return nil
		}, "spare"},
		"paused": {func(p *Pipeline, d store.Delivery) error {
			return errors.Join(refused(p, d), p.Store.SetSetting(ctx, PauseSetting("first"), "paused"))
		}, ""},
		"forwarding off": {func(p *Pipeline, d store.Delivery) error {
			return errors.Join(refused(p, d), p.Store.SetSetting(ctx, ForwardingSetting, "off"))
		}, ""},
		"for tonight": {func(p *Pipeline, d store.Delivery) error {
			return errors.Join(refused(p, d), p.Store.PostponeDelivery(ctx, d.ID, time.Now().Add(time.Hour)))
		}, ""},
		"handed over": {func(p *Pipeline, d store.Delivery) error {
			return errors.Join(refused(p, d), p.Store.Sent(ctx, d.ID, "job"))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := gated(t)
			d := pending(t, p, "first", "a", "b")
			time.Sleep(2 * time.Millisecond) // alternate_after is zero here, and times are kept in milliseconds
			if err := errors.Join(tt.prepare(p, d), p.divert(ctx)); err != nil {
				t.Fatal(err)
			}
			if after := stored(t, p, d.ID); after.Via != tt.via || (after.Job != d.Job) != (tt.via != "") {
				t.Errorf("goes by %q with job %d, was %d; want %q", after.Via, after.Job, d.Job, tt.via)
			}
		})
	}
}

// The alternate gets a job of its own, the old one is gone, and the instances' stories tell it. Where it has all of the set, that is the end.
func TestDivertOne(t *testing.T) {
	ctx := context.Background()
	for name, tt := range map[string]struct {
		before []string // that the alternate has
		state  store.DeliveryState
		story  string
	}{
		"nothing":    {nil, store.DeliveryPending, "diverted"},
		"one of two": {[]string{"a"}, store.DeliveryPending, "diverted"},
		"all of it":  {[]string{"a", "b"}, store.DeliveryDelivered, "delivered"},
	} {
		t.Run(name, func(t *testing.T) {
			p := gated(t)
			if tt.before != nil {
				pending(t, p, "spare", tt.before...)
			}
			d := pending(t, p, "first", "a", "b")
			if err := p.divertOne(ctx, d, p.Destinations["first"]); err != nil {
				t.Fatal(err)
			}
			after := stored(t, p, d.ID)
			if after.To() != "spare" || after.State != tt.state {
				t.Errorf("%+v", after)
			}
			jobsOf := 0
			query := fmt.Sprintf("SELECT count(*) FROM river_job WHERE json_extract(args, '$.delivery') = '%s'", d.ID)
			if err := p.Store.Reader().QueryRowContext(ctx, query).Scan(&jobsOf); err != nil {
				t.Fatal(err)
			}
			if want := map[store.DeliveryState]int{store.DeliveryPending: 1}[tt.state]; jobsOf != want {
				t.Errorf("%d jobs, want %d", jobsOf, want)
			}
			events, err := p.Store.Events(ctx, "b")
			if err != nil || len(events) != 1 || events[0].Outcome != tt.story || !strings.Contains(events[0].Detail, "first "+d.ID+" to its alternate spare") {
				t.Errorf("%+v, %v", events, err)
			}
		})
	}
}

func TestGateStates(t *testing.T) {
	ctx, p := context.Background(), gated(t)
	state := func() string {
		states, err := p.GateStates(ctx)
		if err != nil {
			t.Fatal(err)
		}
		forwarding, err := p.Forwarding.State(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if why, err := p.closed(ctx, "first", forwarding.On); err != nil || (why == "") != (states["first"] == "") {
			t.Errorf("%q while the metric says %q, %v", why, states["first"], err)
		}
		return states["first"] + "," + states["spare"]
	}
	set := func(name, value string) {
		if err := p.Store.SetSetting(ctx, name, value); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, ","},
		{func() { set(PauseSetting("first"), "paused") }, "paused,"},
		{func() { set(PauseSetting("first"), "") }, ","},
		{func() { _ = p.Destinations["first"].Gate.Pass(ctx, "d", func() error { return errors.New("down") }) }, "circuit_breaker,"},
		{func() { set(PauseSetting("first"), "paused") }, "paused,"},
		{func() { set(PauseSetting("first"), ""); set(ForwardingSetting, "off") }, "forwarding_off,forwarding_off"},
	} {
		step.do()
		if got := state(); got != step.want {
			t.Errorf("%q, want %q", got, step.want)
		}
	}
}

// An error that is not the destination's fault does not count against it.
func TestExcused(t *testing.T) {
	p := &Pipeline{}
	unreachable := unreachableError(t)
	for name, tt := range map[string]struct {
		kind delivery.Kind
		err  error
		want bool
	}{
		"the router stops":           {delivery.Peer{}, fmt.Errorf("x: %w", context.Canceled), true},
		"cancelled by a person":      {delivery.Peer{}, store.ErrFinished, true},
		"perhaps sent":               {delivery.Peer{}, delivery.ErrUncertain, true},
		"Orthanc forgot the job":     {delivery.Peer{}, delivery.ErrJobLost, true},
		"Orthanc is down":            {delivery.Peer{}, unreachable, true},
		"so it is for a folder":      {delivery.Folder{}, unreachable, true},
		"a receiver is down":         {&delivery.Webhook{}, unreachable, false},
		"the job failed":             {delivery.Peer{}, errors.New("job failed"), false},
		"the destination takes long": {&delivery.Webhook{}, context.DeadlineExceeded, false},
		"a disk that is full":        {delivery.Folder{}, errors.New("no space left"), false},
	} {
		if got := p.Excused(tt.kind)(tt.err); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}

func unreachableError(t *testing.T) error {
	t.Helper()
	c, err := orthanc.New(orthanc.Options{URL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.System(context.Background())
	if !orthanc.IsUnreachable(err) {
		t.Fatalf("not the error that was meant: %v", err)
	}
	return err
}
