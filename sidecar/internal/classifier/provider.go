package classifier

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	ort "github.com/yalue/onnxruntime_go"

	"imagingrouter/sidecar/internal/suggest"
)

// DefaultProvider runs everywhere.
const DefaultProvider = "cpu"

// genericProviders maps our names to those of ONNX Runtime's generic call.
var genericProviders = map[string]string{"openvino": "OpenVINO", "webgpu": "WebGPU", "xnnpack": "XNNPACK"}

// Providers returns the names of execution providers that Options.Provider takes. Which of them work depends on the build of
// ONNX Runtime and on the machine.
func Providers() []string {
	return []string{DefaultProvider, "cuda", "openvino", "tensorrt", "webgpu", "xnnpack"}
}

// sessionOptions prepares a session on the provider that was asked for. There is no silent fall-back to the CPU: a site that
// paid for a GPU wants to hear that it is not used.
func sessionOptions(o Options, library string) (*ort.SessionOptions, string, error) {
	provider := strings.ToLower(o.Provider)
	if provider == "" {
		provider = DefaultProvider
	}
	if !slices.Contains(Providers(), provider) {
		return nil, "", fmt.Errorf("unknown execution provider %q%s", o.Provider, suggest.DidYouMean(provider, Providers()))
	}
	options, err := ort.NewSessionOptions()
	if err != nil {
		return nil, "", fmt.Errorf("prepare an ONNX Runtime session: %w", err)
	}
	if o.Threads > 0 {
		if err := options.SetIntraOpNumThreads(o.Threads); err != nil {
			return nil, "", errors.Join(fmt.Errorf("set %d threads: %w", o.Threads, err), options.Destroy())
		}
	}
	if err := appendProvider(options, provider); err != nil {
		return nil, "", errors.Join(fmt.Errorf("execution provider %s does not work with this ONNX Runtime (%s %s): %w; "+
			"use a build that has it, or set model.provider to cpu", provider, library, ort.GetVersion(), err), options.Destroy())
	}
	return options, provider, nil
}

func appendProvider(options *ort.SessionOptions, provider string) error {
	switch provider {
	case DefaultProvider:
		return nil
	case "cuda":
		cuda, err := ort.NewCUDAProviderOptions()
		if err != nil {
			return err
		}
		return errors.Join(options.AppendExecutionProviderCUDA(cuda), cuda.Destroy())
	case "tensorrt":
		tensorrt, err := ort.NewTensorRTProviderOptions()
		if err != nil {
			return err
		}
		return errors.Join(options.AppendExecutionProviderTensorRT(tensorrt), tensorrt.Destroy())
	default:
		return options.AppendExecutionProvider(genericProviders[provider], nil)
	}
}
