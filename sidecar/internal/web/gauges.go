package web

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/store"
)

// Gauges reads the database when Prometheus asks: depth and age of the queue, instances and deliveries by state, the switch.
type Gauges struct {
	Store      *store.Store
	Forwarding func(ctx context.Context) (bool, error)
}

var (
	queueDepth = prometheus.NewDesc("imaging_router_queue_jobs", "Unfinished jobs, by kind and state.", []string{"kind", "state"}, nil)
	queueAge   = prometheus.NewDesc("imaging_router_queue_oldest_seconds", "Age of the oldest instance that waits for its labels.", nil, nil)
	instances  = prometheus.NewDesc("imaging_router_instances", "Instances in the database, by state.", []string{"state"}, nil)
	deliveries = prometheus.NewDesc("imaging_router_deliveries", "Deliveries in the database, by destination and state.", []string{"destination", "state"}, nil)
	forwarding = prometheus.NewDesc("imaging_router_forwarding", "1 while forwarding is on.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g *Gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{queueDepth, queueAge, instances, deliveries, forwarding} {
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
		for _, c := range counts {
			gauge(deliveries, float64(c.N), c.Destination, string(c.State))
		}
	}
	if on, err := g.Forwarding(ctx); err != nil {
		fail(forwarding, err)
	} else if on {
		gauge(forwarding, 1)
	} else {
		gauge(forwarding, 0)
	}
}
