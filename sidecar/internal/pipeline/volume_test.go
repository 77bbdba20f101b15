package pipeline

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/store"
)

func TestUsual(t *testing.T) {
	hours := func(n, each int, more ...int) []int {
		for range n {
			more = append(more, each)
		}
		return more
	}
	for name, tt := range map[string]struct {
		hours []int
		want  int
	}{
		"nothing known":           {nil, volumeUnknown},
		"a few hours":             {hours(23, 9000), volumeUnknown},
		"a day":                   {hours(24, 120), 1200},
		"a small site":            {hours(100, 3), volumeLeast},
		"one hour of a migration": {hours(30, 120, 100_000), 1200},
		"hours that differ":       {hours(13, 200, hours(12, 60)...), 2000},
	} {
		if got := usual(tt.hours); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}

// The brake goes on with the delivery that is one too many, holds the further ones until it is released, and begins to count anew then.
func TestVolumeBrake(t *testing.T) {
	ctx := context.Background()
	s, err := store.Open(ctx, filepath.Join(t.TempDir(), "router.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	made := 0
	create := func(v *Volume) (reason string) {
		made++
		err := s.Tx(ctx, func(tx *sql.Tx) (err error) {
			if reason, err = v.Hold(ctx, tx); err != nil {
				return err
			}
			id := fmt.Sprint(made)
			_, _, err = s.AddDelivery(ctx, tx, store.Delivery{Level: store.LevelInstance, ResourceID: id, Destination: "pacs"}, "", []store.Item{{InstanceID: id, ContentMD5: "x"}})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return reason
	}
	v := &Volume{Store: s, Limit: 3, Log: zerolog.Nop()}
	for round := range 2 {
		for n := range 3 {
			if reason := create(v); reason != "" {
				t.Fatalf("round %d: delivery %d of 3 is held: %s", round, n+1, reason)
			}
		}
		for range 2 {
			if reason := create(v); !strings.Contains(reason, "more than 3 deliveries within an hour") {
				t.Fatalf("round %d: one too many is not held: %q", round, reason)
			}
		}
		if reason, since, err := v.Held(ctx); reason == "" || since.IsZero() || err != nil {
			t.Errorf("held: %q since %s, %v", reason, since, err)
		}
		if err := s.SetSetting(ctx, store.SettingVolumeBrake, ""); err != nil { // as `deliveries release` does
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond) // times are kept to the millisecond, and what came in that of the release is not counted
	}
	if reason := create(&Volume{Store: s, Log: zerolog.Nop()}); reason != "" {
		t.Errorf("without a limit: %s", reason)
	}
	if limit, err := (&Volume{Store: s, Limit: 7, Auto: true}).Current(ctx); limit != volumeUnknown || err != nil {
		t.Errorf("worked out from nothing: %d, %v", limit, err)
	}
}

// A brake that was on when the configuration switched it off is not on for ever.
func TestVolumeBrakeSwitchedOff(t *testing.T) {
	ctx := context.Background()
	s, err := store.Open(ctx, filepath.Join(t.TempDir(), "router.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, tt := range []struct {
		v    *Volume
		held bool
	}{{&Volume{Store: s, Limit: 5}, true}, {&Volume{Store: s, Auto: true}, true}, {&Volume{Store: s}, false}} {
		if err := s.SetSetting(ctx, store.SettingVolumeBrake, "it holds"); err != nil {
			t.Fatal(err)
		}
		if err := tt.v.TakeUp(ctx); err != nil {
			t.Fatal(err)
		}
		if reason, _, err := tt.v.Held(ctx); (reason != "") != tt.held || err != nil {
			t.Errorf("limit %d, auto %t: %q, %v", tt.v.Limit, tt.v.Auto, reason, err)
		}
	}
}
