package picture

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

// standIn writes a shell script that plays gdcmconv; $2 is what it gets and $3 what it must write.
func standIn(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gdcmconv")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// standInFor writes one that plays a decoder which writes f to the given argument.
func standInFor(t *testing.T, f fixture, argument string) string {
	t.Helper()
	return standIn(t, "echo "+base64.StdEncoding.EncodeToString(f.file(uid.ExplicitVRLittleEndian))+" | base64 -d >\""+argument+"\"")
}

// compressed is in a syntax of which nothing is known, so that gdcmconv alone is asked.
var compressed = grey16(2, 0, 0, 0, 0).with(fixture{tag.PatientName: str("PN", "DOE^JOHN")}).encapsulated("1.2.3.4", []byte{1, 2, 3, 4})

func TestChildFailures(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("ROUTER_SECRET", "hunter2")
	tests := []struct {
		name, script string
		options      Options
		kind         Kind
		reason       string
		temporary    bool
	}{
		{"hangs", "sleep 60", Options{ChildTimeout: 300 * time.Millisecond}, Undecodable, "longer than 300ms", true},
		{"crashes", "kill -SEGV $$", Options{}, Undecodable, "died (segmentation fault)", true},
		{"refuses", "echo DOE^JOHN is broken >&2; exit 1", Options{}, Undecodable, "1.2.3.4: gdcmconv cannot decode it (exit status 1)", false},
		{"lacks a library", "exec /nowhere/gdcm", Options{}, Undecodable, "does not run here: ", true},
		{"writes nothing", "exit 0", Options{}, Undecodable, "wrote nothing", false},
		{"writes nonsense", `echo nonsense >"$3"`, Options{}, Undecodable, "broken file", false},
		{"writes a link", `ln -s /etc/passwd "$3"`, Options{}, Undecodable, "wrote nothing", false},
		{"leaves it compressed", `cp "$2" "$3"`, Options{}, Undecodable, "left it as it was", false},
		{"floods its file", `exec dd if=/dev/zero of="$3" bs=64k`, Options{MaxOutput: 1 << 20}, TooLarge, "more than 1048576 bytes", false},
		{"floods stderr", "while :; do echo complaint after complaint after complaint; done >&2", Options{ChildTimeout: 10 * time.Second}, Undecodable, "does not stop to complain", false},
		{"wants too much memory", `exec awk 'BEGIN { s = "x"; while (1) s = s s }'`, Options{ChildMemory: 64 << 20}, Undecodable, "gdcmconv", false},
		{"finds our secrets", `[ -z "$ROUTER_SECRET" ] || exit 9; exit 7`, Options{}, Undecodable, "(exit status 7)", false},
		{"finds the patient", `grep -q DOE "$2" && exit 9; exit 7`, Options{}, Undecodable, "(exit status 7)", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.options.GDCMConv = standIn(t, test.script)
			start := time.Now()
			failed := fails(t, test.options, compressed)
			if failed.Kind != test.kind || !strings.Contains(failed.Reason, test.reason) || failed.Temporary != test.temporary {
				t.Errorf("%v (temporary: %v), want %s: …%s… (%v)", failed, failed.Temporary, test.kind, test.reason, test.temporary)
			}
			if strings.Contains(failed.Error(), "DOE") {
				t.Errorf("the reason names the patient: %v", failed)
			}
			if took := time.Since(start); took > 8*time.Second {
				t.Errorf("took %v", took)
			}
			if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "picture-*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A child's own children die with it, and a cancelled context ends them all.
func TestChildGroupIsKilled(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pid")
	program := standIn(t, fmt.Sprintf("sleep 100 & echo $! >%q; wait", pids))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(500*time.Millisecond, cancel)
	_, err := NewReader(Options{GDCMConv: program}).Read(ctx, compressed)
	var failed *Error
	if !errors.As(err, &failed) || !failed.Temporary || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	written, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(written)))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		// A zombie that nobody has waited for yet (this container's first process may not) still has a number.
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || err == nil && strings.Contains(string(state), ") Z ") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("process %d is still alive", pid)
}

// What the child writes is read like any other file: a stand-in that writes a good one gives its picture.
func TestChildOutputIsRead(t *testing.T) {
	program := standInFor(t, grey16(2, 0, 1000, 2000, 3000), "$3")
	p, err := NewReader(Options{GDCMConv: program}).Read(t.Context(), compressed)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(float64(p.Pixels[1])-1.0/3) > 0.001 || p.Header.TransferSyntaxUID != "1.2.3.4" {
		t.Errorf("%v, %+v", p.Pixels, p.Header)
	}
}
