package pipeline

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/store"
)

// The limit that is worked out from the past, where the configuration names none.
const (
	volumeTimes   = 10                  // times the median of the hours in which anything was delivered
	volumePast    = 28 * 24 * time.Hour // of so long
	volumeHours   = 24                  // hours with deliveries that there must be for a median to mean something
	volumeLeast   = 500                 // a small site's median is too low to tell a busy day from an accident
	volumeUnknown = 1000                // until there are so many hours
)

// Volume is the volume brake: when more deliveries come into being within an hour than is usual, a rule, a migration or a loop has gone
// wrong, and the further ones wait for a person. What came into being before goes on.
type Volume struct {
	Store *store.Store
	Limit int  // deliveries within an hour; 0 = none, unless Auto
	Auto  bool // ten times the median hour of the past
	Log   zerolog.Logger

	mu       sync.Mutex
	worked   int
	workedAt time.Time
}

// Current returns the limit in force, 0 for none.
func (v *Volume) Current(ctx context.Context) (int, error) {
	if !v.Auto {
		return v.Limit, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if age := time.Since(v.workedAt); v.worked > 0 && age >= 0 && age < time.Hour {
		return v.worked, nil
	}
	hour := time.Now().Truncate(time.Hour)
	counts, err := v.Store.HourlyDeliveries(ctx, hour.Add(-volumePast), hour)
	if err != nil {
		return 0, err
	}
	v.worked, v.workedAt = usual(counts), time.Now()
	return v.worked, nil
}

// usual returns ten times the median of the hours' counts, within reason.
func usual(hours []int) int {
	if len(hours) < volumeHours {
		return volumeUnknown
	}
	sorted := slices.Sorted(slices.Values(hours))
	return max(volumeLeast, volumeTimes*sorted[len(sorted)/2])
}

// Held returns why the brake holds and since when; "" when it does not.
func (v *Volume) Held(ctx context.Context) (reason string, since time.Time, err error) {
	reason, since, _, err = v.Store.Setting(ctx, store.SettingVolumeBrake)
	return reason, since, err
}

// TakeUp opens a brake that the configuration has switched off since. What it holds still waits for a person.
func (v *Volume) TakeUp(ctx context.Context) error {
	reason, _, err := v.Held(ctx)
	if err != nil || reason == "" || v.Auto || v.Limit > 0 {
		return err
	}
	return v.Store.SetSetting(ctx, store.SettingVolumeBrake, "")
}

// Hold says within tx whether a delivery that is about to come into being must wait, and why. It puts the brake on when this one is too many.
func (v *Volume) Hold(ctx context.Context, tx *sql.Tx) (reason string, err error) {
	limit, err := v.Current(ctx)
	if err != nil || limit == 0 {
		return "", err
	}
	reason, changed, err := v.Held(ctx)
	if err != nil || reason != "" {
		return reason, err
	}
	since := time.Now().Add(-time.Hour)
	if changed.After(since) { // what a person has released is not counted again
		since = changed
	}
	n, err := v.Store.CreatedSince(ctx, tx, since)
	if err != nil || n < limit {
		return "", err
	}
	reason = fmt.Sprintf("the volume brake holds: more than %d deliveries within an hour; `imaging-router deliveries release` lets them go", limit)
	v.Log.Error().Int("limit", limit).Msg("the volume brake holds further deliveries until a person releases them (imaging-router deliveries status, release, cancel)")
	return reason, v.Store.SetSettingIn(ctx, tx, store.SettingVolumeBrake, reason)
}
