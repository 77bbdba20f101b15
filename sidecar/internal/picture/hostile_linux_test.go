package picture

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// alive says how many processes of a decoder there are that were told a word, in their command line or environment.
func alive(t *testing.T, word string) (pids []int) {
	t.Helper()
	for _, source := range []string{"environ", "cmdline"} {
		paths, _ := filepath.Glob("/proc/[0-9]*/" + source)
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil || !bytes.Contains(content, []byte(word)) {
				continue
			}
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && pid != os.Getpid() {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Whatever a decoder does costs one attempt: no process and no file is left, and the next picture is read.
func TestHostileDecoders(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	// Each process is told a word that names the test; its environment is not ours, so the script passes it on.
	tests := []struct {
		name, script string
		options      Options
		kind         Kind
		reason       string
	}{
		{"leaves a daemon", `WORD setsid sh -c 'exec sleep 100' >/dev/null 2>&1 & exit 1`, Options{}, Undecodable, "cannot decode it"},
		{"leaves a daemon of a daemon", `WORD setsid sh -c 'setsid sh -c "sleep 100; :" & setsid sleep 100 & exit 0' >/dev/null 2>&1; exit 1`, Options{}, Undecodable, "cannot decode it"},
		{"leaves a daemon that holds its pipe", `WORD setsid sleep 100 & exit 1`, Options{}, Undecodable, "gdcmconv"},
		{"leaves a daemon and succeeds", `WORD setsid sleep 100 >/dev/null 2>&1 & cp "$2" "$3"`, Options{}, Undecodable, "left it as it was"},
		{"leaves a daemon and hangs", `WORD setsid sleep 100 >/dev/null 2>&1 & sleep 100`, Options{ChildTimeout: 500 * time.Millisecond}, Undecodable, "longer than 500ms"},
		{"leaves a stopped daemon", `WORD setsid sh -c 'kill -STOP $$; sleep 100' >/dev/null 2>&1 & sleep 0.1; exit 1`, Options{}, Undecodable, "cannot decode it"},
		{"leaves one that will not be ended", `WORD setsid sh -c 'trap "" TERM HUP INT QUIT; sleep 100; sleep 100' >/dev/null 2>&1 & exit 1`, Options{}, Undecodable, "cannot decode it"},
		{"leaves many", `i=0; while [ $i -lt 40 ]; do WORD setsid sleep 100 >/dev/null 2>&1 & i=$((i+1)); done; exit 1`, Options{}, Undecodable, "gdcmconv"},
		// Each generation starts the next in a session of its own and ends.
		{"flees", `cat >flee <<'END'
exec >/dev/null 2>&1
WORD setsid sh ./flee &
END
WORD setsid sh ./flee; exit 1`, Options{}, Undecodable, "gdcmconv"},
		{"fills its directory", `i=0; while :; do dd if=/dev/zero of=f$i bs=64k count=4 2>/dev/null; i=$((i+1)); done`, Options{MaxOutput: 1 << 20}, TooLarge, "more than 1048576 bytes"},
		{"makes files without end", `i=0; while :; do : >f$i; i=$((i+1)); done`, Options{}, TooLarge, "more than"},
		{"makes directories without end", `while :; do mkdir aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; cd -P aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done`, Options{}, TooLarge, "more than"},
		{"closes its directories", `mkdir -p a/b; : >a/b/c; chmod 0 a/b; chmod 0500 a; exit 1`, Options{}, Undecodable, "cannot decode it"},
		{"takes its directory's rights away", `: >a; chmod 0 .; exit 1`, Options{}, Undecodable, "cannot decode it"},
		{"fills a file from a daemon", `WORD setsid sh -c 'while :; do dd if=/dev/zero of=f bs=64k count=100; done' >/dev/null 2>&1 & exit 1`, Options{MaxOutput: 1 << 20}, Undecodable, "cannot decode it"},
		{"writes a pipe", `mkfifo "$3"`, Options{}, Undecodable, "wrote nothing"},
		{"writes a directory", `mkdir "$3"`, Options{}, Undecodable, "wrote nothing"},
	}
	good := standInFor(t, grey16(2, 0, 1000, 2000, 3000), "$3")
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			word := fmt.Sprintf("hostile%d-%d", os.Getpid(), i)
			test.options.GDCMConv = standIn(t, strings.ReplaceAll(test.script, "WORD", "MARK="+word))
			failed := fails(t, test.options, compressed)
			if failed.Kind != test.kind || !strings.Contains(failed.Reason, test.reason) {
				t.Errorf("%v, want %s: …%s…", failed, test.kind, test.reason)
			}
			if left := alive(t, word); len(left) > 0 {
				t.Errorf("processes are left: %v", left)
				for _, pid := range left {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			if zombies := leftovers(); len(zombies) > 0 {
				t.Errorf("children are left: %v", zombies)
			}
			if left, _ := filepath.Glob(filepath.Join(temporary, "picture-*")); len(left) > 0 {
				t.Errorf("files are left: %v", left)
			}
			if _, err := NewReader(Options{GDCMConv: good}).Read(t.Context(), compressed); err != nil {
				t.Errorf("the next picture: %v", err)
			}
		})
	}
}

// Decoders that run side by side, and children that are no decoders, are let alone.
func TestOnlyLeftoversAreEnded(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	other := exec.Command("sleep", "100")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	slow := standIn(t, "sleep 1.5; exec "+standInFor(t, grey16(2, 0, 1000, 2000, 3000), "$3")+` "$@"`)
	quick := standIn(t, "setsid sleep 100 >/dev/null 2>&1 & exit 1")
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := NewReader(Options{GDCMConv: slow}).Read(t.Context(), compressed); err != nil {
			t.Errorf("the slow one: %v", err)
		}
	})
	for range 10 {
		fails(t, Options{GDCMConv: quick}, compressed)
	}
	group.Wait()
	if err := syscall.Kill(other.Process.Pid, 0); err != nil {
		t.Errorf("a child that is no decoder: %v", err)
	}
}

// Without privileges a decoder starts no more than a bounded number of processes and keeps the mark that finds them. Root has no such
// limits, so nobody runs the router as root.
func TestForkBomb(t *testing.T) {
	limit := processLimit()
	if os.Geteuid() == 0 {
		if limit != "" {
			t.Errorf("root is given a limit of %s that does not count", limit)
		}
		return
	}
	t.Setenv("TMPDIR", t.TempDir())
	if failed := fails(t, Options{GDCMConv: standIn(t, "ulimit -H -t unlimited 2>/dev/null && exit 9; exit 7")}, compressed); !strings.Contains(failed.Reason, "(exit status 7)") {
		t.Errorf("a decoder may raise its limits: %v", failed)
	}
	// Ten times as many processes as may be.
	word := fmt.Sprintf("bomb%d", os.Getpid())
	bomb := standIn(t, fmt.Sprintf("i=0; while [ $i -lt %d ]; do (MARK=%s exec setsid sleep 100 >/dev/null 2>&1 &) || break; i=$((i+1)); done; sleep 100", 10*spareProcesses, word))
	most, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		fails(t, Options{GDCMConv: bomb, ChildTimeout: 3 * time.Second}, compressed)
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(50 * time.Millisecond):
			most = max(most, len(alive(t, word)))
		}
	}
	if most == 0 || most > 2*spareProcesses {
		t.Errorf("%d processes at a time, want some and at most about %d", most, spareProcesses)
	}
	if left := alive(t, word); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	t.Logf("at most %d processes at a time", most)
}
