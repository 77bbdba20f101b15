package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A report as dcmsend 3.6.9 writes it, shortened.
const report = `Detailed Report on the Transfer of Instances
============================================

Communication Peer : 127.0.0.1:4242
AE Titles used     : DCMSEND -> ARCHIVE


Number        : 1
Filename      : /x/a : b.dcm
SOP Instance  : 2.25.1
SOP Class     : 1.2.840.10008.5.1.4.1.1.1.1 = DigitalXRayImageStorageForPresentation
DIMSE Status  : 0x0000 (Success)

Number        : 2
Filename      : /x/refused.dcm
SOP Instance  : 2.25.2
SOP Class     : 1.2.840.10008.5.1.4.1.1.1 = ComputedRadiographyImageStorage
DIMSE Status  : 0xa700 (Refused: OutOfResources)

Number        : 3
Filename      : /x/late.dcm
SOP Instance  : 2.25.3
SOP Class     : 1.2.3.4
DIMSE Status  : <not sent>
`

func TestReadReport(t *testing.T) {
	byPath := map[string]*file{}
	for _, path := range []string{"/x/a : b.dcm", "/x/refused.dcm", "/x/late.dcm", "/x/absent.dcm"} {
		byPath[path] = &file{path: path, notSent: "left out"}
	}
	readReport([]byte(report), byPath)

	sent := byPath["/x/a : b.dcm"]
	require.Equal(t, "2.25.1", sent.sopInstanceUID)
	require.Equal(t, "DigitalXRayImageStorageForPresentation", sent.sopClassName)
	require.Empty(t, sent.notSent)
	require.True(t, sent.xray())

	require.Equal(t, "refused by the archive: 0xa700 (Refused: OutOfResources)", byPath["/x/refused.dcm"].notSent)
	require.False(t, byPath["/x/refused.dcm"].xray(), "what the archive refused was not sent")
	require.Equal(t, unsent+"not sent", byPath["/x/late.dcm"].notSent)
	require.Equal(t, "1.2.3.4", byPath["/x/late.dcm"].sopClass)
	require.Equal(t, "left out", byPath["/x/absent.dcm"].notSent)
}

func TestBadFilesAreRecognised(t *testing.T) {
	output := []byte("E: cannot add DICOM file to the transfer list: /x/a: b.txt: I/O suspension\n" +
		"W: bad DICOM file: /x/a: b.txt: I/O suspension or premature end of stream, ignoring file\n")
	match := badFile.FindSubmatch(output)
	require.NotNil(t, match)
	require.Equal(t, "/x/a: b.txt", string(match[1]))
	require.Equal(t, "I/O suspension or premature end of stream", string(match[2]))
}

func TestWhereTheRulesSend(t *testing.T) {
	for _, test := range []struct {
		class      string
		confidence float64
		review     bool
		expected   []string
	}{
		{"adult_chest", 0.99, false, []string{chestAI}},
		{"pediatric_chest", 0.5, false, []string{chestAI}},
		{"spine", 0.9, false, []string{spineAI}},
		{"spine", 0.9, true, nil},
		{"adult_chest", 0.4, false, nil},
		{"abdominal", 1, false, nil},
		{"others", 1, false, nil},
	} {
		require.Equal(t, test.expected, wanted(result{Class: test.class, Confidence: test.confidence, Review: test.review}), "%+v", test)
	}
}

// Folders of runs that were killed are taken away, that of a run beside this one is not.
func TestWorkFolder(t *testing.T) {
	base := t.TempDir()
	left := filepath.Join(base, "run-left")
	require.NoError(t, os.MkdirAll(filepath.Join(left, "archive"), 0o700))
	running, release, err := workFolder(base)
	require.NoError(t, err)
	require.NoDirExists(t, left)

	own, releaseOwn, err := workFolder(base)
	require.NoError(t, err)
	require.DirExists(t, running)
	require.NotEqual(t, running, own)
	release()
	releaseOwn()

	_, releaseLast, err := workFolder(base)
	require.NoError(t, err)
	defer releaseLast()
	require.NoDirExists(t, running)
	require.NoDirExists(t, own)
}

func TestStrangersTextIsMadeHarmless(t *testing.T) {
	require.Equal(t, "a?[31mb", printable("a\x1b[31mb", 10))
	require.Equal(t, "Kölner…", printable("Kölner Dom", 7))
	require.Equal(t, "Dom", printable("Dom", 3))
}
