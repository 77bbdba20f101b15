package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func gather(t testing.TB, s *Store, level Level, resource, rule string) (job int64) {
	t.Helper()
	inTx(t, s, func(tx *sql.Tx) (err error) {
		job, err = s.Gather(context.Background(), tx, level, resource, study, rule)
		return err
	})
	return job
}

// gathering returns what the one rule that there is waits for.
func gathering(t testing.TB, s *Store, level Level, resource string) Gathering {
	t.Helper()
	list := must(s.Gatherings(context.Background(), level, resource))(t)
	if len(list) != 1 {
		t.Fatalf("%d rules wait for %s, want one", len(list), resource)
	}
	return list[0]
}

// end ends the one wait for a resource, as it is now.
func end(t testing.TB, s *Store, level Level, resource string, state GatheringState, sent bool) {
	t.Helper()
	endOf(t, s, gathering(t, s, level, resource), state, sent)
}

func endOf(t testing.TB, s *Store, g Gathering, state GatheringState, sent bool) (ended bool) {
	t.Helper()
	inTx(t, s, func(tx *sql.Tx) (err error) {
		ended, err = s.EndGathering(context.Background(), tx, g, state, sent, "because")
		return err
	})
	return ended
}

func late(t testing.TB, s *Store) (list []Gathering) {
	t.Helper()
	inTx(t, s, func(tx *sql.Tx) (err error) {
		list, err = s.Late(context.Background(), tx, series, study)
		return err
	})
	return list
}

func hold(t testing.TB, s *Store, g Gathering) {
	t.Helper()
	if news := must(s.StillGathering(context.Background(), g, GatheringHeld, "under review"))(t); !news {
		t.Error("that it is held is no news")
	}
}

