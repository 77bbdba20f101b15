package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

const (
	three   = "33333333-33333333-33333333-33333333-33333333"
	series2 = "cccccccc-cccccccc-cccccccc-cccccccc-cccccccc"
)

// deliver adds a delivery of these items: of the one instance, unless d says of what.
func deliver(t testing.TB, s *Store, d Delivery, policy Resend, items ...Item) (added Delivery, created bool) {
	t.Helper()
	if d.Level == "" {
		d.Level, d.ResourceID = LevelInstance, items[0].InstanceID
	}
	inTx(t, s, func(tx *sql.Tx) (err error) {
		added, created, err = s.AddDelivery(context.Background(), tx, d, policy, items)
		return err
	})
	return added, created
}

// ofStudy is a delivery of the study to a destination.
func ofStudy(to string) Delivery {
	return Delivery{Level: LevelStudy, ResourceID: study, StudyID: study, Destination: to, Rule: "whole", ReceivedAt: time.Now()}
}

func finish(t testing.TB, s *Store, id string, state DeliveryState) {
	t.Helper()
	inTx(t, s, func(tx *sql.Tx) error { return s.FinishDelivery(context.Background(), tx, id, state, "") })
}

func identifiers(items []Item) string {
	var ids []string
	for _, i := range items {
		ids = append(ids, i.InstanceID[:1])
	}
	return strings.Join(ids, " ")
}

// What a destination has counts as got by the policy: by the content, and by the stored file of what the router does not look at.
func TestUncovered(t *testing.T) {
	item := func(md5, file string) Item { return Item{InstanceID: one, ContentMD5: md5, FileUUID: file} }
	tests := []struct {
		name                   string
		before, now            Item
		never, changed, always bool // it goes again
	}{
		{"nothing new", item("a", "f1"), item("a", "f1"), false, false, false},
		{"stored again", item("a", "f1"), item("a", "f2"), false, false, true},
		{"overwritten", item("a", "f1"), item("b", "f2"), false, true, true},
		{"a report", item("", "f1"), item("", "f1"), false, false, false},
		{"a report overwritten", item("", "f1"), item("", "f2"), false, true, true},
		{"looked at since", item("", "f1"), item("a", "f1"), false, false, false},
		{"of an older release", item("a", ""), item("a", "f1"), false, false, false},
		{"of an older release, overwritten", item("a", ""), item("b", "f1"), false, true, true},
		{"dropped", Item{one, "a", "f1", "deleted in Orthanc"}, item("a", "f1"), true, true, true},
		{"another instance", Item{InstanceID: two, ContentMD5: "a", FileUUID: "f1"}, item("a", "f1"), true, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for policy, again := range map[Resend]bool{ResendNever: tt.never, ResendChanged: tt.changed, "": tt.changed, ResendAlways: tt.always} {
				s := open(t)
				d, _ := deliver(t, s, Delivery{Destination: "pacs"}, policy, tt.before)
				if tt.before.Dropped != "" {
					if err := s.DropItem(context.Background(), d.ID, tt.before.InstanceID, tt.before.Dropped); err != nil {
						t.Fatal(err)
					}
				}
				if _, created := deliver(t, s, Delivery{Destination: "pacs"}, policy, tt.now); created != again {
					t.Errorf("%q: goes again %t, want %t", policy, created, again)
				}
				if _, created := deliver(t, s, Delivery{Destination: "elsewhere"}, policy, tt.now); !created {
					t.Errorf("%q: another destination does not get it", policy)
				}
			}
		})
	}
}

