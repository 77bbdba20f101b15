package orthanctest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	startWithin = 20 * time.Second
	stopWithin  = 20 * time.Second
)

// Server is an Orthanc of its own process.
type Server struct {
	URL                string // http://127.0.0.1:port, without a slash at the end
	Username, Password string // of the first user; both empty without authentication
	Version            string // the full one
	AET                string
	HTTPPort           int
	DicomPort          int
	Dir                string // storage/, orthanc.json, orthanc.log

	config  Config
	program string

	mu      sync.Mutex
	process *os.Process
	ended   chan struct{} // closed when the process is gone
}

// Start starts an Orthanc and waits, at most 20 s, until it answers. The caller stops it, and removes Dir where that
// was left to be made. When this process dies, however it dies, its Orthancs are killed.
func Start(ctx context.Context, c Config) (*Server, error) {
	version, err := Find(c.Version)
	if err != nil {
		return nil, err
	}
	program, err := Tool(version, "Orthanc")
	if err != nil {
		return nil, err
	}
	if c.AET == "" {
		c.AET = "ORTHANC"
	}
	if c.Users == nil {
		c.Users = map[string]string{"test": "test"}
	}
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "orthanc-"); err != nil {
			return nil, err
		}
	}
	for _, port := range []*int{&c.HTTPPort, &c.DicomPort} {
		if *port == 0 {
			if *port, err = FreePort(); err != nil {
				return nil, err
			}
		}
	}
	s := &Server{
		URL: "http://127.0.0.1:" + strconv.Itoa(c.HTTPPort), Version: version, AET: c.AET,
		HTTPPort: c.HTTPPort, DicomPort: c.DicomPort, Dir: c.Dir, config: c, program: program,
	}
	s.Username, s.Password = c.firstUser()
	if err := s.launch(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// New starts an Orthanc for a test: it is killed (an orderly stop takes seconds), and its storage removed, when the test ends. The end of its log is shown when the test failed.
func New(t testing.TB, c Config) *Server {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	s, err := Start(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			lines := strings.Split(strings.TrimSpace(s.Log()), "\n")
			t.Logf("the end of the log of Orthanc %s at %s:\n%s", s.Version, s.URL, strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
	})
	return s
}

func (s *Server) launch(ctx context.Context) error {
	settings, err := s.config.json(s.Version)
	if err != nil {
		return err
	}
	file := filepath.Join(s.Dir, "orthanc.json")
	if err := os.WriteFile(file, settings, 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	arguments := []string{file}
	if s.config.Verbose {
		arguments = append(arguments, "--verbose")
	}
	cmd := exec.Command(s.program, arguments...) //nolint:gosec,noctx // the installed Orthanc; it outlives ctx, Stop ends it
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), s.config.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // Ctrl-C reaches this process, which stops Orthanc in its own time
		Pdeathsig: syscall.SIGKILL, // and nothing stays behind when it could not
	}
	if err := s.run(cmd); err != nil {
		return fmt.Errorf("orthanctest: start Orthanc %s: %w", s.Version, err)
	}
	if err := s.waitReady(ctx); err != nil {
		_ = s.Kill() // the first error is the one to tell
		return err
	}
	return nil
}

// run starts the command. The kernel sends Pdeathsig when the *thread* that started the child ends, so one goroutine keeps its thread
// from the start of the child to its end.
func (s *Server) run(cmd *exec.Cmd) error {
	started := make(chan error)
	ended := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is the business of Stop, Kill and the log
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process, s.ended = cmd.Process, ended
	return nil
}

func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		status, _, err := s.Do(ctx, http.MethodGet, "/system", nil)
		if err == nil && status == http.StatusOK {
			return nil // Orthanc opens its DICOM port before the one of HTTP
		}
		select {
		case <-s.ended:
			return fmt.Errorf("orthanctest: Orthanc %s ended while it was starting:\n%s", s.Version, s.Log())
		case <-ctx.Done():
			return fmt.Errorf("orthanctest: Orthanc %s does not answer at %s (HTTP %d, %w):\n%s", s.Version, s.URL, status, errors.Join(err, ctx.Err()), s.Log())
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// Stop ends Orthanc as an operator does (SIGTERM) and waits for its end. Stopping a stopped one does nothing.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

// Kill ends Orthanc at once (SIGKILL), as a crash does.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	process, ended := s.process, s.ended
	s.process = nil
	if err := process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("orthanctest: signal Orthanc: %w", err)
	}
	select {
	case <-ended:
		return nil
	case <-time.After(stopWithin):
	}
	if err := process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("orthanctest: kill Orthanc: %w", err)
	}
	<-ended
	return fmt.Errorf("orthanctest: Orthanc %s did not stop within %v and was killed", s.Version, stopWithin)
}

// Signal sends the running Orthanc a signal that does not end it, such as SIGSTOP and SIGCONT.
func (s *Server) Signal(signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return errors.New("orthanctest: no Orthanc is running")
	}
	return s.process.Signal(signal)
}

// Restart stops Orthanc, where it runs, and starts it again with the same ports, configuration and storage.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(); err != nil {
		return err
	}
	return s.launch(ctx)
}

// RestartWith is Restart with a changed configuration.
func (s *Server) RestartWith(ctx context.Context, change func(*Config)) error {
	if err := s.Stop(); err != nil {
		return err
	}
	change(&s.config)
	return s.launch(ctx)
}

// Ended is closed when the running Orthanc is gone, whoever ended it.
func (s *Server) Ended() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// Log returns what Orthanc has logged so far, over all its restarts.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (s *Server) logFile() string { return filepath.Join(s.Dir, "orthanc.log") }
