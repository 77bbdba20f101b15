package classifier

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	ort "github.com/yalue/onnxruntime_go"

	"imagingrouter/sidecar/internal/bodypart"
)

// Options says what runs the network.
type Options struct {
	Library  string // path of libonnxruntime; "" = ONNXRUNTIME_LIB, then .cache, then beside the program, then the system's
	Provider string // cpu (or ""), cuda, tensorrt, openvino, webgpu, xnnpack
	Threads  int    // of one run; 0 = all cores
}

// Classifier is a network that is ready to run. It is safe for concurrent use.
type Classifier struct {
	model    Model
	provider string
	library  string

	mu      sync.RWMutex // held for reading while a run uses the session, so that Close waits for it
	session *ort.DynamicAdvancedSession
}

// ErrClosed is the error of Classify after Close.
var ErrClosed = errors.New("the classifier is closed")

// Load reads a model folder, holds the network against its description, opens it in ONNX Runtime and runs it once. Whatever
// does not fit together is an error here, never a wrong class later.
func Load(dir string, o Options) (*Classifier, error) {
	dir = FindDir(dir)
	model, err := ReadModel(dir)
	if err != nil {
		return nil, err
	}
	network, err := model.readNetwork(dir)
	if err != nil {
		return nil, err
	}
	library, err := openLibrary(o.Library)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, model.File)
	if err := checkNetwork(model, path, network); err != nil {
		return nil, err
	}
	options, provider, err := sessionOptions(o, library)
	if err != nil {
		return nil, err
	}
	defer func() { _ = options.Destroy() }() // only frees memory
	session, err := ort.NewDynamicAdvancedSessionWithONNXData(network, []string{model.Input.Name}, []string{model.Output.Name}, options)
	if err != nil {
		return nil, fmt.Errorf("open %s with provider %s: %w", path, provider, err)
	}
	c := &Classifier{model: model, provider: provider, library: library, session: session}
	// The first run allocates and plans; no picture should wait for it.
	if _, err := c.Classify(context.Background(), make([]float32, model.Input.Size*model.Input.Size)); err != nil {
		return nil, errors.Join(fmt.Errorf("warm up %s with provider %s: %w", path, provider, err), c.Close())
	}
	return c, nil
}

// checkNetwork compares the network's inputs and outputs with model.yaml.
func checkNetwork(m Model, path string, network []byte) error {
	inputs, outputs, err := ort.GetInputOutputInfoWithONNXData(network)
	if err != nil {
		return fmt.Errorf("%s is not a network that ONNX Runtime %s can open: %w", path, ort.GetVersion(), err)
	}
	size := int64(m.Input.Size)
	if err := checkTensor("input", m.Input.Name, inputs, []int64{0, 1, size, size}); err != nil {
		return fmt.Errorf("%s does not fit its %s: %w", path, ModelFile, err)
	}
	if err := checkTensor("output", m.Output.Name, outputs, []int64{0, int64(len(m.Classes))}); err != nil {
		return fmt.Errorf("%s does not fit its %s: %w", path, ModelFile, err)
	}
	return nil
}

// checkTensor looks for the one tensor of that name and shape; 0 in want, and -1 in the network, stand for any size.
func checkTensor(kind, name string, list []ort.InputOutputInfo, want []int64) error {
	if len(list) != 1 || list[0].Name != name {
		names := make([]string, 0, len(list))
		for _, t := range list {
			names = append(names, t.Name)
		}
		return fmt.Errorf("it must have one %s, %q (it has: %s)", kind, name, strings.Join(names, ", "))
	}
	t := list[0]
	if t.OrtValueType != ort.ONNXTypeTensor || t.DataType != ort.TensorElementDataTypeFloat {
		return fmt.Errorf("%s %q must be a tensor of float32 (it is %s)", kind, name, t.String())
	}
	fits := len(t.Dimensions) == len(want)
	for i := 0; fits && i < len(want); i++ {
		fits = want[i] == 0 || t.Dimensions[i] == want[i] || t.Dimensions[i] < 0
	}
	if !fits {
		return fmt.Errorf("%s %q must have the shape %s (it has %s)", kind, name, shapeText(want), shapeText(t.Dimensions))
	}
	return nil
}

