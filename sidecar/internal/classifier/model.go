// Package classifier runs a network of a model folder (model.onnx and model.yaml) in ONNX Runtime and returns predictions. It
// knows neither Orthanc nor DICOM: it is given the tensor that package picture made.
package classifier

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/picture"
	"imagingrouter/sidecar/internal/suggest"
)

// What a normalisation may do to grey levels of 0…1: beyond these the network would be given numbers that are not finite, or nothing but noise.
const (
	leastStd = 1e-6
	farthest = 1e6
)

// ModelFile is the name of the description in a model folder.
const ModelFile = "model.yaml"

// Model is the content of model.yaml.
type Model struct {
	Name        string                     `yaml:"name"`
	Version     string                     `yaml:"version"`
	Description string                     `yaml:"description"`
	File        string                     `yaml:"file"`    // name of the network in the same folder
	SHA256      string                     `yaml:"sha256"`  // of File, hexadecimal
	Classes     []bodypart.Class           `yaml:"classes"` // in the order of the logits
	Input       Input                      `yaml:"input"`
	Output      Output                     `yaml:"output"`
	Temperature float64                    `yaml:"temperature"` // logits are divided by it; > 0
	Thresholds  map[bodypart.Class]float64 `yaml:"thresholds"`  // least confidence without review, 0…1
	Provenance  map[string]any             `yaml:"provenance"`  // for people: what it was trained on, by what, how good it is
}

// Input describes the tensor that the network takes: float32, N×1×Size×Size.
type Input struct {
	Name          string  `yaml:"name"`
	Size          int     `yaml:"size"`          // pixels of each side
	Channels      int     `yaml:"channels"`      // 1
	Layout        string  `yaml:"layout"`        // NCHW
	Normalisation string  `yaml:"normalisation"` // per_image or mean_std
	Mean          float32 `yaml:"mean"`
	Std           float32 `yaml:"std"`
	Pad           float32 `yaml:"pad"` // in normalised units
}

// Output names the logits: float32, N×5.
type Output struct {
	Name string `yaml:"name"`
}

// ID is name@version, as results carry it.
func (m Model) ID() string { return m.Name + "@" + m.Version }

// Spec says how a picture becomes the tensor.
func (m Model) Spec() picture.Spec {
	return picture.Spec{Size: m.Input.Size, Normalisation: m.Input.Normalisation, Mean: m.Input.Mean, Std: m.Input.Std, Pad: m.Input.Pad}
}

// FindDir returns where a model folder lies. A relative path is looked up in the working directory, then beside the program
// and one above it, so that bin/imaging-router finds models/ from everywhere, then in share/imaging-router, as the Debian package has it.
func FindDir(dir string) string {
	if filepath.IsAbs(dir) || exists(filepath.Join(dir, ModelFile)) {
		return dir
	}
	program, err := os.Executable()
	if err != nil {
		return dir
	}
	beside, above := filepath.Dir(program), filepath.Dir(filepath.Dir(program))
	for _, base := range []string{beside, above, filepath.Join(above, "share", "imaging-router")} {
		if found := filepath.Join(base, dir); exists(filepath.Join(found, ModelFile)) {
			return found
		}
	}
	return dir
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// ReadModel reads and checks model.yaml of a folder; it does not look at the network. Unknown keys are an error.
func ReadModel(dir string) (Model, error) {
	path := filepath.Join(dir, ModelFile)
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Model{}, fmt.Errorf("read model: %s does not exist: set model.dir to a folder that holds %s and the network", path, ModelFile)
	}
	if err != nil {
		return Model{}, fmt.Errorf("read model: %w", err)
	}
	var m Model
	if err := yaml.UnmarshalWithOptions(content, &m, yaml.Strict()); err != nil {
		var wrong yaml.Error
		if errors.As(err, &wrong) {
			at := wrong.GetToken().Position
			return Model{}, fmt.Errorf("read model: %s:%d:%d: %s", path, at.Line, at.Column, wrong.GetMessage())
		}
		return Model{}, fmt.Errorf("read model %s: %w", path, err)
	}
	if problems := m.problems(); len(problems) > 0 {
		return Model{}, fmt.Errorf("read model: %s: %s", path, strings.Join(problems, "; "))
	}
	return m, nil
}

