package web

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/store"
)

// Gauges reads the database when Prometheus asks: depth and age of the queue, instances and deliveries by state, the switch.
type Gauges struct {
	Store      *store.Store
	Forwarding func(ctx context.Context) (bool, error)
	// Gates says of each destination why nothing is sent to it now, "" when it may be; nil while there are none.
	Gates func(ctx context.Context) (map[string]string, error)
}

var (
	queueDepth = prometheus.NewDesc("imaging_router_queue_jobs", "Unfinished jobs, by kind and state.", []string{"kind", "state"}, nil)
	queueAge   = prometheus.NewDesc("imaging_router_queue_oldest_seconds", "Age of the oldest instance that waits for its labels.", nil, nil)
	instances  = prometheus.NewDesc("imaging_router_instances", "Instances in the database, by state.", []string{"state"}, nil)
	deliveries = prometheus.NewDesc("imaging_router_deliveries", "Deliveries in the database, by destination and state.", []string{"destination", "state"}, nil)
	oldest     = prometheus.NewDesc("imaging_router_delivery_oldest_seconds", "Age of the oldest open delivery, by destination.", []string{"destination"}, nil)
	closed     = prometheus.NewDesc("imaging_router_destination_closed", "1 while nothing is sent to the destination, by reason: forwarding_off, paused (by a person), circuit_breaker.", []string{"destination", "reason"}, nil)
	wholes     = prometheus.NewDesc("imaging_router_wholes", "Series and studies that rules wait for or have decided about, by state.", []string{"state"}, nil)
	wholesAge  = prometheus.NewDesc("imaging_router_wholes_oldest_seconds", "Age of the oldest wait for a series or study.", nil, nil)
	volume     = prometheus.NewDesc("imaging_router_volume_brake", "1 while the volume brake holds further deliveries for a person.", nil, nil)
	forwarding = prometheus.NewDesc("imaging_router_forwarding", "1 while forwarding is on.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g *Gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{queueDepth, queueAge, instances, deliveries, oldest, closed, wholes, wholesAge, volume, forwarding} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. A database that cannot be read shows as an error of the scrape.
func (g *Gauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	fail := func(d *prometheus.Desc, err error) { ch <- prometheus.NewInvalidMetric(d, err) }

	if depths, err := jobs.Depths(ctx, g.Store.Reader()); err != nil {
		fail(queueDepth, err)
	} else {
		for _, d := range depths {
			gauge(queueDepth, float64(d.N), d.Kind, d.State)
		}
	}
	if oldest, err := g.Store.OldestDue(ctx); err != nil {
		fail(queueAge, err)
	} else if oldest.IsZero() {
		gauge(queueAge, 0)
	} else {
		gauge(queueAge, time.Since(oldest).Seconds())
	}
	if counts, err := g.Store.Counts(ctx); err != nil {
		fail(instances, err)
	} else {
		for _, s := range store.States() {
			gauge(instances, float64(counts[s]), string(s))
		}
	}
	if counts, err := g.Store.DeliveryCounts(ctx); err != nil {
		fail(deliveries, err)
	} else {
		waits := map[string]time.Time{}
		for _, c := range counts {
			gauge(deliveries, float64(c.N), c.Destination, string(c.State))
			if first := waits[c.Destination]; slices.Contains(store.OpenDeliveries(), c.State) && (first.IsZero() || c.Oldest.Before(first)) {
				waits[c.Destination] = c.Oldest
			}
		}
		for destination, since := range waits {
			gauge(oldest, max(0, time.Since(since).Seconds()), destination)
		}
	}
	g.gates(ctx, gauge, fail)
	if counts, first, err := g.Store.GatheringCounts(ctx); err != nil {
		fail(wholes, err)
	} else {
		for _, s := range store.GatheringStates() {
			gauge(wholes, float64(counts[s]), string(s))
		}
		age := 0.0
		if !first.IsZero() {
			age = time.Since(first).Seconds()
		}
		gauge(wholesAge, age)
	}
	if reason, _, _, err := g.Store.Setting(ctx, store.SettingVolumeBrake); err != nil {
		fail(volume, err)
	} else {
		gauge(volume, map[bool]float64{true: 1}[reason != ""])
	}
	if on, err := g.Forwarding(ctx); err != nil {
		fail(forwarding, err)
	} else if on {
		gauge(forwarding, 1)
	} else {
		gauge(forwarding, 0)
	}
}

func (g *Gauges) gates(ctx context.Context, gauge func(*prometheus.Desc, float64, ...string), fail func(*prometheus.Desc, error)) {
	if g.Gates == nil {
		return
	}
	states, err := g.Gates(ctx)
	if err != nil {
		fail(closed, err)
		return
	}
	for destination, why := range states {
		for _, reason := range []string{"forwarding_off", "paused", "circuit_breaker"} {
			gauge(closed, map[bool]float64{true: 1}[why == reason], destination, reason)
		}
	}
}
