package picture

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A decoder may start processes, and these may leave its process group and session, so that killing the group does not reach them.
// This process therefore adopts every orphan among its descendants (PR_SET_CHILD_SUBREAPER). When a decoder has ended, a child of
// this process that no one here has started, and whose hard limit on processor time is below our own, is what a decoder left behind:
// the limit is set before the decoder starts, all that it starts inherits it, and without privileges nobody raises it again.

// spareProcesses is how many processes and threads a decoder may start, all together, where it runs without privileges.
const spareProcesses = 64

// patience is how long leftovers are chased. Killing takes microseconds; only something that forks for ever outlives a round, and for
// it the next picture's end is the next chance.
const (
	patience   = 5 * time.Second
	roundPause = 100 * time.Microsecond
)

var running = struct {
	sync.Mutex
	adopting sync.Once
	children map[int]bool // decoders that have been started and not yet waited for
}{children: map[int]bool{}}

// startChild starts a decoder.
func startChild(command *exec.Cmd) error {
	running.adopting.Do(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
	running.Lock()
	defer running.Unlock()
	if err := command.Start(); err != nil {
		return err
	}
	running.children[command.Process.Pid] = true
	return nil
}

// endChild kills what the decoder left behind once it has been waited for, and returns how many it could not.
func endChild(command *exec.Cmd) (left int) {
	running.Lock()
	defer running.Unlock()
	delete(running.children, command.Process.Pid)
	// What a killed one has started comes to us in the next round. A round must be shorter than it takes to start a process.
	for deadline := time.Now().Add(patience); ; time.Sleep(roundPause) {
		orphans := leftovers()
		if len(orphans) == 0 || time.Now().After(deadline) {
			return len(orphans)
		}
		for _, pid := range orphans {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
	}
}

// leftovers returns the children of this process that were a decoder's.
func leftovers() []int {
	var own, theirs unix.Rlimit
	if unix.Prlimit(0, unix.RLIMIT_CPU, nil, &own) != nil {
		return nil
	}
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	var found []int
	for _, list := range lists {
		content, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range bytes.Fields(content) {
			pid, err := strconv.Atoi(string(field))
			if err == nil && !running.children[pid] && unix.Prlimit(pid, unix.RLIMIT_CPU, nil, &theirs) == nil && theirs.Max < own.Max {
				found = append(found, pid)
			}
		}
	}
	return found
}

// processLimit returns how many processes and threads this process's user may have while a decoder runs, or "" where no such limit
// would count: root has none.
func processLimit() string {
	user := os.Geteuid()
	if user == 0 {
		return ""
	}
	tasks := 0
	processes, _ := filepath.Glob("/proc/[0-9]*/task")
	for _, path := range processes {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) == user {
			tasks += max(int(s.Nlink)-2, 1) // one folder for each thread, beside . and ..
		}
	}
	return strconv.Itoa(tasks + spareProcesses)
}
