// Command demo shows the router at work on one machine: an archive Orthanc with the hook, two destination Orthancs, the router between
// them, and X-rays sent over C-STORE. It drives the built program and real Orthancs from outside, as an operator would, and knows
// nothing of the router's inside. `make demo` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"

	"imagingrouter/tests/orthanctest"
)

// options is the command line.
type options struct {
	once   bool   // end by itself, with a verdict
	model  string // folder of the network
	router string // the built program
	each   int    // X-rays of each class
	photo  string // folder in which to save pictures of the archive's page
	own    []string
}

func main() { os.Exit(run()) }

func run() int {
	var o options
	flags := flag.NewFlagSet("demo", flag.ExitOnError)
	flags.BoolVar(&o.once, "once", false, "end when all is through; status 0 only if everything arrived as it should")
	flags.StringVar(&o.model, "model", "models/mobilenet-v1-160", "folder with model.onnx and model.yaml")
	flags.StringVar(&o.router, "router", "bin/imaging-router", "the program")
	flags.IntVar(&o.each, "each", 4, "X-rays of each class")
	flags.StringVar(&o.photo, "screenshot", "", "send drawings, save pictures of the archive's page in this folder, and end (needs chromium)")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), "usage: demo [flags] [DICOM file or folder ...]\n\nWithout files it sends X-rays of its own. `make demo` builds what it needs.\n\n")
		flags.PrintDefaults()
	}
	_ = flags.Parse(os.Args[1:]) // ExitOnError
	o.own = flags.Args()

	// The first Ctrl-C ends in order, the second at once: the children die with this process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	err := demo(ctx, o, newScreen(os.Stdout))
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && !o.once:
		return 0 // Ctrl-C is how the demo ends
	default:
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		return 1
	}
}

// errIncomplete ends a demo whose list of failures has been printed.
var errIncomplete = errors.New("not everything arrived as it should (the list above)")

func demo(ctx context.Context, o options, s *screen) (err error) {
	repository, err := orthanctest.Repository()
	if err != nil {
		return err
	}
	dir, unlock, err := workFolder(filepath.Join(repository, ".tmp", "demo"))
	if err != nil {
		return err
	}
	defer unlock()
	keepLogs := false
	defer func() { err = errors.Join(err, cleanUp(dir, keepLogs || err != nil && ctx.Err() == nil, s)) }()

	var files []*file
	var words string
	var drawn bool
	if len(o.own) > 0 {
		files, words, err = ownFiles(o.own)
	} else {
		// No real X-ray may get into a picture that is published.
		files, words, drawn, err = ourFiles(repository, filepath.Join(dir, "xrays"), o.each, o.photo != "")
	}
	if err != nil {
		return err
	}
	scene, err := raise(ctx, repository, dir, o, drawn, s)
	if err != nil {
		return err
	}
	defer func() {
		s.say("\nstopping the router and the Orthancs")
		err = errors.Join(err, scene.stop())
	}()

	s.say("sending   %s, over C-STORE to %s@127.0.0.1:%d\n", words, scene.archive.AET, scene.archive.DicomPort)
	if err := scene.sendAndWait(ctx, files, s); err != nil {
		return err
	}
	failures, err := scene.inspect(ctx, files)
	if err != nil {
		return err
	}
	printTable(s, files)
	printSummary(s, files, failures)
	keepLogs = len(failures) > 0
	if o.photo != "" {
		return scene.photograph(ctx, o.photo, files)
	}
	if o.once {
		if len(failures) > 0 {
			return errIncomplete
		}
		return nil
	}
	scene.printAddresses(s)
	select {
	case <-ctx.Done():
		return nil
	case <-scene.router.ended:
		return fmt.Errorf("the router has ended: %s", scene.router.lastLines())
	}
}

// workFolder makes a folder for this run and takes away those of runs that were killed. The lock tells them from one that still runs.
func workFolder(base string) (dir string, unlock func(), err error) {
	if err := os.MkdirAll(base, 0o750); err != nil {
		return "", nil, err
	}
	old, err := filepath.Glob(filepath.Join(base, "run-*"))
	if err != nil {
		return "", nil, err
	}
	for _, folder := range old {
		if release, err := lock(folder); err == nil {
			err = os.RemoveAll(folder)
			release()
			if err != nil {
				return "", nil, err
			}
		}
	}
	if dir, err = os.MkdirTemp(base, "run-"); err != nil {
		return "", nil, err
	}
	unlock, err = lock(dir)
	return dir, unlock, err
}

// lock takes the folder for this process. The kernel gives it back when the process ends, however it ends.
func lock(folder string) (release func(), err error) {
	f, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// cleanUp removes the run's folder. After a failure the logs stay, and never the pictures: they may be a user's own.
func cleanUp(dir string, keepLogs bool, s *screen) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*", "orthanc.log"))
	if !keepLogs || err != nil || len(logs) == 0 {
		return errors.Join(err, os.RemoveAll(dir))
	}
	for _, part := range []string{"xrays", "archive/storage", chestAI + "/storage", spineAI + "/storage"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, part)))
	}
	s.say("the logs are in %s until the next run", dir)
	return err
}

// screen is where the demo writes: a terminal, where one line is redrawn, or a log, where a line comes now and then.
type screen struct {
	w        io.Writer
	terminal bool
	drawn    bool
	last     time.Time
	text     string
}

func newScreen(f *os.File) *screen { return &screen{w: f, terminal: isatty.IsTerminal(f.Fd())} }

func (s *screen) say(format string, args ...any) {
	s.endLine()
	fmt.Fprintf(s.w, format+"\n", args...)
}

// progress shows where things stand.
func (s *screen) progress(text string, since time.Duration) {
	line := fmt.Sprintf("%s · %.0f s", text, since.Seconds())
	if s.terminal {
		fmt.Fprint(s.w, "\r\x1b[K"+line)
		s.drawn = true
		return
	}
	quiet := time.Since(s.last)
	if text != s.text && quiet > 3*time.Second || quiet > 30*time.Second {
		fmt.Fprintln(s.w, line)
		s.last, s.text = time.Now(), text
	}
}

// endLine ends the line that is being redrawn.
func (s *screen) endLine() {
	if s.drawn {
		fmt.Fprintln(s.w)
		s.drawn = false
	}
}
