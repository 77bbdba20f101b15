// Package mutations sends thousands of damaged DICOM files through a real Orthanc and the real router, and hostile ones that want its memory. It
// knows how a DICOM file is laid out, so that damage goes deeper than its first bytes, and looks at the router from outside only.
package mutations

import (
	"os"
	"testing"

	"imagingrouter/tests/routertest"
)

func TestMain(m *testing.M) { os.Exit(routertest.Main(m)) }