func TestGatherCountsWhatComes(t *testing.T) {
	ctx, s := context.Background(), open(t)
	began := time.Now().Add(-time.Hour).Truncate(time.Millisecond).UTC()
	s.now = func() time.Time { return began }
	if job := gather(t, s, LevelStudy, study, "r"); job != 0 {
		t.Errorf("job %d works on what nobody has begun", job)
	}
	inTx(t, s, func(tx *sql.Tx) error { return s.SetGatheringJob(ctx, tx, LevelStudy, study, 7) })
	s.now = func() time.Time { return began.Add(time.Minute) }
	if job := gather(t, s, LevelStudy, study, "r"); job != 7 {
		t.Errorf("job %d, want the one that works on it", job)
	}
	if job := gather(t, s, LevelStudy, study, "another rule"); job != 7 {
		t.Errorf("job %d, want the resource's", job)
	}
	got := must(s.Gatherings(ctx, LevelStudy, study))(t)[1]
	want := Gathering{Level: LevelStudy, ResourceID: study, Rule: "r", StudyID: study, State: GatheringWaiting, Touched: 2, OpenedAt: began, ChangedAt: began.Add(time.Minute), Job: 7}
	if got != want || !got.Open() {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// Something that comes between the reading and the end keeps the wait open, in the state in which it is.
func TestATouchBetweenKeepsItOpen(t *testing.T) {
	for name, tt := range map[string]struct {
		held  bool
		touch func(t *testing.T, s *Store)
		want  GatheringState
		sent  bool
	}{
		"nothing came":     {false, func(*testing.T, *Store) {}, GatheringDecided, true},
		"an instance came": {false, func(t *testing.T, s *Store) { gather(t, s, LevelStudy, study, "r") }, GatheringWaiting, true},
		"a report came":    {false, func(t *testing.T, s *Store) { late(t, s) }, GatheringWaiting, true},
		"to what is held":  {true, func(t *testing.T, s *Store) { gather(t, s, LevelStudy, study, "r") }, GatheringHeld, true},
		"it was cancelled": {false, func(t *testing.T, s *Store) {
			if n := must(s.CancelGatherings(context.Background(), study, "by command"))(t); n != 1 {
				t.Errorf("%d cancelled", n)
			}
		}, GatheringSkipped, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			gather(t, s, LevelStudy, study, "r")
			if tt.held {
				hold(t, s, gathering(t, s, LevelStudy, study))
			}
			read := gathering(t, s, LevelStudy, study)
			tt.touch(t, s)
			ended := endOf(t, s, read, GatheringDecided, true)
			g := gathering(t, s, LevelStudy, study)
			if g.State != tt.want || g.Sent != tt.sent || ended != (tt.want == GatheringDecided) {
				t.Errorf("%s, sent %t, ended %t; want %s, sent %t", g.State, g.Sent, ended, tt.want, tt.sent)
			}
			if g.State == GatheringDecided && (g.Reason != "because" || g.DecidedAt.IsZero()) || g.Open() && !g.DecidedAt.IsZero() {
				t.Errorf("%+v", g)
			}
		})
	}
	s := open(t)
	err := s.Tx(context.Background(), func(tx *sql.Tx) error {
		_, err := s.EndGathering(context.Background(), tx, Gathering{Level: LevelStudy, ResourceID: study, Rule: "r"}, GatheringDecided, true, "")
		return err
	})
	if !errors.Is(err, ErrUnknown) {
		t.Errorf("the end of what never began: %v", err)
	}
}

// What comes late to what was decided begins a new round: an instance always, anything else where the rule has sent the rest.
func TestLate(t *testing.T) {
	for name, tt := range map[string]struct {
		state  GatheringState
		sent   bool
		report GatheringState // after something that no rule begins with
		opens  bool           // and a job is to begin
	}{
		"sent":                {GatheringDecided, true, GatheringWaiting, true},
		"not sent":            {GatheringDecided, false, GatheringDecided, false},
		"skipped":             {GatheringSkipped, false, GatheringSkipped, false},
		"sent, skipped since": {GatheringSkipped, true, GatheringWaiting, true},
		"still waiting":       {GatheringWaiting, false, GatheringWaiting, true},
		"held":                {GatheringHeld, true, GatheringHeld, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			began := time.Now().Add(-time.Hour).Truncate(time.Millisecond).UTC()
			for i, come := range []func() []Gathering{func() []Gathering { return late(t, s) }, func() []Gathering {
				gather(t, s, LevelStudy, study, "r")
				return nil
			}} {
				if _, err := s.DB().ExecContext(context.Background(), "DELETE FROM gathering"); err != nil {
					t.Fatal(err)
				}
				s.now = func() time.Time { return began }
				gather(t, s, LevelStudy, study, "r")
				before := gathering(t, s, LevelStudy, study)
				if before.State != tt.state {
					endOf(t, s, before, tt.state, tt.sent)
				}
				s.now = time.Now
				opened, g := come(), gathering(t, s, LevelStudy, study)
				want := tt.report
				if i == 1 && tt.state != GatheringHeld {
					want = GatheringWaiting
				}
				if g.State != want || i == 0 && (len(opened) == 1) != tt.opens {
					t.Errorf("%s, jobs for %d; want %s", g.State, len(opened), want)
				}
				was := tt.state == GatheringWaiting || tt.state == GatheringHeld
				if g.Open() && (g.OpenedAt.Equal(began) != was || time.Since(g.ChangedAt) > time.Minute || !g.DecidedAt.IsZero()) {
					t.Errorf("the round began %s, was open: %t; %+v", g.OpenedAt, was, g)
				}
				end(t, s, LevelStudy, study, GatheringDecided, false)
				if after := gathering(t, s, LevelStudy, study); g.Sent != tt.sent || after.Sent != tt.sent {
					t.Errorf("sent %t, and %t after a round that sent nothing; want %t", g.Sent, after.Sent, tt.sent)
				}
			}
		})
	}
}

func TestLateIsToldToTheSeriesAndTheStudy(t *testing.T) {
	ctx, s := context.Background(), open(t)
	for resource, level := range map[string]Level{study: LevelStudy, series: LevelSeries, series2: LevelSeries} {
		gather(t, s, level, resource, "r")
		end(t, s, level, resource, GatheringDecided, true)
	}
	if list := late(t, s); len(list) != 2 {
		t.Errorf("%+v; want the study and the one series", list)
	}
	if g := gathering(t, s, LevelSeries, series2); g.Open() {
		t.Error("another series of the study waits as well")
	}
	inTx(t, s, func(tx *sql.Tx) error { return s.SetGatheringJob(ctx, tx, LevelStudy, study, 7) })
	if list := late(t, s); len(list) != 1 || list[0].Level != LevelSeries {
		t.Errorf("%+v; the study has a job", list)
	}
	if list := must(s.GatheringsOf(ctx, study))(t); len(list) != 3 {
		t.Errorf("%d of the study, want 3", len(list))
	}
}

