package classifier

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagingrouter/sidecar/internal/bodypart"
)

// reference is what models/training wrote beside a network: inputs by formula, and what PyTorch said to them.
type reference struct {
	Shape   []int            `json:"shape"`
	Classes []bodypart.Class `json:"classes"`
	SHA256  string           `json:"sha256"`
	Cases   []struct {
		Formula string    `json:"formula"`
		Sum     float64   `json:"sum"`
		Logits  []float64 `json:"logits"`
	} `json:"cases"`
}

var formulas = map[string]func(i, j float64) float64{
	"sin(0.05*i)+cos(0.08*j)": func(i, j float64) float64 { return math.Sin(0.05*i) + math.Cos(0.08*j) },
	"1.5*sin(0.002*i*j)":      func(i, j float64) float64 { return 1.5 * math.Sin(0.002*i*j) },
	"2*exp(-((i-80)^2+(j-60)^2)/1800)-0.5": func(i, j float64) float64 {
		return 2*math.Exp(-((i-80)*(i-80)+(j-60)*(j-60))/1800) - 0.5
	},
}

// modelFolders returns the folders of the repository's models.
func modelFolders(t testing.TB) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("..", "..", "..", "models", "*", ModelFile))
	if err != nil || len(found) == 0 {
		t.Fatalf("no model in the repository: %v", err)
	}
	folders := make([]string, 0, len(found))
	for _, path := range found {
		folders = append(folders, filepath.Dir(path))
	}
	return folders
}

// TestSameLogitsAsPyTorch holds each model of the repository against the logits of the program that trained it.
func TestSameLogitsAsPyTorch(t *testing.T) {
	for _, dir := range modelFolders(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			content, err := os.ReadFile(filepath.Join(dir, "reference.json"))
			if err != nil {
				t.Fatal(err)
			}
			var ref reference
			if err := json.Unmarshal(content, &ref); err != nil {
				t.Fatal(err)
			}
			c := load(t, dir)
			m := c.Model()
			if !strings.EqualFold(ref.SHA256, m.SHA256) || !slices.Equal(ref.Classes, m.Classes) || !slices.Equal(ref.Shape, []int{1, 1, m.Input.Size, m.Input.Size}) {
				t.Fatalf("reference.json is of another model: %+v", ref)
			}
			if len(ref.Cases) < 3 {
				t.Fatalf("%d cases", len(ref.Cases))
			}
			for _, k := range ref.Cases {
				compareLogits(t, c, k.Formula, k.Sum, k.Logits)
			}
		})
	}
}

func compareLogits(t *testing.T, c *Classifier, formula string, sum float64, want []float64) {
	t.Helper()
	f, known := formulas[formula]
	if !known {
		t.Fatalf("the formula %q is not in this test", formula)
	}
	size := c.Model().Input.Size
	tensor, total := make([]float32, size*size), 0.0
	for k := range tensor {
		tensor[k] = float32(f(float64(k/size), float64(k%size)))
		total += float64(tensor[k])
	}
	if math.Abs(total-sum) > 0.01 {
		t.Errorf("%s: the input sums to %.3f here, to %.3f there", formula, total, sum)
	}
	got, err := c.Logits(context.Background(), tensor)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range want {
		if d := math.Abs(float64(got[i]) - w); d >= 1e-3 {
			t.Errorf("%s: logit of %s is %g, PyTorch says %g (difference %g)", formula, c.Model().Classes[i], got[i], w, d)
		}
	}
}

func BenchmarkModels(b *testing.B) {
	for _, dir := range modelFolders(b) {
		b.Run(filepath.Base(dir), func(b *testing.B) {
			c := load(b, dir)
			tensor := make([]float32, c.Model().Input.Size*c.Model().Input.Size)
			for b.Loop() {
				if _, err := c.Classify(context.Background(), tensor); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