func TestASetHoldsWhatTheDestinationHasNotGot(t *testing.T) {
	ctx, s := context.Background(), open(t)
	deliver(t, s, Delivery{Destination: "pacs"}, ResendChanged, Item{InstanceID: two, ContentMD5: "b"})
	all := []Item{{InstanceID: three, FileUUID: "report"}, {InstanceID: two, ContentMD5: "b"}, {InstanceID: one, ContentMD5: "a"}}
	d, created := deliver(t, s, ofStudy("pacs"), ResendChanged, all...)
	if got := identifiers(must(s.Items(ctx, d.ID))(t)); !created || got != "1 3" || d.Instances != 2 {
		t.Errorf("created %t with %q, %d instances; want 1 and 3", created, got, d.Instances)
	}
	if want := "study " + study + " (2 instances)"; d.Subject() != want || d.State != DeliveryPending {
		t.Errorf("%q is %s, want %q", d.Subject(), d.State, want)
	}
	if _, created := deliver(t, s, ofStudy("pacs"), ResendChanged, all...); created {
		t.Error("the same set went twice")
	}
	again, _ := deliver(t, s, ofStudy("other"), ResendChanged, all[2], all[0])
	if again.Content != d.Content || d.Content == "" {
		t.Errorf("the content of one set is %q and %q", d.Content, again.Content)
	}
	if more, _ := deliver(t, s, ofStudy("third"), ResendChanged, all...); more.Content == d.Content {
		t.Error("two sets have one content")
	}
	for _, tt := range []struct {
		filter DeliveryFilter
		want   int
	}{
		{DeliveryFilter{ResourceID: study}, 3},
		{DeliveryFilter{InstanceID: three}, 3},
		{DeliveryFilter{ResourceID: two}, 2},
		{DeliveryFilter{ResourceID: series}, 0},
		{DeliveryFilter{Destination: "pacs", Rule: "whole"}, 1},
	} {
		if got := must(s.Deliveries(ctx, tt.filter))(t); len(got) != tt.want {
			t.Errorf("%+v selects %d deliveries, want %d", tt.filter, len(got), tt.want)
		}
	}
}

// A delivery that goes to its alternate names each instance once, and both destinations count as having it.
func TestDivert(t *testing.T) {
	ctx, s := context.Background(), open(t)
	a, b := Item{InstanceID: one, ContentMD5: "a"}, Item{InstanceID: two, ContentMD5: "b"}
	deliver(t, s, Delivery{Destination: "spare"}, ResendChanged, a)
	d, _ := deliver(t, s, ofStudy("pacs"), ResendChanged, a, b)
	uncovered := func(to string) (left []Item) {
		inTx(t, s, func(tx *sql.Tx) (err error) {
			left, err = s.Uncovered(ctx, tx, to, ResendChanged, []Item{a, b})
			return err
		})
		return left
	}
	divert := func(left []Item) (done bool) {
		inTx(t, s, func(tx *sql.Tx) (err error) {
			done, err = s.Divert(ctx, tx, d, "spare", left)
			return err
		})
		return done
	}
	if got := identifiers(uncovered("spare")); got != "2" {
		t.Errorf("the alternate has not got %q, want 2", got)
	}
	if !divert(uncovered("spare")) || divert(nil) {
		t.Error("not diverted, or twice")
	}
	got := must(s.Delivery(ctx, d.ID))(t)
	if got.To() != "spare" || got.Destination != "pacs" || got.State != DeliveryPending {
		t.Errorf("%+v", got)
	}
	items := must(s.Items(ctx, d.ID))(t)
	if got := identifiers(items); got != "1 2" || items[0].Dropped != "spare has got it" || items[1].Dropped != "" {
		t.Errorf("it holds %q (%+v), want each instance once, without what the alternate has got", got, items)
	}
	for _, to := range []string{"pacs", "spare"} {
		if left := uncovered(to); len(left) != 0 {
			t.Errorf("%s gets %q again", to, identifiers(left))
		}
	}
	if err := s.Submitting(ctx, d); !errors.Is(err, ErrFinished) { // read before it was diverted
		t.Errorf("sent to the first destination all the same: %v", err)
	}
	if err := s.Submitting(ctx, got); err != nil {
		t.Error(err)
	}
	if !must(hasDestination(s, "spare", d.ID))(t) || !must(hasDestination(s, "pacs", d.ID))(t) {
		t.Error("it is found by one of its destinations only")
	}
	if counts := must(s.DeliveryCounts(ctx))(t); slices.ContainsFunc(counts, func(c DeliveryCount) bool { return c.Destination == "pacs" }) {
		t.Errorf("counted where it does not go: %+v", counts)
	}
}

