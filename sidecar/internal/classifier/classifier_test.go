package classifier

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"imagingrouter/sidecar/internal/bodypart"
)

// requireRuntime skips where there is no ONNX Runtime; in CI that is a failure.
func requireRuntime(t testing.TB) {
	t.Helper()
	if _, err := openLibrary(""); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// folder writes a model folder for one of the networks of testdata; change edits its model.yaml.
func folder(t testing.TB, network string, change ...string) string {
	t.Helper()
	dir := t.TempDir()
	content, err := os.ReadFile(filepath.Join("testdata", network))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "model.onnx"), content)
	text, err := os.ReadFile(filepath.Join("testdata", "model.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	description := strings.Replace(string(text), "SUM", fmt.Sprintf("%x", sha256.Sum256(content)), 1)
	for i := 0; i < len(change); i += 2 {
		if !strings.Contains(description, change[i]) {
			t.Fatalf("testdata/model.yaml does not hold %q", change[i])
		}
		description = strings.Replace(description, change[i], change[i+1], 1)
	}
	write(t, filepath.Join(dir, ModelFile), []byte(description))
	return dir
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, dir string) *Classifier {
	t.Helper()
	requireRuntime(t)
	c, err := Load(dir, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func grey(value float32) []float32 {
	tensor := make([]float32, 64)
	for i := range tensor {
		tensor[i] = value
	}
	return tensor
}

func TestClassify(t *testing.T) {
	c := load(t, folder(t, "tiny.onnx"))
	// logits = weight*mean + bias of make_networks.py, at mean 2; temperature 2; in the order of testdata/model.yaml.
	logits := []float64{2, -1.5, 3, 1.25, 0.1}
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(v / 2)
	}
	got, err := c.Classify(context.Background(), grey(2))
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for i, class := range []bodypart.Class{"spine", "others", "adult_chest", "abdominal", "pediatric_chest"} {
		want := math.Exp(logits[i]/2) / sum
		if p := got.Probabilities[class]; math.Abs(p-want) > 1e-6 {
			t.Errorf("%s: probability %g, want %g", class, p, want)
		}
		total += got.Probabilities[class]
	}
	if got.Class != bodypart.AdultChest || got.Confidence != got.Probabilities[bodypart.AdultChest] {
		t.Errorf("class %s with confidence %g", got.Class, got.Confidence)
	}
	if math.Abs(total-1) > 1e-12 {
		t.Errorf("the probabilities sum to %g", total)
	}
	m := c.Model()
	if m.ID() != "tiny@1.0.0" || m.Thresholds[bodypart.Spine] != 0.75 || m.Spec().Size != 8 || m.Spec().Normalisation != "per_image" {
		t.Errorf("model %+v", m)
	}
	if c.Provider() != "cpu" || c.RuntimeVersion() == "" || c.Library() == "" {
		t.Errorf("provider %q, version %q, library %q", c.Provider(), c.RuntimeVersion(), c.Library())
	}
}

func TestClassifyRefuses(t *testing.T) {
	c := load(t, folder(t, "root.onnx"))
	ctx := context.Background()
	if _, err := c.Classify(ctx, make([]float32, 63)); err == nil || err.Error() != "the tensor has 63 values, the model tiny@1.0.0 takes 8×8" {
		t.Errorf("short tensor: %v", err)
	}
	// The network takes the root of the mean: a negative picture has none.
	if _, err := c.Classify(ctx, grey(-1)); err == nil || err.Error() != "run tiny@1.0.0: its output for spine is NaN, not a finite number" {
		t.Errorf("NaN: %v", err)
	}
	if _, err := c.Classify(ctx, grey(1)); err != nil {
		t.Errorf("after an error: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Classify(cancelled, grey(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Classify(ctx, grey(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestConcurrentClassify(t *testing.T) {
	c := load(t, folder(t, "tiny.onnx"))
	var wait sync.WaitGroup
	for worker := range 8 {
		wait.Go(func() {
			// Below mean 1.5 the class is another one than above: a mixed-up result would show.
			value, want := float32(-3), bodypart.Others
			if worker%2 == 0 {
				value, want = 3, bodypart.AdultChest
			}
			for range 50 {
				got, err := c.Classify(context.Background(), grey(value))
				if err != nil || got.Class != want {
					t.Errorf("got %s, %v; want %s", got.Class, err, want)
					return
				}
			}
		})
	}
	wait.Wait()
}

func TestCloseWaitsForRuns(t *testing.T) {
	c := load(t, folder(t, "tiny.onnx"))
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for {
				if _, err := c.Classify(context.Background(), grey(1)); err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wait.Wait()
}

func TestLoadErrors(t *testing.T) {
	requireRuntime(t)
	for name, tc := range map[string]struct {
		dir  string
		want string // with DIR for the folder
	}{
		"class count": {folder(t, "four_classes.onnx"),
			`DIR/model.onnx does not fit its model.yaml: output "logits" must have the shape [N×5] (it has [N×4])`},
		"input name": {folder(t, "tiny.onnx", "name: input", "name: image"),
			`DIR/model.onnx does not fit its model.yaml: it must have one input, "image" (it has: input)`},
		"output name": {folder(t, "tiny.onnx", "name: logits", "name: scores"),
			`DIR/model.onnx does not fit its model.yaml: it must have one output, "scores" (it has: logits)`},
		"input size": {folder(t, "tiny.onnx", "size: 8", "size: 16"),
			`DIR/model.onnx does not fit its model.yaml: input "input" must have the shape [N×1×16×16] (it has [N×1×8×8])`},
		"not a number at the first run": {folder(t, "ratio.onnx"),
			`open DIR/model.onnx: warm up with provider cpu: run tiny@1.0.0: its output for spine is NaN, not a finite number`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(tc.dir, Options{})
			if err == nil || strings.ReplaceAll(err.Error(), tc.dir, "DIR") != tc.want {
				t.Errorf("got\n%v\nwant\n%s", err, tc.want)
			}
		})
	}
}

func TestNotANetwork(t *testing.T) {
	requireRuntime(t)
	dir := folder(t, "model.yaml") // any file that is no network
	_, err := Load(dir, Options{})
	if err == nil || !strings.Contains(err.Error(), "model.onnx is not a network that ONNX Runtime ") {
		t.Errorf("got %v", err)
	}
}

func TestProviders(t *testing.T) {
	requireRuntime(t)
	dir := folder(t, "tiny.onnx")
	_, err := Load(dir, Options{Provider: "cpux"})
	if err == nil || err.Error() != `unknown execution provider "cpux", did you mean "cpu"?` {
		t.Errorf("unknown provider: %v", err)
	}
	// The library of the tests is a build for the CPU. A provider that it lacks must stop the start, not fall back.
	_, err = Load(dir, Options{Provider: "TensorRT"})
	if err == nil || !strings.Contains(err.Error(), "execution provider tensorrt does not work with this ONNX Runtime (") ||
		!strings.Contains(err.Error(), "set model.provider to cpu") {
		t.Errorf("absent provider: %v", err)
	}
}

func TestAnotherLibraryIsRefused(t *testing.T) {
	requireRuntime(t)
	_, err := Load(folder(t, "tiny.onnx"), Options{Library: "/nowhere/libonnxruntime.so"})
	if err == nil || !strings.Contains(err.Error(), "is already loaded: a process cannot load another one (/nowhere/libonnxruntime.so)") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkClassify(b *testing.B) {
	c := load(b, folder(b, "tiny.onnx"))
	tensor := grey(1)
	for b.Loop() {
		if _, err := c.Classify(context.Background(), tensor); err != nil {
			b.Fatal(err)
		}
	}
}
