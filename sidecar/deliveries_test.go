package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/pipeline"
	"imagingrouter/sidecar/internal/store"
)

const (
	aStudy    = "6b9e29b1-5d4b8d3c-8f7a3ee1-9e5ab2b4-3c1f7a0d"
	aSeries   = "5a1e29b1-5d4b8d3c-8f7a3ee1-9e5ab2b4-3c1f7a0d"
	noStudy   = "00000000-00000000-00000000-00000000-00000000"
	anUnknown = "7e0c6d1a-3c57-4b5e-9b58-0f5d0d0c6a11"
)

// site is a folder with a configuration, and the database that a router left there.
type site struct {
	dir string
	db  *store.Store
	ids map[string]string // of the deliveries, by name
}

// newSite makes a site with a delivery in each of these states, and a study and a series that are waited for.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), ids: map[string]string{}}
	configuration := "database: {path: router.db}\nforwarding: {enabled: true, volume_limit: 100}\ndestinations: [{name: chest-ai}, {name: spine-ai}]\n" +
		"rules: [{name: whole, when: true, to: [spine-ai], level: study}]\n"
	if err := os.WriteFile(filepath.Join(s.dir, "config.yaml"), []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	var err error
	if s.db, err = store.Open(ctx, filepath.Join(s.dir, "router.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.db.Close() })
	queue, err := jobs.Open(ctx, s.db.DB(), nil, jobs.Options{Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		for i, d := range []struct {
			name, to, reason string
			state            store.DeliveryState
		}{
			{"pending", "chest-ai", "", store.DeliveryPending}, {"held", "chest-ai", "too many", store.DeliveryHeld}, {"second held", "spine-ai", "too many", store.DeliveryHeld},
			{"failed", "spine-ai", "no route to host", store.DeliveryFailed}, {"expired", "chest-ai", "", store.DeliveryExpired},
			{"delivered", "chest-ai", "", store.DeliveryDelivered}, {"removed", "no longer", "", store.DeliveryFailed},
		} {
			id := fmt.Sprintf("%08d-00000000-00000000-00000000-00000000", i+1)
			plan := store.Delivery{Level: store.LevelStudy, ResourceID: aStudy, StudyID: aStudy, Destination: d.to, Rule: "r", State: d.state, Reason: d.reason, ReceivedAt: time.Now()}
			added, _, err := s.db.AddDelivery(ctx, tx, plan, "", []store.Item{{InstanceID: id, ContentMD5: d.name}, {InstanceID: "report of " + id, FileUUID: d.name}})
			if err != nil {
				return err
			}
			s.ids[d.name] = added.ID
			switch d.state {
			case store.DeliveryPending, store.DeliveryHeld:
			default:
				if err := s.db.FinishDelivery(ctx, tx, added.ID, d.state, d.reason); err != nil {
					return err
				}
			}
		}
		for id, level := range map[string]store.Level{aStudy: store.LevelStudy, aSeries: store.LevelSeries} {
			if _, err := s.db.Gather(ctx, tx, level, id, aStudy, "whole"); err != nil {
				return err
			}
			job, err := queue.Gather(ctx, tx, level, id)
			if err != nil {
				return err
			}
			if err := s.db.SetGatheringJob(ctx, tx, level, id, job); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "UPDATE river_job SET state = 'scheduled', scheduled_at = datetime('now', '+1 hour')")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs `deliveries` with these arguments, in which "@name" stands for a delivery's identifier.
func (s *site) run(t *testing.T, args ...string) result {
	t.Helper()
	line := []string{"deliveries"}
	for _, arg := range args {
		if name, named := strings.CutPrefix(arg, "@"); named {
			arg = s.ids[name]
		}
		line = append(line, arg)
	}
	return execute(t, s.dir, nil, line...)
}

// changed lists the deliveries whose state is not what it was made.
func (s *site) changed(t *testing.T) string {
	t.Helper()
	var changes []string
	for _, name := range []string{"pending", "held", "second held", "failed", "expired", "delivered", "removed"} {
		d, err := s.db.Delivery(context.Background(), s.ids[name])
		if err != nil {
			t.Fatal(err)
		}
		made := map[string]string{"second held": "held", "removed": "failed"}[name]
		if made == "" {
			made = name
		}
		if string(d.State) != made {
			changes = append(changes, name+" is "+string(d.State))
		}
		if d.State == store.DeliveryPending && made != "pending" && d.Job == 0 {
			t.Errorf("%s waits without a job", name)
		}
	}
	return strings.Join(changes, ", ")
}

// leftOut is what retry says of the one delivery whose destination is no longer configured, when it is among the selected.
func leftOut(args []string) string {
	if args[0] == "retry" && slices.Contains(args, "--rule") {
		return "1 left out: the configuration no longer has their destination\n"
	}
	return ""
}

// What the commands print, and what they have done to the deliveries.
func TestDeliveriesCommands(t *testing.T) {
	for _, tt := range []struct {
		args    []string
		stdout  string
		changed string
	}{
		{[]string{"retry", "@failed"}, "1 deliveries\n", "failed is pending"},
		{[]string{"retry", "--destination", "chest-ai"}, "1 deliveries\n", "expired is pending"},
		{[]string{"retry", "--reason", "route to"}, "1 deliveries\n", "failed is pending"},
		{[]string{"retry", "--rule", "r"}, "2 deliveries\n", "failed is pending, expired is pending"},
		{[]string{"retry", "--rule", "r", "--dry-run"}, "2 deliveries\n", ""},
		{[]string{"retry", "--state", "cancelled"}, "0 deliveries\n", ""},
		{[]string{"cancel", "@pending", "@held"}, "2 deliveries cancelled, 0 were no longer pending\n", "pending is cancelled, held is cancelled"},
		{[]string{"cancel", "--state", "held"}, "2 deliveries cancelled, 0 were no longer pending\n", "held is cancelled, second held is cancelled"},
		{[]string{"cancel", "--study", aStudy, "--destination", "chest-ai"}, "2 deliveries cancelled, 0 were no longer pending\n", "pending is cancelled, held is cancelled"},
		{[]string{"cancel", "--rule", "r", "--dry-run"}, "3 deliveries\n", ""},
		{[]string{"cancel", "--rule", "another"}, "0 deliveries cancelled, 0 were no longer pending\n", ""},
		{[]string{"release"}, "2 deliveries released\n", "held is pending, second held is pending"},
		{[]string{"release", "@held"}, "1 deliveries released\n", "held is pending"},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			s := newSite(t)
			if r := s.run(t, tt.args...); r.status != 0 || r.stdout != tt.stdout || r.stderr != leftOut(tt.args) {
				t.Errorf("%+v, want %q", r, tt.stdout)
			}
			if got := s.changed(t); got != tt.changed {
				t.Errorf("afterwards %q, want %q", got, tt.changed)
			}
		})
	}
}

func TestDeliveriesErrors(t *testing.T) {
	s := newSite(t)
	for _, tt := range []struct {
		args []string
		want string // with PENDING and FAILED for their identifiers
	}{
		{[]string{"retry"}, "deliveries retry needs names, or --destination, --rule, --study, --reason or --state"},
		{[]string{"retry", "@pending"}, "delivery PENDING is pending: there is nothing to retry"},
		{[]string{"retry", anUnknown}, "delivery " + anUnknown + ": unknown to this router (a delivery is named by its own identifier: imaging-router deliveries list)"},
		{[]string{"retry", "--state", "pending"}, "what is pending cannot be retried (only failed, expired, cancelled, gone)"},
		{[]string{"retry", "--state", "lost"}, `unknown state "lost" (known: held, pending, submitting, sent, delivered, expired, cancelled, gone, failed)`},
		{[]string{"cancel"}, "deliveries cancel needs names, or --destination, --rule, --study, --reason or --state"},
		{[]string{"cancel", "--state", "failed"}, "what is failed cannot be cancelled (only pending, held)"},
		{[]string{"cancel", "@failed"}, "delivery FAILED is failed: there is nothing to cancel"},
		{[]string{"cancel", noStudy}, "no rule waits for " + noStudy},
		{[]string{"cancel", aStudy, "--dry-run"}, "--dry-run counts deliveries only"},
		{[]string{"release", "@pending"}, "delivery PENDING is pending: there is nothing to release"},
		{[]string{"release", noStudy}, "no rule waits for " + noStudy},
		{[]string{"pause", "pacs"}, `unknown destination "pacs" (known: chest-ai, spine-ai)`},
		{[]string{"resume", "pacs"}, `unknown destination "pacs" (known: chest-ai, spine-ai)`},
		{[]string{"pause"}, "accepts 1 arg(s), received 0"},
		{[]string{"list", "--study", "1.2.3"}, "--study: not an Orthanc identifier (five groups of eight hexadecimal digits)"},
		{[]string{"show", anUnknown}, "delivery " + anUnknown + ": unknown to this router"},
	} {
		want := strings.NewReplacer("PENDING", s.ids["pending"], "FAILED", s.ids["failed"]).Replace(tt.want)
		if r := s.run(t, tt.args...); r.status == 0 || !strings.HasPrefix(r.stderr, "imaging-router: "+want+"\n") || r.stdout != "" {
			t.Errorf("%v: %+v, want %q", tt.args, r, want)
		}
	}
	if got := s.changed(t); got != "" {
		t.Errorf("errors changed something: %s", got)
	}
	if r := execute(t, t.TempDir(), nil, "deliveries", "status"); r.status == 0 || !strings.Contains(r.stderr, "there is no database yet at database.path") {
		t.Errorf("without a database: %+v", r)
	}
}

// A study or series that a rule waits for is released, woken, and cancelled by its own identifier.
func TestDeliveriesOfWaits(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	state := func(level store.Level, id string) (string, bool) {
		list, err := s.db.Gatherings(ctx, level, id)
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		var job string
		if err := s.db.Reader().QueryRowContext(ctx, "SELECT state FROM river_job WHERE id = ?", list[0].Job).Scan(&job); err != nil {
			t.Fatal(err)
		}
		return string(list[0].State) + ", job " + job, list[0].Released
	}
	if r := s.run(t, "release", aSeries); r.status != 0 || r.stdout != "1 waits released\n" {
		t.Errorf("release of a series: %+v", r)
	}
	if words, released := state(store.LevelSeries, aSeries); words != "waiting, job available" || !released {
		t.Errorf("the series is %s, released %t", words, released)
	}
	if words, released := state(store.LevelStudy, aStudy); words != "waiting, job scheduled" || released {
		t.Errorf("the study is %s, released %t", words, released)
	}
	if r := s.run(t, "release", aStudy, "@held"); r.status != 0 || r.stdout != "2 waits released\n1 deliveries released\n" || s.changed(t) != "held is pending" {
		t.Errorf("release of a study and a delivery: %+v", r)
	}
	if r := s.run(t, "cancel", aStudy, "@held"); r.status != 0 || r.stdout != "2 waits cancelled\n1 deliveries cancelled, 0 were no longer pending\n" || s.changed(t) != "held is cancelled" {
		t.Errorf("cancel of a study and a delivery: %+v", r)
	}
	if words, _ := state(store.LevelStudy, aStudy); !strings.HasPrefix(words, "skipped") {
		t.Errorf("the study is %s", words)
	}
	if r := s.run(t, "cancel", aStudy); r.status == 0 || !strings.Contains(r.stderr, "no rule waits for "+aStudy) {
		t.Errorf("a second time: %+v", r)
	}
}

func TestDeliveriesStatusAndPause(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	lines := func() map[string]string {
		r := s.run(t, "status")
		if r.status != 0 || r.stderr != "" {
			t.Fatalf("%+v", r)
		}
		out := map[string]string{}
		for line := range strings.Lines(r.stdout) {
			words := strings.Fields(line)
			if len(words) > 0 {
				out[words[0]] = strings.Join(words[1:], " ")
			}
		}
		return out
	}
	got := lines()
	for word, want := range map[string]string{
		"forwarding:": "on (by configuration)",
		"chest-ai":    "open 1 0s 1 1 1",
		"spine-ai":    "open 0 - 1 0 1",
		"volume":      "brake: open, holds beyond 100 deliveries within an hour",
		"whole":       "series and studies: 2 wait to be complete, 0 are held for a person",
	} {
		line := strings.Replace(strings.Replace(got[word], " 1s ", " 0s ", 1), " 2s ", " 0s ", 1)
		if line != want {
			t.Errorf("%s %q, want %q", word, got[word], want)
		}
	}
	if r := s.run(t, "pause", "spine-ai"); r.status != 0 || r.stdout != "spine-ai: paused\n" {
		t.Errorf("pause: %+v", r)
	}
	if err := s.db.SetSetting(ctx, store.SettingVolumeBrake, "more than enough"); err != nil {
		t.Fatal(err)
	}
	if got := lines(); !strings.HasPrefix(got["spine-ai"], "paused since 20") || !strings.HasPrefix(got["chest-ai"], "open ") ||
		!strings.HasPrefix(got["volume"], "brake: HOLDS since 20") || !strings.HasSuffix(got["volume"], ": more than enough") {
		t.Errorf("paused, and the brake on: %q", got)
	}
	if r := s.run(t, "release"); r.status != 0 {
		t.Errorf("release: %+v", r)
	}
	if r := s.run(t, "resume", "spine-ai"); r.status != 0 || r.stdout != "spine-ai: open\n" {
		t.Errorf("resume: %+v", r)
	}
	if got := lines(); !strings.HasPrefix(got["spine-ai"], "open 1 ") || !strings.HasPrefix(got["volume"], "brake: open") {
		t.Errorf("resumed, and the brake released: %q", got)
	}
	if paused, err := pipeline.PausedIn(ctx, s.db, "spine-ai"); paused.On || err != nil {
		t.Errorf("after resume: %+v, %v", paused, err)
	}
}

func TestDeliveriesListAndShow(t *testing.T) {
	s := newSite(t)
	r := s.run(t, "list")
	for _, want := range []string{"WAITS FOR ", "study " + aStudy, "series " + aSeries, "not looked at yet", "DELIVERY ", s.ids["held"], s.ids["failed"], "no route to host", "(2 instances)"} {
		if r.status != 0 || !strings.Contains(r.stdout, want) {
			t.Errorf("list lacks %q: %+v", want, r)
		}
	}
	if strings.Contains(r.stdout, s.ids["delivered"]) {
		t.Error("what was delivered is listed unasked")
	}
	if r := s.run(t, "list", "--state", "delivered", "--study", aStudy); !strings.Contains(r.stdout, s.ids["delivered"]) || strings.Contains(r.stdout, "WAITS FOR") || strings.Contains(r.stdout, s.ids["held"]) {
		t.Errorf("what was delivered: %+v", r)
	}
	if r := s.run(t, "list", "--rule", "another"); r.status != 0 || r.stdout != "none\n" {
		t.Errorf("nothing: %+v", r)
	}
	kinds := map[string]int{}
	for line := range strings.Lines(s.run(t, "list", "--json").stdout) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		kind, _ := v["kind"].(string)
		kinds[kind]++
		if kind == "delivery" && (v["level"] != "study" || v["study"] != aStudy || v["instances"] != 2.0 || v["rule"] != "r") || kind == "waiting" && (v["study"] != aStudy || v["rule"] != "whole") {
			t.Errorf("%s", line)
		}
	}
	if kinds["delivery"] != 6 || kinds["waiting"] != 2 {
		t.Errorf("%v, want 6 deliveries and 2 waits", kinds)
	}
	if err := s.db.DropItem(context.Background(), s.ids["pending"], "00000001-00000000-00000000-00000000-00000000", "deleted in Orthanc"); err != nil {
		t.Fatal(err)
	}
	r = s.run(t, "show", "@pending")
	for _, want := range []string{s.ids["pending"], "study " + aStudy + " (2 instances)", "chest-ai", "deleted in Orthanc", "report of 00000001"} {
		if r.status != 0 || !strings.Contains(r.stdout, want) {
			t.Errorf("show lacks %q: %+v", want, r)
		}
	}
}