func hasDestination(s *Store, destination, id string) (bool, error) {
	list, err := s.Deliveries(context.Background(), DeliveryFilter{Destination: destination})
	return slices.ContainsFunc(list, func(d Delivery) bool { return d.ID == id }), err
}

func TestDivertible(t *testing.T) {
	ctx, s := context.Background(), open(t)
	now := time.Now()
	id := map[string]string{}
	for i, name := range []string{"old and tried", "old", "for tonight", "sent", "low", "new"} {
		s.now = func() time.Time { return now.Add(-time.Hour + time.Duration(i)*time.Second) }
		if name == "new" {
			s.now = time.Now
		}
		plan := Delivery{Destination: "pacs", Priority: 2}
		switch name {
		case "for tonight":
			plan.NotBefore = now.Add(5 * time.Hour)
		case "low":
			plan.Priority = 3
		}
		d, _ := deliver(t, s, plan, ResendChanged, Item{InstanceID: fmt.Sprint(i), ContentMD5: "x"})
		id[d.ID] = name
		var err error
		switch name {
		case "old and tried", "low":
			err = s.Unsent(ctx, d.ID, "refused")
		case "sent":
			err = s.Sent(ctx, d.ID, "job")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		tried bool
		limit int
		want  string
	}{{false, 10, "old and tried, old, low"}, {true, 10, "old and tried, low"}, {false, 1, "old and tried"}} {
		var got []string
		for _, d := range must(s.Divertible(ctx, "pacs", now.Add(-time.Minute), tt.tried, tt.limit))(t) {
			got = append(got, id[d.ID])
		}
		if strings.Join(got, ", ") != tt.want {
			t.Errorf("tried %t: %q, want %q", tt.tried, got, tt.want)
		}
	}
}

// What the volume brake holds is released or cancelled, once, and nothing hands it over before.
func TestHeldDeliveries(t *testing.T) {
	ctx, s := context.Background(), open(t)
	release := func(id string) (released bool) {
		inTx(t, s, func(tx *sql.Tx) (err error) {
			released, err = s.ReleaseDelivery(ctx, tx, id)
			return err
		})
		return released
	}
	s.now = func() time.Time { return time.Now().Add(-time.Hour) }
	held := Delivery{Destination: "pacs", State: DeliveryHeld, Reason: "too many"}
	first, _ := deliver(t, s, held, ResendChanged, Item{InstanceID: one, ContentMD5: "a"})
	second, _ := deliver(t, s, held, ResendChanged, Item{InstanceID: two, ContentMD5: "b"})
	if _, created := deliver(t, s, Delivery{Destination: "pacs"}, ResendChanged, Item{InstanceID: one, ContentMD5: "a"}); created {
		t.Error("a second delivery of what is held")
	}
	s.now = time.Now
	if err := s.Submitting(ctx, first); !errors.Is(err, ErrFinished) {
		t.Errorf("what is held was handed over: %v", err)
	}
	if n := len(must(s.Divertible(ctx, "pacs", time.Now(), false, 10))(t)); n != 0 {
		t.Errorf("%d held deliveries may go to an alternate", n)
	}
	if !release(first.ID) || release(first.ID) {
		t.Error("not released, or twice")
	}
	if d := must(s.Delivery(ctx, first.ID))(t); d.State != DeliveryPending || d.Reason != "" || time.Since(d.May()) > time.Minute {
		t.Errorf("after the release: %+v", d)
	}
	if !must(s.CancelDelivery(ctx, second.ID, "by command"))(t) || release(second.ID) {
		t.Error("not cancelled, or released after it")
	}
	if d := must(s.Delivery(ctx, second.ID))(t); d.State != DeliveryCancelled || d.FinishedAt.IsZero() {
		t.Errorf("after the end: %+v", d)
	}
}

func TestCountsOfDeliveriesOverTime(t *testing.T) {
	ctx, s := context.Background(), open(t)
	hour := time.Now().Truncate(time.Hour)
	for i, at := range []time.Duration{-49 * time.Hour, -3 * time.Hour, -3*time.Hour + 59*time.Minute, -2 * time.Hour, -time.Hour, 0, time.Minute} {
		s.now = func() time.Time { return hour.Add(at) }
		deliver(t, s, Delivery{Destination: "pacs"}, ResendChanged, Item{InstanceID: fmt.Sprint(i), ContentMD5: "x"})
	}
	if got := must(s.HourlyDeliveries(ctx, hour.Add(-48*time.Hour), hour))(t); !slices.Equal(got, []int{2, 1, 1}) {
		t.Errorf("by the hour: %v, want 2, 1 and 1: hours without any do not count, nor this hour or what is older", got)
	}
	for since, want := range map[time.Duration]int{-50 * time.Hour: 7, -time.Hour: 2, time.Minute: 0} {
		inTx(t, s, func(tx *sql.Tx) error {
			n, err := s.CreatedSince(ctx, tx, hour.Add(since))
			if n != want {
				t.Errorf("since %s: %d, want %d", since, n, want)
			}
			return err
		})
	}
}

func TestEventsOfUnknownInstancesAreLeftOut(t *testing.T) {
	ctx, s := context.Background(), open(t)
	mark(t, s, one, SourceHook)
	ids := []string{one, two}
	for i := range 600 { // more than one statement takes
		ids = append(ids, fmt.Sprint(i))
	}
	mark(t, s, "599", SourceHook)
	inTx(t, s, func(tx *sql.Tx) error {
		return s.AddEventTo(ctx, tx, ids, Event{Stage: "deliver", Outcome: "delivered", Job: 7, Took: time.Second})
	})
	for id, want := range map[string]int{one: 1, "599": 1, two: 0, "0": 0} {
		events := must(s.Events(ctx, id))(t)
		if len(events) != want || want > 0 && (events[0].Job != 7 || events[0].Took != time.Second || events[0].Outcome != "delivered") {
			t.Errorf("instance %s: %+v, want %d", id, events, want)
		}
	}
}

// A set goes when none of its instances is known any more, and holds them while it is open.
func TestPruneOfSets(t *testing.T) {
	ctx, s := context.Background(), open(t)
	s.now = func() time.Time { return time.Now().Add(-time.Hour) }
	publish := func(id, in string) {
		row := mark(t, s, id, SourceHook)
		inTx(t, s, func(tx *sql.Tx) error {
			if _, err := s.Classified(ctx, tx, id, row.Due, Content{SeriesID: series, StudyID: in, FileUUID: "f", MD5: "x", Model: "m@1", ReceivedAt: time.Now()}); err != nil {
				return err
			}
			_, err := s.Published(ctx, tx, id, row.Due)
			return err
		})
	}
	publish(one, study)
	s.now = time.Now
	publish(two, "another study") // its end is too young
	mixed, _ := deliver(t, s, ofStudy("pacs"), ResendChanged, Item{InstanceID: one, ContentMD5: "x"}, Item{InstanceID: three, FileUUID: "report"})
	both, _ := deliver(t, s, ofStudy("both"), ResendChanged, Item{InstanceID: one, ContentMD5: "x"}, Item{InstanceID: two, ContentMD5: "x"})
	finish(t, s, both.ID, DeliveryDelivered)
	gather(t, s, LevelStudy, study, "whole")
	prune := func() int64 { return must(s.Prune(ctx, time.Now().Add(-time.Minute)))(t) }
	if n := prune(); n != 0 {
		t.Fatalf("%d instances went while a delivery and a wait were open", n)
	}
	finish(t, s, mixed.ID, DeliveryDelivered)
	if n := prune(); n != 0 {
		t.Fatalf("%d instances went while a rule waited for their study", n)
	}
	end(t, s, LevelStudy, study, GatheringDecided, true)
	if n := prune(); n != 1 {
		t.Fatalf("%d instances went, want one", n)
	}
	if _, err := s.Delivery(ctx, mixed.ID); !errors.Is(err, ErrUnknown) || len(must(s.Items(ctx, mixed.ID))(t)) != 0 {
		t.Errorf("the delivery of what is forgotten stays: %v", err)
	}
	if n := len(must(s.Items(ctx, both.ID))(t)); n != 2 {
		t.Errorf("of a set of which one instance is known %d items stay, want both", n)
	}
	if g := must(s.Gatherings(ctx, LevelStudy, study))(t); len(g) != 0 {
		t.Errorf("the wait of a forgotten study stays: %+v", g)
	}
}

// TestMigrationToSets: deliveries of a release before sets are deliveries of one instance, and are not made a second time.
func TestMigrationToSets(t *testing.T) {
	ctx, path := context.Background(), filepath.Join(t.TempDir(), "router.db")
	old, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		t.Fatal(err)
	}
	old.SetMaxOpenConns(1)
	statements := []string{"PRAGMA user_version = 3",
		"INSERT INTO instance (id, state, due, source, forward, study_id, first_marked, marked_at) VALUES ('" + one + "', 'published', 1, 'hook', 1, '" + study + "', 1, 1)",
		"INSERT INTO delivery (id, instance_id, content_md5, destination, rule, state, orthanc_job, job, attempts, reason, last_error, received_at, created_at, submitted_at, finished_at, priority, not_before)" +
			"VALUES ('d1', '" + one + "', 'a', 'pacs', 'r', 'pending', 'o', 7, 3, 'why', 'last', 1000, 2000, 3000, 0, 1, 4000), ('d2', '" + two + "', 'b', 'pacs', 'r', 'delivered', '', 0, 1, '', '', 1, 2, 3, 4, 2, 0)"}
	files := must(migrations.ReadDir("migrations"))(t)
	for i := range 3 {
		text := must(migrations.ReadFile("migrations/" + files[2-i].Name()))(t)
		statements = append([]string{string(text)}, statements...)
	}
	for _, statement := range statements {
		if _, err := old.ExecContext(ctx, statement); err != nil {
			t.Fatalf("%v in %s", err, statement)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	s := must(Open(ctx, path))(t)
	defer func() { _ = s.Close() }()
	at := func(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
	want := Delivery{ID: "d1", Level: LevelInstance, ResourceID: one, StudyID: study, Content: "a", Instances: 1, Destination: "pacs", Rule: "r", State: DeliveryPending,
		OrthancJob: "o", Job: 7, Attempts: 3, Reason: "why", LastError: "last", Priority: 1, NotBefore: at(4000), ReceivedAt: at(1000), CreatedAt: at(2000), Since: at(2000), SubmittedAt: at(3000)}
	if got := must(s.Delivery(ctx, "d1"))(t); got != want {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if got := must(s.Delivery(ctx, "d2"))(t); got.State != DeliveryDelivered || got.FinishedAt != at(4) || got.StudyID != "" {
		t.Errorf("of an instance that is not known: %+v", got)
	}
	if items := must(s.Items(ctx, "d1"))(t); !slices.Equal(items, []Item{{InstanceID: one, ContentMD5: "a"}}) {
		t.Errorf("its items: %+v", items)
	}
	for _, policy := range []Resend{ResendNever, ResendChanged, ResendAlways} {
		for instance, md5 := range map[string]string{one: "a", two: "b"} {
			if _, created := deliver(t, s, Delivery{Destination: "pacs"}, policy, Item{InstanceID: instance, ContentMD5: md5, FileUUID: "f"}); created {
				t.Errorf("%s: instance %s goes a second time after the migration", policy, instance)
			}
		}
	}
	if _, created := deliver(t, s, Delivery{Destination: "pacs"}, ResendChanged, Item{InstanceID: one, ContentMD5: "c", FileUUID: "f"}); !created {
		t.Error("a new content does not go")
	}
}
