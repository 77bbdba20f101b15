// Package metrics holds what Prometheus may ask of the router. Labels are closed sets (classes, states, destinations of the
// configuration), never identifiers.
package metrics

import (
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"imagingrouter/sidecar/internal/bodypart"
)

const namespace = "imaging_router"

// Metrics is the router's set of collectors, on a registry of its own.
type Metrics struct {
	registry *prometheus.Registry

	marked         *prometheus.CounterVec
	hookRefused    *prometheus.CounterVec
	skipped        *prometheus.CounterVec
	storedLabelled prometheus.Histogram
	stage          *prometheus.HistogramVec
	results        *prometheus.CounterVec
	confidence     *prometheus.HistogramVec
	ended          *prometheus.CounterVec
	retries        *prometheus.CounterVec
	deliveries     *prometheus.CounterVec
	diverted       *prometheus.CounterVec
	gathered       *prometheus.CounterVec
	rulesFailed    *prometheus.CounterVec
	deliveryTime   *prometheus.HistogramVec
	model          *prometheus.GaugeVec
	fallbacks      *prometheus.CounterVec
	followerResets prometheus.Counter
	reloadSuccess  prometheus.Gauge
	reloadTime     prometheus.Gauge
	classesMutex   sync.Mutex
	classes        map[string]bool // SOP classes that have a label of their own
	followerSeen   atomic.Int64    // Unix milliseconds of the last poll that reached the end of the log, or of the follower's start
}

// New returns an empty set; sources, when given, are collected with it (queue depths, counts of the database).
func New(sources ...prometheus.Collector) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), classes: map[string]bool{}}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
		m.registry.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(v)
		return v
	}
	m.marked = counter("instances_marked_total", "Instances marked as due, by source.", "source")
	m.hookRefused = counter("hook_refused_total", "Hook requests refused, by HTTP status.", "status")
	m.skipped = counter("instances_skipped_total", "Instances that are not to be classified, by SOP class.", "sop_class")
	m.storedLabelled = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: "stored_to_labelled_seconds",
		Help:    "Time from the router's first knowledge of a stored instance to its labels in Orthanc (live instances only).",
		Buckets: []float64{.025, .05, .1, .2, .3, .5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200}})
	m.registry.MustRegister(m.storedLabelled)
	m.stage = histogram("stage_duration_seconds", "Duration of one stage of an instance.",
		[]float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30}, "stage")
	m.results = counter("results_total", "Results, by class and review.", "class", "review")
	m.confidence = histogram("confidence", "Calibrated confidence of results, by class.", []float64{.3, .5, .6, .7, .8, .9, .95, .98, .99, .995, 1}, "class")
	m.ended = counter("instances_ended_total", "Instances that reached an end, by state.", "state")
	m.retries = counter("job_errors_total", "Attempts that failed and will be repeated, by kind of job.", "kind")
	m.rulesFailed = counter("rules_failed_total", "Rules that could not be evaluated on a picture's values, by rule.", "rule")
	m.deliveries = counter("deliveries_total", "Deliveries that ended, by destination and outcome.", "destination", "outcome")
	m.diverted = counter("deliveries_diverted_total", "Deliveries that went to an alternate destination.", "destination", "alternate")
	m.gathered = counter("wholes_total", "Whole series and studies that rules have decided about, or that are held for a person, by state.", "state")
	m.deliveryTime = histogram("delivery_seconds", "Time from the creation of a delivery to its arrival.",
		[]float64{.1, .2, .5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 86400}, "destination")
	m.model = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: "model_info", Help: "The serving model; always 1."},
		[]string{"model", "sha256", "provider", "onnxruntime"})
	m.registry.MustRegister(m.model)
	m.fallbacks = counter("provider_fallbacks_total", "Times that an execution provider did not work, or no longer, and the next of model.provider took its place.", "from", "to")
	m.followerResets = prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "follower_resets_total",
		Help: "Times that Orthanc's database was found reset or restored."})
	lag := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: "follower_lag_seconds",
		Help: "Time since the follower last stood at the end of Orthanc's changes, or since its start."}, func() float64 {
		at := m.followerSeen.Load()
		if at == 0 {
			return 0
		}
		return time.Since(time.UnixMilli(at)).Seconds()
	})
	m.reloadSuccess = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "config_reload_success",
		Help: "1 when the configuration file was good at the start or the last reload, 0 when the old rules were kept."})
	m.reloadTime = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "config_reload_success_timestamp_seconds",
		Help: "When the rules in force were read."})
	m.registry.MustRegister(m.reloadSuccess, m.reloadTime)
	m.registry.MustRegister(m.followerResets, lag, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(sources...)
	m.begin()
	return m
}

// begin makes the counters whose labels are known beforehand begin at 0: increase() does not see a first event that comes with its series.
func (m *Metrics) begin() {
	for _, source := range []string{"hook", "follower", "replay"} {
		m.marked.WithLabelValues(source)
	}
	for _, status := range []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusRequestEntityTooLarge, http.StatusServiceUnavailable} {
		m.hookRefused.WithLabelValues(strconv.Itoa(status))
	}
	for _, state := range []string{"skipped", "undecodable", "unreadable", "gone", "failed"} {
		m.ended.WithLabelValues(state)
	}
	for _, state := range []string{"held", "decided", "skipped", "gone"} {
		m.gathered.WithLabelValues(state)
	}
	for _, class := range bodypart.Classes() {
		m.results.WithLabelValues(string(class), "false")
		m.results.WithLabelValues(string(class), "true")
	}
}

