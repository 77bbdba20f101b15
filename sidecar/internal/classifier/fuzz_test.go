package classifier

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/picture"
)

// FuzzModelFile looks for a model.yaml that breaks its reading, or is taken and then gives no finite numbers: an error names the file, and
// what is taken makes a finite tensor of any picture and probabilities of any logits.
func FuzzModelFile(f *testing.F) {
	good, err := os.ReadFile(filepath.Join("testdata", ModelFile))
	if err != nil {
		f.Fatal(err)
	}
	text := strings.Replace(string(good), "SUM", strings.Repeat("ab", 32), 1)
	shipped, err := os.ReadFile(filepath.Join("..", "..", "..", "models", "mobilenet-v1-160", ModelFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(shipped))
	for _, change := range []string{"", "normalisation: mean_std", "mean: .nan", "std: 1e-45", "std: .inf", "pad: .inf", "temperature: 1e-320", "size: 1e3",
		"provenance: &a [*a, *a]", "classes: {}", "thresholds: {spine: .nan}", "file: ..", "? ", "- ", "\"", "---\n", "!!binary x", "<<: *x"} {
		key, _, _ := strings.Cut(change, ":")
		f.Add(text + change + "\n")
		for line := range strings.Lines(text) {
			if key != "" && strings.HasPrefix(line, key+":") {
				f.Add(strings.Replace(text, line, change+"\n", 1))
			}
		}
		for _, old := range []string{"normalisation: per_image", "mean: 0", "std: 1", "pad: 0"} {
			if strings.HasPrefix(old, key+":") && key != "" {
				f.Add(strings.Replace(strings.Replace(text, "per_image", "mean_std", 1), old, change, 1))
			}
		}
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content string) {
		path := filepath.Join(dir, ModelFile)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := ReadModel(dir)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		if m.ID() == "@" || m.File != filepath.Base(m.File) || m.File == ".." || m.File == "." {
			t.Errorf("taken: %+v", m)
		}
		if m.Input.Size > 512 { // the rest costs time by the size
			return
		}
		p := picture.Picture{Width: 2, Height: 1, Pixels: []float32{0, 1}}
		for _, v := range p.Tensor(m.Spec()) {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				t.Fatalf("a value of the tensor is %v with %+v", v, m.Input)
			}
		}
		for _, logits := range [][]float32{{0, 0, 0, 0, 0}, {math.MaxFloat32, -math.MaxFloat32, 0, 1, 2}} {
			checkProbabilities(t, m, logits)
		}
	})
}

// FuzzLogits: whatever finite logits a network gives, the probabilities are some.
func FuzzLogits(f *testing.F) {
	f.Add(float32(0), float32(0), float32(0), float32(0), float32(0), 1.0)
	f.Add(float32(math.MaxFloat32), float32(-math.MaxFloat32), float32(1), float32(1e-45), float32(3), 1e-300)
	f.Fuzz(func(t *testing.T, a, b, c, d, e float32, temperature float64) {
		logits := []float32{a, b, c, d, e}
		for _, v := range logits {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) { // refused before
				return
			}
		}
		m := Model{Classes: bodypart.Classes(), Temperature: temperature}
		for _, problem := range m.problems() {
			if strings.HasPrefix(problem, "temperature") {
				return
			}
		}
		checkProbabilities(t, m, logits)
	})
}

func checkProbabilities(t *testing.T, m Model, logits []float32) {
	t.Helper()
	p := predict(m, logits)
	sum := 0.0
	for _, class := range bodypart.Classes() {
		v, there := p.Probabilities[class]
		if !there || !(v >= 0 && v <= 1) || v > p.Confidence {
			t.Fatalf("%s has %v of %+v for logits %v, temperature %v", class, v, p, logits, m.Temperature)
		}
		sum += v
	}
	if fmt.Sprintf("%.6f", sum) != "1.000000" || p.Class == "" || p.Probabilities[p.Class] != p.Confidence {
		t.Fatalf("%+v sums up to %v for logits %v, temperature %v", p, sum, logits, m.Temperature)
	}
}
