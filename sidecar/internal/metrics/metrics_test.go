package metrics

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"testing"
	"time"
)

func lag(t *testing.T, m *Metrics) float64 {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	found := regexp.MustCompile(`(?m)^imaging_router_follower_lag_seconds (\S+)$`).FindStringSubmatch(w.Body.String())
	if found == nil {
		t.Fatal("the metrics lack the follower's lag")
	}
	seconds, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return seconds
}

func TestFollowerThatNeverReachedOrthancLags(t *testing.T) {
	m := New()
	if got := lag(t, m); got != 0 {
		t.Errorf("lag without a follower is %g, want 0", got)
	}
	m.FollowerStarted(time.Now().Add(-time.Hour))
	if got := lag(t, m); got < 3600 {
		t.Errorf("lag an hour after the start is %g", got)
	}
	m.FollowerCurrent(time.Now())
	m.FollowerStarted(time.Now().Add(-time.Hour))
	if got := lag(t, m); got > 600 {
		t.Errorf("lag after a complete poll is %g", got)
	}
}

// A stranger writes SOP classes: what looks like one gets a label of its own only until there are as many as DICOM has.
func TestSkippedClassesAreBounded(t *testing.T) {
	m := New()
	for i := range 10 * mostClasses {
		m.Skipped("1.2.840.10008." + strconv.Itoa(i))
	}
	m.Skipped("DOE^JOHN")
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "imaging_router_instances_skipped_total" && len(f.GetMetric()) != mostClasses+1 {
			t.Errorf("%d classes are told apart", len(f.GetMetric()))
		}
	}
}