func (m Model) problems() []string {
	var list []string
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	bad(m.Name == "" || strings.ContainsAny(m.Name, "@ \n"), "name must be a word without @ (got %q)", m.Name)
	bad(m.Version == "" || strings.ContainsAny(m.Version, "@ \n"), "version must be a word without @ (got %q)", m.Version)
	bad(m.File == "" || m.File != filepath.Base(m.File) || !filepath.IsLocal(m.File) || m.File == ".", "file must be the name of a file in the same folder (got %q)", m.File)
	sum, err := hex.DecodeString(m.SHA256)
	bad(err != nil || len(sum) != sha256.Size, "sha256 must be 64 hexadecimal digits (got %q)", m.SHA256)
	list = append(list, m.classProblems()...)
	in := m.Input
	bad(in.Name == "", "input.name is missing")
	bad(in.Size < 8 || in.Size > 4096, "input.size must be between 8 and 4096 (got %d)", in.Size)
	bad(in.Channels != 1, "input.channels must be 1 (got %d)", in.Channels)
	bad(in.Layout != "NCHW", "input.layout must be NCHW (got %q)", in.Layout)
	switch in.Normalisation {
	case "per_image":
	case "mean_std":
		bad(!(in.Std >= leastStd && in.Std <= farthest), "input.std must be between %g and %g (got %g)", leastStd, farthest, in.Std)
		bad(!(math.Abs(float64(in.Mean)) <= farthest), "input.mean must be a number of at most %g (got %g)", farthest, in.Mean)
	default:
		bad(true, "input.normalisation must be per_image or mean_std (got %q)", in.Normalisation)
	}
	bad(!(math.Abs(float64(in.Pad)) <= farthest), "input.pad must be a number of at most %g (got %g)", farthest, in.Pad)
	bad(m.Output.Name == "", "output.name is missing")
	bad(!(m.Temperature > 0) || math.IsInf(m.Temperature, 0), "temperature must be greater than 0 (got %g)", m.Temperature)
	return list
}

func (m Model) classProblems() []string {
	var list []string
	known := make([]string, 0, 5)
	for _, c := range bodypart.Classes() {
		known = append(known, string(c))
		if !slices.Contains(m.Classes, c) {
			list = append(list, fmt.Sprintf("classes must hold %s", c))
		}
	}
	for i, c := range m.Classes {
		switch {
		case !slices.Contains(known, string(c)):
			list = append(list, fmt.Sprintf("classes: unknown class %q%s", c, suggest.DidYouMean(string(c), known)))
		case slices.Index(m.Classes, c) < i:
			list = append(list, fmt.Sprintf("classes: %s is named twice", c))
		}
	}
	for _, c := range slices.Sorted(maps.Keys(m.Thresholds)) {
		t := m.Thresholds[c]
		switch {
		case !slices.Contains(known, string(c)):
			list = append(list, fmt.Sprintf("thresholds: unknown class %q%s", c, suggest.DidYouMean(string(c), known)))
		case !(t >= 0 && t <= 1):
			list = append(list, fmt.Sprintf("thresholds: %s must be between 0 and 1 (got %g)", c, t))
		}
	}
	return list
}

// readNetwork reads the network's bytes and holds them against the checksum. What was checked is what is loaded.
func (m Model) readNetwork(dir string) ([]byte, error) {
	path := filepath.Join(dir, m.File)
	network, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read network: %w", err)
	}
	if sum := sha256.Sum256(network); !strings.EqualFold(hex.EncodeToString(sum[:]), m.SHA256) {
		return nil, fmt.Errorf("%s is not the network that %s describes: its SHA-256 is %x, expected %s", path, ModelFile, sum, strings.ToLower(m.SHA256))
	}
	return network, nil
}