func TestReleaseAndCancelGatherings(t *testing.T) {
	ctx, s := context.Background(), open(t)
	gather(t, s, LevelStudy, study, "r")
	gather(t, s, LevelSeries, series, "r")
	gather(t, s, LevelSeries, series2, "r")
	hold(t, s, gathering(t, s, LevelSeries, series))
	end(t, s, LevelSeries, series2, GatheringDecided, true)

	if n := must(s.ReleaseGatherings(ctx, series))(t); n != 1 || !gathering(t, s, LevelSeries, series).Released || gathering(t, s, LevelStudy, study).Released {
		t.Errorf("released %d, want the series", n)
	}
	if n := must(s.ReleaseGatherings(ctx, study))(t); n != 2 || gathering(t, s, LevelSeries, series2).Released {
		t.Errorf("released %d, want what waits of the study", n)
	}
	gather(t, s, LevelStudy, study, "r")
	if late(t, s); !gathering(t, s, LevelStudy, study).Released {
		t.Error("what came between the command and the next look has undone the release")
	}
	if n := must(s.CancelGatherings(ctx, study, "by command"))(t); n != 2 {
		t.Errorf("cancelled %d, want 2", n)
	}
	for level, resource := range map[Level]string{LevelStudy: study, LevelSeries: series} {
		if g := gathering(t, s, level, resource); g.State != GatheringSkipped || g.Reason != "by command" || g.DecidedAt.IsZero() {
			t.Errorf("after the end: %+v", g)
		}
	}
	for _, id := range []string{series2, two} {
		if n := must(s.ReleaseGatherings(ctx, id))(t) + must(s.CancelGatherings(ctx, id, ""))(t); n != 0 {
			t.Errorf("%d of %s ended, for which nothing waits", n, id)
		}
	}
}

func TestWhatIsWaitedFor(t *testing.T) {
	ctx, s := context.Background(), open(t)
	began := time.Now().Add(-time.Hour).Truncate(time.Millisecond).UTC()
	s.now = func() time.Time { return began }
	gather(t, s, LevelStudy, study, "r")
	s.now = time.Now
	gather(t, s, LevelSeries, series, "r")
	gather(t, s, LevelSeries, series2, "r")
	end(t, s, LevelSeries, series2, GatheringDecided, true)
	g := gathering(t, s, LevelSeries, series)
	hold(t, s, g)
	if must(s.StillGathering(ctx, gathering(t, s, LevelSeries, series), GatheringHeld, "under review"))(t) {
		t.Error("the same is news")
	}
	gather(t, s, LevelSeries, series, "r")
	if _, err := s.StillGathering(ctx, g, GatheringWaiting, "of old"); err != nil || gathering(t, s, LevelSeries, series).State != GatheringHeld {
		t.Errorf("an old look changed what came since: %v", err)
	}
	var order []string
	for _, g := range must(s.Waiting(ctx, 0))(t) {
		order = append(order, g.Level.One()+" "+string(g.State))
	}
	if got := strings.Join(order, ", "); got != "study waiting, series held" || len(must(s.Waiting(ctx, 1))(t)) != 1 {
		t.Errorf("%q; want the longest first", got)
	}
	inTx(t, s, func(tx *sql.Tx) error {
		for resource, want := range map[string]int{series: 1, series2: 0} {
			list, err := s.OpenGatherings(ctx, tx, LevelSeries, resource)
			if err != nil || len(list) != want {
				t.Errorf("%d open of %s, %v; want %d", len(list), resource, err, want)
			}
		}
		return nil
	})
	counted, oldest, err := s.GatheringCounts(ctx)
	if err != nil || !oldest.Equal(began) || counted[GatheringWaiting] != 1 || counted[GatheringHeld] != 1 || counted[GatheringDecided] != 1 {
		t.Errorf("%v since %s, %v", counted, oldest, err)
	}
	if states := GatheringStates(); !slices.Contains(states, GatheringGone) || len(states) != 5 {
		t.Errorf("%v", states)
	}
}

// A review is dated by its first sight, also when the resource is waited for anew.
func TestReviewedIsDatedOnce(t *testing.T) {
	ctx, s := context.Background(), open(t)
	gather(t, s, LevelStudy, study, "r")
	first := must(s.Reviewed(ctx, gathering(t, s, LevelStudy, study)))(t)
	time.Sleep(3 * time.Millisecond)
	end(t, s, LevelStudy, study, GatheringDecided, true)
	gather(t, s, LevelStudy, study, "r")
	if again := must(s.Reviewed(ctx, gathering(t, s, LevelStudy, study)))(t); first.IsZero() || !again.Equal(first) {
		t.Errorf("first seen %s, then %s", first, again)
	}
}
