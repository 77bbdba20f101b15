package routertest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
)

const (
	startWithin = 60 * time.Second // the race detector and a busy machine
	stopWithin  = 30 * time.Second
)

// Settings is the router's configuration as its YAML file has it, for example {"forwarding": {"enabled": true}}.
type Settings = map[string]any

// Config says what router to make.
type Config struct {
	Version  string   // of the Orthanc whose gdcmconv it uses; "" is the oldest installed
	Token    string   // of hook and metrics; "" switches it off
	Settings Settings // laid over a configuration for tests: real model, loopback, a database of its own, JSON log of level debug
	Dir      string   // "" is a folder that goes with the test
	Data     string   // folder of the database, for a disk of its own; "" is Dir
}

// Router is one router with its configuration and database, running or not.
type Router struct {
	URL   string // http://127.0.0.1:port, where it listens while it runs
	Token string
	Dir   string // config.yaml, router.db, router.log

	settings Settings
	binary   string
	data     string

	mu      sync.Mutex
	process *os.Process
	ended   chan struct{} // closed when the process is gone
	status  error
}

// New prepares a router for a test, without starting it: its address and token are known, so that Orthanc's hook can be given them. It
// is killed when the test ends; the end of its log is shown when the test failed.
func New(t testing.TB, c Config) *Router {
	t.Helper()
	port, err := orthanctest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	listen := "127.0.0.1:" + strconv.Itoa(port)
	r := &Router{URL: "http://" + listen, Token: c.Token, Dir: c.Dir, data: c.Data, binary: Binary(t)}
	if r.Dir == "" {
		r.Dir = t.TempDir()
	}
	r.data = cmp.Or(r.data, r.Dir)
	gdcmconv, err := orthanctest.Tool(c.Version, "gdcmconv")
	if err != nil {
		t.Fatal(err)
	}
	r.settings = Settings{
		"server":   Settings{"listen": listen},
		"database": Settings{"path": r.Database()},
		"model":    Settings{"dir": Model(t), "onnxruntime": ONNXRuntime(t)},
		"picture":  Settings{"gdcmconv": gdcmconv},
		"log":      Settings{"level": "debug", "format": "json"},
	}
	if c.Token != "" {
		r.Configure(Settings{"server": Settings{"hook_token_file": r.secret(t, "token", c.Token)}})
	}
	r.Configure(c.Settings)
	t.Cleanup(func() {
		if err := r.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			lines := strings.Split(strings.TrimSpace(r.Log()), "\n")
			t.Logf("the end of the router's log:\n%s", strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
		if strings.Contains(r.Log(), "WARNING: DATA RACE") {
			t.Errorf("the race detector spoke:\n%s", r.Log())
		}
	})
	return r
}

// Beside points the router at an Orthanc. url is where it reaches it, when that is not the server itself but a proxy before it.
func (r *Router) Beside(t testing.TB, archive *orthanctest.Server, url string) {
	t.Helper()
	if url == "" {
		url = archive.URL
	}
	settings := Settings{"url": url}
	if archive.Username != "" {
		settings["username"], settings["password_file"] = archive.Username, r.secret(t, "password", archive.Password)
	}
	r.Configure(Settings{"orthanc": settings})
}

// Second returns a router with the same configuration and database that listens elsewhere.
func (r *Router) Second(t testing.TB) *Router {
	t.Helper()
	other := New(t, Config{Settings: r.settings})
	other.Token = r.Token
	other.Configure(Settings{"server": Settings{"listen": strings.TrimPrefix(other.URL, "http://")}})
	return other
}

func (r *Router) secret(t testing.TB, name, value string) string {
	t.Helper()
	path := filepath.Join(r.Dir, name)
	if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Configure lays settings over the configuration; the next start reads them.
func (r *Router) Configure(s Settings) { r.settings = merged(r.settings, s) }

// merged lays top over base: mappings are joined, everything else is replaced.
func merged(base, top Settings) Settings {
	out := make(Settings, len(base)+len(top))
	for k, v := range base {
		out[k] = v
	}
	for k, v := range top {
		a, isMap := out[k].(Settings)
		b, both := v.(Settings)
		if isMap && both {
			v = merged(a, b)
		}
		out[k] = v
	}
	return out
}

// Database is the path of the router's SQLite file.
func (r *Router) Database() string { return filepath.Join(r.data, "router.db") }

func (r *Router) configFile() string { return filepath.Join(r.Dir, "config.yaml") }
func (r *Router) logFile() string    { return filepath.Join(r.Dir, "router.log") }

// Log returns what the router has logged so far, over all its starts.
func (r *Router) Log() string {
	text, err := os.ReadFile(r.logFile())
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// write writes the configuration file. JSON is YAML.
func (r *Router) write() error {
	text, err := json.MarshalIndent(r.settings, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(r.configFile(), text, 0o600)
}

// Start starts the router and waits until it answers.
func (r *Router) Start(ctx context.Context) error {
	if err := r.launch(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		if status, _, err := r.Do(ctx, http.MethodGet, "/-/healthy", nil); err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-r.Ended():
			return fmt.Errorf("routertest: the router ended while it was starting:\n%s", r.Log())
		case <-ctx.Done():
			return fmt.Errorf("routertest: the router does not answer at %s: %w\n%s", r.URL, ctx.Err(), r.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (r *Router) launch() error {
	if err := r.write(); err != nil {
		return err
	}
	log, err := os.OpenFile(r.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	cmd := r.command(context.WithoutCancel(context.Background()), "serve")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // nothing stays behind
	started, ended := make(chan error), make(chan struct{})
	go func() { // Pdeathsig follows the thread that started the child: this one is kept as long as the child
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			err = cmd.Wait()
			r.mu.Lock()
			r.status = err
			r.mu.Unlock()
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("routertest: start the router: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process, r.ended = cmd.Process, ended
	return nil
}

// command prepares a sub-command with the router's configuration. Settings in this process's environment do not reach it.
func (r *Router) command(ctx context.Context, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.binary, append([]string{"--config", r.configFile()}, arguments...)...) //nolint:gosec // the program under test
	cmd.Dir = r.Dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "IMAGING_ROUTER_") })
	return cmd
}

// Run runs a sub-command beside the router, with its configuration, and returns what it printed and its exit status.
func (r *Router) Run(ctx context.Context, arguments ...string) (stdout, stderr string, status int, err error) {
	if err := r.write(); err != nil {
		return "", "", 0, err
	}
	cmd := r.command(ctx, arguments...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out.String(), errs.String(), exit.ExitCode(), nil
	}
	return out.String(), errs.String(), 0, err
}

// Kill ends the router at once (SIGKILL), as a crash does. Killing one that does not run does nothing.
func (r *Router) Kill() error { return r.end(syscall.SIGKILL) }

// Stop ends the router as an operator does (SIGTERM), waits, and returns an error when it did not end in order.
func (r *Router) Stop() error {
	if err := r.end(syscall.SIGTERM); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status != nil {
		return fmt.Errorf("routertest: the router stopped with %w", r.status)
	}
	return nil
}

func (r *Router) end(signal syscall.Signal) error {
	r.mu.Lock()
	process, ended := r.process, r.ended
	r.process = nil
	r.mu.Unlock()
	if process == nil {
		return nil
	}
	if err := process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("routertest: signal the router: %w", err)
	}
	select {
	case <-ended:
		return nil
	case <-time.After(stopWithin):
	}
	if err := process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("routertest: kill the router: %w", err)
	}
	<-ended
	return fmt.Errorf("routertest: the router did not stop within %v and was killed", stopWithin)
}

// Signal sends the running router a signal that does not end it.
func (r *Router) Signal(signal os.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil {
		return errors.New("routertest: no router is running")
	}
	return r.process.Signal(signal)
}

// PID is the process of the running router, 0 when none runs.
func (r *Router) PID() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil {
		return 0
	}
	return r.process.Pid
}

// Rewrite exchanges the configuration file beside the running router, all of it at once.
func (r *Router) Rewrite() error {
	text, err := json.MarshalIndent(r.settings, "", "  ")
	if err != nil {
		return err
	}
	whole := r.configFile() + ".new"
	if err := os.WriteFile(whole, text, 0o600); err != nil {
		return err
	}
	return os.Rename(whole, r.configFile())
}

// Ended is closed when the router that was started last is gone.
func (r *Router) Ended() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}
