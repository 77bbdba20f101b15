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
	Provider string // cpu (or ""), cuda, tensorrt, openvino, webgpu, xnnpack; several in order, separated by commas
	Threads  int    // of one run; 0 = all cores
	// FellBack hears that a provider does not work, or works no more, and which of the configured order takes its place. nil: nobody hears.
	FellBack func(from, to string, cause error)
}

// Classifier is a network that is ready to run. It is safe for concurrent use.
type Classifier struct {
	model    Model
	library  string
	network  []byte // the checked file, from which the next provider's session is made
	options  Options
	fellBack func(from, to string, cause error)

	mu       sync.RWMutex // held for reading while a run uses the session, so that Close and a change of provider wait for it
	session  session
	provider string
	next     []string // the providers that have not been tried
}

// session is what runs the network: ONNX Runtime's, outside of tests that need one to fail.
type session interface {
	Run(inputs, outputs []ort.Value) error
	Destroy() error
}

// ErrClosed is the error of Classify after Close.
var ErrClosed = errors.New("the classifier is closed")

// errNotFinite is the picture's fault, or the network's, and not its provider's.
var errNotFinite = errors.New("not a finite number")

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
	providers, err := parseProviders(o.Provider)
	if err != nil {
		return nil, err
	}
	c := &Classifier{model: model, library: library, network: network, options: o, fellBack: o.FellBack, next: providers}
	if c.fellBack == nil {
		c.fellBack = func(string, string, error) {}
	}
	if err := c.advance("", nil); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if len(c.next) == 0 {
		c.network = nil // nobody will need it again
	}
	return c, nil
}

// advance opens the network with the next provider that works, in the place of one that does not. The caller holds the lock, or is
// the only one who knows c.
func (c *Classifier) advance(from string, cause error) error {
	for len(c.next) > 0 {
		provider := c.next[0]
		c.next = c.next[1:]
		opened, err := c.open(provider)
		if err != nil {
			if from == "" {
				from = provider
			}
			cause = errors.Join(cause, err)
			continue
		}
		c.session, c.provider = opened, provider
		if cause != nil {
			c.fellBack(from, provider, cause)
		}
		return nil
	}
	return cause
}

// open makes a session and runs it once: the first run allocates and plans, and no picture should wait for it.
func (c *Classifier) open(provider string) (session, error) {
	options, err := sessionOptions(provider, c.options.Threads, c.library)
	if err != nil {
		return nil, err
	}
	defer func() { _ = options.Destroy() }() // only frees memory
	opened, err := ort.NewDynamicAdvancedSessionWithONNXData(c.network, []string{c.model.Input.Name}, []string{c.model.Output.Name}, options)
	if err != nil {
		return nil, fmt.Errorf("with provider %s: %w", provider, err)
	}
	if _, err := c.run(opened, make([]float32, c.model.Input.Size*c.model.Input.Size)); err != nil {
		return nil, errors.Join(fmt.Errorf("warm up with provider %s: %w", provider, err), opened.Destroy())
	}
	return opened, nil
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

// Provider returns the execution provider that runs the network now.
func (c *Classifier) Provider() string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.provider
}

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
	used, logits, err := c.runCurrent(tensor)
	if err == nil || errors.Is(err, ErrClosed) || errors.Is(err, errNotFinite) || !c.fallBack(used, err) {
		return logits, err
	}
	_, logits, err = c.runCurrent(tensor)
	return logits, err
}

// runCurrent runs the session that serves now, and says which it was.
func (c *Classifier) runCurrent(tensor []float32) (session, []float32, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.session == nil {
		return nil, nil, ErrClosed
	}
	logits, err := c.run(c.session, tensor)
	return c.session, logits, err
}

// fallBack puts the next provider in the place of the one whose run failed, and says whether another run makes sense. The failed session is
// left as it is: a device that is gone may take the process with it when it is asked to free something.
func (c *Classifier) fallBack(failed session, cause error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.session == nil:
		return false
	case c.session != failed: // another run has been here before
		return true
	}
	return c.advance(c.provider, cause) == nil && c.session != failed
}

// run runs a session on one tensor.
func (c *Classifier) run(s session, tensor []float32) ([]float32, error) {
	size := int64(c.model.Input.Size)
	input, err := ort.NewTensor(ort.NewShape(1, 1, size, size), tensor)
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
	if err := s.Run([]ort.Value{input}, []ort.Value{output}); err != nil {
		return nil, fmt.Errorf("run %s: %w", c.model.ID(), err)
	}
	runtime.KeepAlive(tensor)
	for i, v := range logits {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("run %s: its output for %s is %v, %w", c.model.ID(), c.model.Classes[i], v, errNotFinite)
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
