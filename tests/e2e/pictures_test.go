package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"image"
	_ "image/jpeg" // of the real X-rays
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// xray is one DICOM file of a test.
type xray struct {
	name   string // where its picture came from
	class  string // that it should get
	sop    string
	study  string
	series string
	file   []byte
	id     string // Orthanc's, once it is uploaded
}

// write makes a file of fresh identifiers, unless the options name them.
func write(t testing.TB, name string, o phantom.Options) *xray {
	t.Helper()
	var b bytes.Buffer
	identity, err := phantom.Write(&b, o)
	if err != nil {
		t.Fatal(err)
	}
	return &xray{name: name, class: o.Class, sop: identity.SOPInstanceUID, study: identity.StudyUID, series: identity.SeriesUID, file: b.Bytes()}
}

// shared returns the folder of real material that must never be part of the repository; "" where there is none. In continuous integration
// (CI=true) it fails the test when the folder is there without its pictures.
func shared(t testing.TB) string {
	t.Helper()
	folder := os.Getenv("IMAGINGROUTER_SHARED")
	if folder == "" {
		repository, err := orthanctest.Repository()
		if err != nil {
			t.Fatal(err)
		}
		folder = filepath.Join(repository, "..", "shared")
	}
	if _, err := os.Stat(filepath.Join(folder, "data", "manifest.csv")); err != nil {
		if _, there := os.Stat(folder); there == nil && os.Getenv("CI") == "true" {
			t.Fatalf("the real material is there, but not complete: %v", err)
		}
		return ""
	}
	return folder
}

// picture is a real X-ray of the test split.
type picture struct{ path, class, age string }

// realXRays returns n real X-rays of the test split, the classes in turn, drawn by the random numbers. It skips the test, with a line, where
// there are none.
func realXRays(t testing.TB, random *rand.Rand, n int) []picture {
	t.Helper()
	byClass := testSplit(t)
	if byClass == nil {
		t.Skip("no real X-rays: ../shared/data is absent (IMAGINGROUTER_SHARED names another place)")
	}
	for _, class := range classes {
		random.Shuffle(len(byClass[class]), func(i, j int) { byClass[class][i], byClass[class][j] = byClass[class][j], byClass[class][i] })
	}
	out := make([]picture, 0, n)
	for round := 0; len(out) < n; round++ {
		taken := len(out)
		for _, class := range classes {
			if round < len(byClass[class]) && len(out) < n {
				out = append(out, byClass[class][round])
			}
		}
		if len(out) == taken {
			t.Fatalf("the test split has only %d X-rays", len(out))
		}
	}
	return out
}

// testSplit reads the manifest; nil where there is none.
func testSplit(t testing.TB) map[string][]picture {
	t.Helper()
	folder := shared(t)
	if folder == "" {
		return nil
	}
	f, err := os.Open(filepath.Join(folder, "data", "manifest.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	rows, err := csv.NewReader(bufio.NewReader(f)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	out := map[string][]picture{}
	for _, row := range rows[1:] {
		if class := row[column["class"]]; row[column["split"]] == "test" {
			out[class] = append(out[class], picture{filepath.Join(folder, "data", row[column["file"]]), class, row[column["age"]]})
		}
	}
	return out
}

// dicom wraps a real X-ray. Bits, polarity and window vary with i, as they do between manufacturers.
func (p picture) dicom(t testing.TB, i int) *xray {
	t.Helper()
	f, err := os.Open(p.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	img, _, err := image.Decode(f)
	if err != nil {
		t.Fatalf("%s: %v", p.path, err)
	}
	o := phantom.Options{Class: p.class, Picture: img, Bits: []int{12, 16}[i%2], Monochrome1: i%3 == 0, Window: i%4 == 1}
	if i%5 == 0 {
		o.SOPClass = phantom.CR
	}
	return write(t, filepath.Join(p.class, filepath.Base(p.path)), o)
}

var pool struct {
	once sync.Once
	all  map[string][]phantom.Options
	err  error
}

// pictured returns options of pictures that the network takes for the given class, the surest first, so that a test decides what it will
// say: drawn ones, and real ones where there are any. What the network takes them for, the program itself says.
func pictured(t testing.TB, class string) []phantom.Options {
	t.Helper()
	pool.once.Do(func() { pool.all, pool.err = classifyPool(t) })
	if pool.err != nil {
		t.Fatal(pool.err)
	}
	if len(pool.all[class]) == 0 {
		t.Skipf("the network takes no drawn picture for %s, and there are no real X-rays (../shared/data)", class)
	}
	return pool.all[class]
}

// of makes a fresh X-ray of a class; further options may be laid over it.
func of(t testing.TB, class string, change ...func(*phantom.Options)) *xray {
	t.Helper()
	o := pictured(t, class)[0]
	for _, f := range change {
		f(&o)
	}
	x := write(t, class, o)
	x.class = class
	return x
}

func classifyPool(t testing.TB) (map[string][]phantom.Options, error) {
	folder := t.TempDir()
	candidates := map[string]phantom.Options{}
	add := func(o phantom.Options) {
		path := filepath.Join(folder, fmt.Sprintf("%03d.dcm", len(candidates)))
		candidates[path] = o
		if err := os.WriteFile(path, write(t, "", o).file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, class := range classes {
		for seed := range int64(6) {
			add(phantom.Options{Class: class, Seed: seed + 1, Rows: 400, Columns: 400})
		}
	}
	split := testSplit(t)
	for _, class := range classes {
		for _, p := range split[class][:min(6, len(split[class]))] {
			f, err := os.Open(p.path)
			if err != nil {
				return nil, err
			}
			img, _, err := image.Decode(f)
			if err := f.Close(); err != nil {
				return nil, err
			}
			if err != nil {
				return nil, err
			}
			add(phantom.Options{Class: class, Picture: img})
		}
	}
	router := routertest.New(t, routertest.Config{Settings: usual(plan{})})
	out, errs, status, err := router.Run(t.Context(), append([]string{"classify", "--format", "json"}, folder)...)
	if err != nil || status != 0 {
		return nil, fmt.Errorf("classify: exit status %d: %w\n%s", status, err, errs)
	}
	all := map[string][]phantom.Options{}
	paths := make([]string, 0, len(candidates))
	found, confidence := map[string]string{}, map[string]float64{}
	for line := range strings.Lines(out) {
		var r struct {
			File, Class string
			Confidence  float64
			Review      bool
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return nil, fmt.Errorf("classify: %q: %w", line, err)
		}
		if !r.Review {
			found[r.File], confidence[r.File], paths = r.Class, r.Confidence, append(paths, r.File)
		}
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Compare(confidence[b], confidence[a]) }) // the surest first
	for _, path := range paths {
		if o := candidates[path]; o.Class == found[path] {
			all[o.Class] = append(all[o.Class], o)
		}
	}
	return all, nil
}

// numbers returns the seeded random numbers of a test. A failure is repeated with E2E_SEED=n.
func numbers(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("E2E_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatalf("E2E_SEED: %v", err)
		}
	}
	t.Logf("E2E_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}
