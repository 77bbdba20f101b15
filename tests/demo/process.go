package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const stopWithin = 15 * time.Second

// process is the running router.
type process struct {
	process *os.Process
	ended   chan struct{} // closed when it is gone
	logFile string
}

// start starts a program in a process group of its own, so that Ctrl-C reaches only the demo. However the demo ends, the child does too:
// the kernel kills it when the thread that started it ends, so one goroutine keeps its thread from the child's start to its end.
func start(program, logFile string, arguments ...string) (*process, error) {
	log, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()         // the child has its own
	cmd := exec.Command(program, arguments...) //nolint:gosec,noctx // our own program; stop ends it
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{ended: make(chan struct{}), logFile: logFile}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its log says how it ended
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	p.process = cmd.Process
	return p, nil
}

// environment is this process's own without the variables that would change the demo's configuration.
func environment() []string {
	var kept []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "IMAGING_ROUTER_") {
			kept = append(kept, variable)
		}
	}
	return kept
}

// stop ends the process in order. Stopping one that has ended does nothing.
func (p *process) stop() error {
	if err := p.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the router: %w", err)
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopWithin):
	}
	if err := p.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the router: %w", err)
	}
	<-p.ended
	return fmt.Errorf("the router did not stop within %v and was killed", stopWithin)
}

// lastLines returns the end of its log.
func (p *process) lastLines() string {
	text, err := os.ReadFile(p.logFile)
	if err != nil {
		return err.Error()
	}
	return lastLines(string(text))
}

func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return "the end of its log:\n" + strings.Join(lines[max(0, len(lines)-15):], "\n")
}
