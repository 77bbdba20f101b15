// Package e2e tests the product from outside: a real Orthanc of either supported line, the real program, a real ONNX Runtime, the model
// and the hook that the product ships, and real Orthancs as destinations behind counting proxies. It looks only at what a user
// can see: Orthanc's REST API, what arrives, the router's metrics, commands and log.
package e2e

import (
	"os"
	"testing"

	"imagingrouter/tests/routertest"
)

func TestMain(m *testing.M) { os.Exit(routertest.Main(m)) }
