package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func read(lines ...string) (string, bool) {
	var page strings.Builder
	good := report(strings.NewReader(strings.Join(lines, "\n")), &page)
	return page.String(), good
}

func TestWhatPassesIsOneLine(t *testing.T) {
	page, good := read(
		`{"Action":"start","Package":"imagingrouter/a"}`,
		`{"Action":"run","Package":"imagingrouter/a","Test":"TestX"}`,
		`{"Action":"output","Package":"imagingrouter/a","Test":"TestX","Output":"noise\n"}`,
		`{"Action":"pass","Package":"imagingrouter/a","Test":"TestX","Elapsed":1}`,
		`{"Action":"pass","Package":"imagingrouter/a","Elapsed":1.25}`,
	)
	require.True(t, good)
	require.Equal(t, "ok a 1 tests 1.2 s", strings.Join(strings.Fields(page), " "))
}

func TestWhatIsSlowIsALineOfItsOwn(t *testing.T) {
	page, good := read(
		`{"Action":"start","Package":"imagingrouter/a"}`,
		`{"Action":"pass","Package":"imagingrouter/a","Test":"TestX","Elapsed":5.5}`,
		`{"Action":"pass","Package":"imagingrouter/a","Elapsed":6}`,
	)
	require.True(t, good)
	require.Contains(t, page, "a TestX  5.5 s\n")
}

func TestWhatFailsIsShownWhole(t *testing.T) {
	page, good := read(
		`{"Action":"start","Package":"imagingrouter/a"}`,
		`{"Action":"output","Package":"imagingrouter/a","Test":"TestX","Output":"    a_test.go:7: why\n"}`,
		`{"Action":"fail","Package":"imagingrouter/a","Test":"TestX"}`,
		`{"Action":"output","Package":"imagingrouter/a","Output":"panic: deep\n"}`,
		`{"Action":"fail","Package":"imagingrouter/a","Elapsed":2}`,
	)
	require.False(t, good)
	require.Contains(t, page, "a_test.go:7: why")
	require.Contains(t, page, "panic: deep")
	require.Contains(t, page, "FAILED  a")
}

func TestSkippedTestsAreListedWithTheReason(t *testing.T) {
	page, good := read(
		`{"Action":"start","Package":"imagingrouter/a"}`,
		`{"Action":"output","Package":"imagingrouter/a","Test":"TestX","Output":"=== RUN   TestX\n"}`,
		`{"Action":"output","Package":"imagingrouter/a","Test":"TestX","Output":"    a_test.go:7: no Orthanc: run make orthanc\n"}`,
		`{"Action":"output","Package":"imagingrouter/a","Test":"TestX","Output":"--- SKIP: TestX (0.00s)\n"}`,
		`{"Action":"skip","Package":"imagingrouter/a","Test":"TestX"}`,
		`{"Action":"pass","Package":"imagingrouter/a"}`,
	)
	require.True(t, good)
	require.Contains(t, page, "1 skipped:\n  a TestX: no Orthanc: run make orthanc\n")
}

func TestWhatDoesNotBuildFails(t *testing.T) {
	page, good := read(
		`{"ImportPath":"imagingrouter/a","Action":"build-output","Output":"a.go:1: syntax error\n"}`,
		`{"ImportPath":"imagingrouter/a","Action":"build-fail"}`,
	)
	require.False(t, good)
	require.Contains(t, page, "syntax error")
}

func TestNothingIsNoSuccess(t *testing.T) {
	page, good := read("go: no such package")
	require.False(t, good)
	require.Contains(t, page, "no such package")
}