func shapeText(shape []int64) string {
	parts := make([]string, 0, len(shape))
	for _, n := range shape {
		if n <= 0 {
			parts = append(parts, "N")
			continue
		}
		parts = append(parts, fmt.Sprint(n))
	}
	return "[" + strings.Join(parts, "×") + "]"
}

// Model returns the content of model.yaml.
func (c *Classifier) Model() Model { return c.model }

// Provider returns the execution provider that runs the network.
func (c *Classifier) Provider() string { return c.provider }

// RuntimeVersion returns the version of ONNX Runtime.
func (c *Classifier) RuntimeVersion() string { return ort.GetVersion() }

// Library returns the path of the ONNX Runtime that is loaded.
func (c *Classifier) Library() string { return c.library }

// Classify runs the network on one tensor of Size*Size values (picture.Tensor) and returns calibrated probabilities:
// softmax(logits / temperature). The tensor must not change meanwhile.
func (c *Classifier) Classify(ctx context.Context, tensor []float32) (bodypart.Prediction, error) {
	logits, err := c.Logits(ctx, tensor)
	if err != nil {
		return bodypart.Prediction{}, err
	}
	return predict(c.model, logits), nil
}

// Logits runs the network and returns its raw output in the order of Model().Classes.
func (c *Classifier) Logits(ctx context.Context, tensor []float32) ([]float32, error) {
	size := c.model.Input.Size
	if len(tensor) != size*size {
		return nil, fmt.Errorf("the tensor has %d values, the model %s takes %d×%d", len(tensor), c.model.ID(), size, size)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.session == nil {
		return nil, ErrClosed
	}
	input, err := ort.NewTensor(ort.NewShape(1, 1, int64(size), int64(size)), tensor)
	if err != nil {
		return nil, fmt.Errorf("prepare the input of %s: %w", c.model.ID(), err)
	}
	defer func() { _ = input.Destroy() }() // only frees memory
	logits := make([]float32, len(c.model.Classes))
	output, err := ort.NewTensor(ort.NewShape(1, int64(len(logits))), logits)
	if err != nil {
		return nil, fmt.Errorf("prepare the output of %s: %w", c.model.ID(), err)
	}
	defer func() { _ = output.Destroy() }() // only frees memory
	if err := c.session.Run([]ort.Value{input}, []ort.Value{output}); err != nil {
		return nil, fmt.Errorf("run %s: %w", c.model.ID(), err)
	}
	runtime.KeepAlive(tensor)
	for i, v := range logits {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("run %s: its output for %s is %v, not a finite number", c.model.ID(), c.model.Classes[i], v)
		}
	}
	return logits, nil
}

// Close frees the network; it waits for runs in progress. ONNX Runtime itself stays loaded for the process.
func (c *Classifier) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		return nil
	}
	err := c.session.Destroy()
	c.session = nil
	if err != nil {
		return fmt.Errorf("close %s: %w", c.model.ID(), err)
	}
	return nil
}

// predict turns finite logits into calibrated probabilities. Where two classes are equally probable, the first one wins.
func predict(m Model, logits []float32) bodypart.Prediction {
	highest := float64(logits[0])
	for _, v := range logits {
		highest = max(highest, float64(v))
	}
	weights, sum := make([]float64, len(logits)), 0.0
	for i, v := range logits {
		weights[i] = math.Exp((float64(v) - highest) / m.Temperature)
		sum += weights[i]
	}
	p := bodypart.Prediction{Probabilities: make(map[bodypart.Class]float64, len(logits))}
	for i, class := range m.Classes {
		probability := weights[i] / sum
		p.Probabilities[class] = probability
		if probability > p.Confidence {
			p.Class, p.Confidence = class, probability
		}
	}
	return p
}
