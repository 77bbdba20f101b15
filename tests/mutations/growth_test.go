package mutations

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"imagingrouter/tests/routertest"
)

// footprint is what a router holds when it has nothing to do and has collected its garbage.
type footprint struct {
	resident   float64 // bytes
	live       float64 // bytes of Go's heap that the last collection left
	goroutines float64
	files      int // file descriptors
	children   int
	temporary  int // folders of a picture that is being decoded
}

func (f footprint) String() string {
	return fmt.Sprintf("%.0f MB resident, %.0f MB live in Go's heap, %.0f goroutines, %d file descriptors, %d children, %d temporary folders",
		f.resident/1e6, f.live/1e6, f.goroutines, f.files, f.children, f.temporary)
}

// What may come to it between two measurements: pools and caches that fill (of SQLite for each connection, of HTTP, of ONNX Runtime's arena), and
// what the allocators have not given back. A leak of one buffer of a picture, one goroutine or one file for each instance, or for each one
// that ends badly, is far beyond them.
const (
	moreResident   = 96e6
	moreLive       = 8e6
	moreGoroutines = 20
	moreFiles      = 20
)

// grewSince says what has grown.
func (f footprint) grewSince(before footprint) []string {
	var grown []string
	for _, c := range []struct {
		what          string
		was, is, more float64
	}{
		{"resident memory", before.resident, f.resident, moreResident}, {"Go's live heap", before.live, f.live, moreLive},
		{"goroutines", before.goroutines, f.goroutines, moreGoroutines}, {"file descriptors", float64(before.files), float64(f.files), moreFiles},
		{"children", 0, float64(f.children), 0}, {"temporary folders", 0, float64(f.temporary), 0},
	} {
		if c.is > c.was+c.more {
			grown = append(grown, fmt.Sprintf("%s: %.0f, was %.0f", c.what, c.is, c.was))
		}
	}
	return grown
}

// measure waits for three collections of garbage (a sync.Pool is empty after two), which the scrapes themselves bring about, and takes the least of
// what it sees meanwhile and some seconds on: connections close, and the runtime gives memory back, in their own time.
func (w *world) measure(temporary string) footprint {
	w.Helper()
	var least footprint
	begin, until := 0.0, time.Now().Add(5*time.Second)
	for first := true; ; first = false {
		m, err := w.router.Metrics(w.Context())
		if err != nil {
			w.Fatal(err)
		}
		now := w.look(m, temporary)
		if first {
			least, begin = now, m["go_gc_duration_seconds_count"]
		}
		least = footprint{
			live:     now.live, // what the last collection left
			resident: min(least.resident, now.resident), goroutines: min(least.goroutines, now.goroutines), files: min(least.files, now.files),
			children: min(least.children, now.children), temporary: min(least.temporary, now.temporary),
		}
		if m["go_gc_duration_seconds_count"] >= begin+3 && time.Now().After(until) {
			return least
		}
	}
}

func (w *world) look(m routertest.Metrics, temporary string) footprint {
	w.Helper()
	// The collector aims at twice of what it left (GOGC is 100).
	f := footprint{live: m["go_memstats_next_gc_bytes"] / 2, goroutines: m["go_goroutines"], resident: m["process_resident_memory_bytes"]}
	process := filepath.Join("/proc", strconv.Itoa(w.router.PID()))
	open, err := os.ReadDir(filepath.Join(process, "fd"))
	if err != nil {
		w.Fatal(err)
	}
	f.files = len(open)
	tasks, _ := filepath.Glob(filepath.Join(process, "task", "*", "children"))
	for _, task := range tasks {
		children, _ := os.ReadFile(task) // a thread that ended meanwhile has none
		f.children += len(strings.Fields(string(children)))
	}
	folders, _ := filepath.Glob(filepath.Join(temporary, "picture-*"))
	f.temporary = len(folders)
	return f
}
