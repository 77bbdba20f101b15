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

// parseProviders reads an order of providers, separated by commas. None is the default one.
func parseProviders(order string) ([]string, error) {
	var providers []string
	for name := range strings.SplitSeq(order, ",") {
		provider := strings.ToLower(strings.TrimSpace(name))
		switch {
		case provider == "" && strings.TrimSpace(order) == "":
			provider = DefaultProvider
		case !slices.Contains(Providers(), provider):
			return nil, fmt.Errorf("unknown execution provider %q%s", name, suggest.DidYouMean(provider, Providers()))
		case slices.Contains(providers, provider):
			return nil, fmt.Errorf("execution provider %s is named twice", provider)
		}
		providers = append(providers, provider)
	}
	return providers, nil
}

// sessionOptions prepares a session on one provider. There is no silent fall-back to the CPU: a site that paid for a GPU wants to hear that
// it is not used, and says by its order what takes its place.
func sessionOptions(provider string, threads int, library string) (*ort.SessionOptions, error) {
	options, err := ort.NewSessionOptions()
	if err != nil {
		return nil, fmt.Errorf("prepare an ONNX Runtime session: %w", err)
	}
	if threads > 0 {
		if err := options.SetIntraOpNumThreads(threads); err != nil {
			return nil, errors.Join(fmt.Errorf("set %d threads: %w", threads, err), options.Destroy())
		}
	}
	if err := appendProvider(options, provider); err != nil {
		return nil, errors.Join(fmt.Errorf("execution provider %s does not work with this ONNX Runtime (%s %s): %w; "+
			"use a build that has it, or set model.provider to cpu", provider, library, ort.GetVersion(), err), options.Destroy())
	}
	return options, nil
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