// Handler serves the metrics in Prometheus's format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Marked counts instances marked as due.
func (m *Metrics) Marked(source string, n int) { m.marked.WithLabelValues(source).Add(float64(n)) }

// HookRefused counts a hook request that was refused.
func (m *Metrics) HookRefused(status int) { m.hookRefused.WithLabelValues(strconv.Itoa(status)).Inc() }

// Skipped counts an instance that is not to be classified.
func (m *Metrics) Skipped(sopClass string) {
	if !standardUID.MatchString(sopClass) || !m.fewClasses(sopClass) {
		sopClass = "other" // private classes, and text from a stranger: the set of labels stays closed
	}
	m.skipped.WithLabelValues(sopClass).Inc()
}

// mostClasses is how many SOP classes are told apart; DICOM has some 200 for storage, and a hospital a few dozen.
const mostClasses = 256

// fewClasses says whether a SOP class is one of the first mostClasses that were seen.
func (m *Metrics) fewClasses(sopClass string) bool {
	m.classesMutex.Lock()
	defer m.classesMutex.Unlock()
	if !m.classes[sopClass] && len(m.classes) < mostClasses {
		m.classes[sopClass] = true
	}
	return m.classes[sopClass]
}

var standardUID = regexp.MustCompile(`^1\.2\.840\.10008\.[0-9.]{1,46}$`)

// Labelled observes the time from mark to label of a live instance.
func (m *Metrics) Labelled(d time.Duration) { m.storedLabelled.Observe(d.Seconds()) }

// Stage observes the duration of one stage: fetch, picture, network, metadata, labels.
func (m *Metrics) Stage(stage string, d time.Duration) {
	m.stage.WithLabelValues(stage).Observe(d.Seconds())
}

// Result counts a result.
func (m *Metrics) Result(class string, review bool, confidence float64) {
	m.results.WithLabelValues(class, strconv.FormatBool(review)).Inc()
	m.confidence.WithLabelValues(class).Observe(confidence)
}

// Ended counts an instance that reached an end.
func (m *Metrics) Ended(state string) { m.ended.WithLabelValues(state).Inc() }

// Retry counts an attempt that failed and will be repeated.
func (m *Metrics) Retry(kind string) { m.retries.WithLabelValues(kind).Inc() }

// Destinations makes the counters of the configured destinations begin at 0.
func (m *Metrics) Destinations(names ...string) {
	for _, name := range names {
		for _, outcome := range []string{"delivered", "expired", "cancelled", "gone", "failed"} {
			m.deliveries.WithLabelValues(name, outcome)
		}
	}
}

// Delivered counts a delivery that ended; took is its age, observed when it arrived.
func (m *Metrics) Delivered(destination, outcome string, took time.Duration) {
	m.deliveries.WithLabelValues(destination, outcome).Inc()
	if outcome == "delivered" {
		m.deliveryTime.WithLabelValues(destination).Observe(took.Seconds())
	}
}

// Diverted counts a delivery that goes to an alternate destination.
func (m *Metrics) Diverted(destination, alternate string) {
	m.diverted.WithLabelValues(destination, alternate).Inc()
}

// Gathered counts a whole series or study that a rule has decided about, or that is held for a person.
func (m *Metrics) Gathered(state string) { m.gathered.WithLabelValues(state).Inc() }

// RuleFailed counts a rule that could not be evaluated on a picture's values.
func (m *Metrics) RuleFailed(rule string) { m.rulesFailed.WithLabelValues(rule).Inc() }

// Model says which model serves, and through what.
func (m *Metrics) Model(model, sha256, provider, runtime string) {
	m.model.Reset()
	m.model.WithLabelValues(model, sha256, provider, runtime).Set(1)
}

// FellBack counts a change of the execution provider that nobody asked for.
func (m *Metrics) FellBack(from, to string) { m.fallbacks.WithLabelValues(from, to).Inc() }

// Reloaded notes how a reading of the configuration file ended.
func (m *Metrics) Reloaded(good bool, at time.Time) {
	if !good {
		m.reloadSuccess.Set(0)
		return
	}
	m.reloadSuccess.Set(1)
	m.reloadTime.Set(float64(at.UnixMilli()) / 1000)
}

// FollowerStarted notes when the follower began, so that one that never reaches Orthanc shows a growing lag.
func (m *Metrics) FollowerStarted(at time.Time) { m.followerSeen.CompareAndSwap(0, at.UnixMilli()) }

// FollowerCurrent notes that the follower stood at the end of the changes.
func (m *Metrics) FollowerCurrent(at time.Time) { m.followerSeen.Store(at.UnixMilli()) }

// FollowerReset counts a reset of Orthanc's database.
func (m *Metrics) FollowerReset() { m.followerResets.Inc() }
