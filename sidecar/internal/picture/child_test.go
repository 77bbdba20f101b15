package picture

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/suyashkumar/dicom/pkg/tag"
	"github.com/suyashkumar/dicom/pkg/uid"
)

const rleLossless = "1.2.840.10008.1.2.5"

// needGDCM skips without gdcmconv, and fails without it where nothing may be skipped.
func needGDCM(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath(gdcmconv)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("gdcmconv is not installed (apt install libgdcm-tools)")
		}
		t.Skip("skipped: gdcmconv is not installed (apt install libgdcm-tools)")
	}
	return path
}

// The same 12-bit film, compressed without loss by gdcmconv in four ways, reads as the uncompressed one does.
func TestDecodeByChild(t *testing.T) {
	program := needGDCM(t)
	values := make([]uint16, 64*48)
	for i := range values {
		values[i] = uint16(i%64*50 + i/64*18)
	}
	f := grey16(64, values...).with(fixture{tag.PhotometricInterpretation: str("CS", "MONOCHROME1"), tag.SOPInstanceUID: str("UI", "2.25.77"),
		tag.PatientID: str("LO", "SECRET"), tag.PatientName: str("PN", "DOE^JOHN")}).file(uid.ExplicitVRLittleEndian)
	want := read(t, f)
	dir := t.TempDir()
	in := filepath.Join(dir, "in.dcm")
	if err := os.WriteFile(in, f, 0o600); err != nil {
		t.Fatal(err)
	}
	for option, syntax := range map[string]string{
		"--jpeg": "1.2.840.10008.1.2.4.70", "--j2k": "1.2.840.10008.1.2.4.90", "--jpegls": "1.2.840.10008.1.2.4.80", "--rle": rleLossless,
	} {
		t.Run(strings.Trim(option, "-"), func(t *testing.T) {
			out := filepath.Join(dir, strings.Trim(option, "-"))
			if said, err := exec.Command(program, option, in, out).CombinedOutput(); err != nil {
				t.Fatalf("compress: %v: %s", err, said)
			}
			file, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			p := read(t, file)
			if p.Header.TransferSyntaxUID != syntax || !strings.HasPrefix(p.Steps[1].Detail, gdcmconv) {
				t.Errorf("%s, %+v; want %s by gdcmconv", p.Header.TransferSyntaxUID, p.Steps, syntax)
			}
			for i := range want.Pixels {
				if p.Pixels[i] != want.Pixels[i] {
					t.Fatalf("pixel %d is %v, want %v", i, p.Pixels[i], want.Pixels[i])
				}
			}
		})
	}
}

// standIn writes a shell script that plays gdcmconv; $2 is what it gets and $3 what it must write.
func standIn(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gdcmconv")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

var compressed = grey16(2, 0, 0, 0, 0).with(fixture{tag.PatientName: str("PN", "DOE^JOHN")}).encapsulated(rleLossless, []byte{1, 2, 3, 4})

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
		{"refuses", "echo DOE^JOHN is broken >&2; exit 1", Options{}, Undecodable, "RLE Lossless (1.2.840.10008.1.2.5): gdcmconv cannot decode it (exit status 1)", false},
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
	good := grey16(2, 0, 1000, 2000, 3000).file(uid.ExplicitVRLittleEndian)
	program := standIn(t, "echo "+base64.StdEncoding.EncodeToString(good)+` | base64 -d >"$3"`)
	p, err := NewReader(Options{GDCMConv: program}).Read(t.Context(), compressed)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(float64(p.Pixels[1])-1.0/3) > 0.001 || p.Header.TransferSyntaxUID != rleLossless {
		t.Errorf("%v, %+v", p.Pixels, p.Header)
	}
}

func TestGDCMConv(t *testing.T) {
	if path, _, err := NewReader(Options{GDCMConv: "-"}).GDCMConv(); err == nil || path != "" {
		t.Errorf("switched off: %q, %v", path, err)
	}
	if _, _, err := NewReader(Options{GDCMConv: "/nowhere/gdcmconv"}).GDCMConv(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("not there: %v", err)
	}
	if failed := fails(t, Options{GDCMConv: "/nowhere/gdcmconv"}, compressed); failed.Kind != Undecodable || !strings.Contains(failed.Reason, "libgdcm-tools") {
		t.Errorf("not there: %v", failed)
	}
	path := needGDCM(t)
	if found, version, err := NewReader(Options{}).GDCMConv(); err != nil || found != path || !strings.HasPrefix(version, "gdcmconv: gdcm ") {
		t.Errorf("%q, %q, %v", found, version, err)
	}
}
