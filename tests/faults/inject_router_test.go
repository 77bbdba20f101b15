package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func (w *world) killRouter(f *fault) error {
	for range 1 + f.random.IntN(3) {
		w.hurry(1)
		time.Sleep(f.span(50, 1500))
		if err := w.router.Kill(); err != nil {
			return err
		}
		time.Sleep(f.span(0, 700))
		if f.random.IntN(3) == 0 { // and once more while it starts
			started := make(chan error, 1)
			go func() { started <- w.router.Start(w.ctx) }()
			time.Sleep(f.span(100, 900))
			err := w.router.Kill()
			<-started // with or without an error: it was killed, or was faster, or slower
			if err := errors.Join(err, w.router.Kill()); err != nil {
				return err
			}
		}
		if err := w.router.Start(w.ctx); err != nil {
			return err
		}
	}
	return nil
}

// point is a moment in the router's work, as a trap between it and the archive knows it.
type point struct {
	matches func() func(method, path string) bool // made anew for each trap
	after   func(answer []byte) bool
}

func request(method, prefix, suffix string) func() func(method, path string) bool {
	return func() func(m, path string) bool {
		return func(m, path string) bool {
			return m == method && strings.HasPrefix(path, prefix) && strings.HasSuffix(path, suffix)
		}
	}
}

var (
	// The file has been fetched and looked at; whether it is still the same content is asked next.
	afterFetch = point{matches: func() func(method, path string) bool {
		fetched := map[string]bool{}
		return func(_, path string) bool {
			id, what, _ := strings.Cut(strings.TrimPrefix(path, "/instances/"), "/")
			if what == "file" {
				fetched[id] = true
			}
			return what == "attachments/dicom/info" && fetched[id]
		}
	}}
	// The result is committed, and publishing begins: what Orthanc shows is read.
	afterResult = point{matches: request(http.MethodGet, "/instances/", "/metadata/5111")}
	// The metadata are written, and now comes the label of series or study.
	beforeLabel = point{matches: func() func(method, path string) bool {
		return func(method, path string) bool { return method == http.MethodPut && strings.Contains(path, "/labels/") }
	}}
	// The delivery is on disk as being submitted.
	beforeSubmit = point{matches: request(http.MethodPost, "/peers/", "/store")}
	// Orthanc has the job, and the router no answer.
	afterSubmit = point{matches: request(http.MethodPost, "/peers/", "/store"), after: func([]byte) bool { return true }}
	// The job has ended, and the router has not heard of it.
	afterArrival = point{matches: request(http.MethodGet, "/jobs/", ""), after: func(answer []byte) bool {
		var job struct{ State string }
		return json.Unmarshal(answer, &job) == nil && job.State == "Success"
	}}
)

// await has things sent until the router comes to a point, and holds it there until the front lets it go.
func (w *world) await(f *fault, p point) {
	t := w.front.lay(p.matches(), p.after)
	for range 40 {
		w.hurry(1)
		select {
		case <-t.caught:
			return
		case <-time.After(500 * time.Millisecond):
		}
	}
	f.notef("the point did not come") // the archive is away as well, perhaps
}

// killAt kills the router at a point of its work. Things are sent until it comes there.
func killAt(p point) func(w *world, f *fault) error {
	return func(w *world, f *fault) error {
		defer w.front.letGo()
		w.await(f, p)
		time.Sleep(f.span(0, 50))
		if err := w.router.Kill(); err != nil {
			return err
		}
		w.front.letGo()
		time.Sleep(f.span(0, 700))
		return w.router.Start(w.ctx)
	}
}

// shiftClock: the clock was ahead (1) or behind (-1) and has been set right, while the router was down. Go asks the kernel for the time without a
// call that could be intercepted, so the times in the database are moved instead.
func shiftClock(sign int) func(w *world, f *fault) error {
	return func(w *world, f *fault) error {
		w.hurry(2)
		time.Sleep(f.span(0, 700))
		by := time.Duration(sign*(10+f.random.IntN(600))) * time.Minute
		f.notef("by %s", -by)
		if err := errors.Join(w.router.Kill(), w.router.ShiftClock(w.ctx, by)); err != nil {
			return err
		}
		return w.router.Start(w.ctx)
	}
}

// refused starts the router, which must not be possible, and must be explained in these words.
func (w *world) refused(words ...string) error {
	before := len(w.router.Log())
	err := w.router.Start(w.ctx)
	if err == nil {
		return errors.Join(errors.New("the router has started all the same"), w.router.Kill())
	}
	select {
	case <-w.router.Ended():
	default:
		return errors.Join(errors.New("the router neither started nor ended"), w.router.Kill())
	}
	said := w.router.Log()[before:]
	for _, word := range words {
		if !strings.Contains(said, word) {
			return fmt.Errorf("the router did not start, as it should; but it did not say %q:\n%s", word, said)
		}
	}
	return nil
}

func junk(f *fault, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(f.random.IntN(256))
	}
	return out
}

// spoiltModel overwrites a file of the model until restore is called.
func (w *world) spoiltModel(f *fault) (file string, restore func() error, err error) {
	file = w.pathOf(filepath.Join("model", []string{"model.onnx", "model.yaml"}[f.random.IntN(2)]))
	sound, err := os.ReadFile(file)
	if err != nil {
		return file, nil, err
	}
	f.notef("%s", filepath.Base(file))
	return file, func() error { return os.WriteFile(file, sound, 0o600) }, os.WriteFile(file, junk(f, 5000), 0o600)
}

// spoilModelAtReload: a running router has its model, and a reload does not read it again.
func (w *world) spoilModelAtReload(f *fault) error {
	_, restore, err := w.spoiltModel(f)
	if err != nil {
		return err
	}
	before := strings.Count(w.router.Log(), `"rules reloaded"`)
	if err := w.router.Signal(syscall.SIGHUP); err != nil {
		return errors.Join(err, restore())
	}
	w.hurry(2)
	err = w.eventually("the rules are reloaded", func() error {
		if strings.Count(w.router.Log(), `"rules reloaded"`) == before {
			return errors.New("not yet")
		}
		return nil
	})
	time.Sleep(f.span(500, 2500))
	return errors.Join(err, restore())
}

func (w *world) spoilModelAtStart(f *fault) error {
	w.hurry(1)
	if err := w.router.Kill(); err != nil {
		return err
	}
	file, restore, err := w.spoiltModel(f)
	if err != nil {
		return err
	}
	if err := errors.Join(w.refused(file), restore()); err != nil {
		return err
	}
	return w.router.Start(w.ctx)
}

// withRuntime has the router find another ONNX Runtime, with which it must not start.
func (w *world) withRuntime(put func(at string) error, words ...string) error {
	w.hurry(1)
	sound, err := os.Readlink(w.runtime)
	if err != nil {
		return err
	}
	if err := errors.Join(w.router.Kill(), os.Remove(w.runtime), put(w.runtime)); err != nil {
		return err
	}
	err = w.refused(words...)
	if there := os.Remove(w.runtime); there != nil && !errors.Is(there, os.ErrNotExist) {
		err = errors.Join(err, there)
	}
	if err := errors.Join(err, os.Symlink(sound, w.runtime)); err != nil {
		return err
	}
	return w.router.Start(w.ctx)
}

func (w *world) missRuntime(_ *fault) error {
	return w.withRuntime(func(string) error { return nil }, "ONNX Runtime", w.runtime)
}

// oldLibrary is an ONNX Runtime that knows no version of its interface: what one that is too old says of a newer one.
const oldLibrary = `
#include <stddef.h>
#include <stdint.h>
typedef struct { const void *(*GetApi)(uint32_t); const char *(*GetVersionString)(void); } OrtApiBase;
static const void *api(uint32_t version) { (void)version; return NULL; }
static const char *version(void) { return "1.9.0"; }
static const OrtApiBase base = {api, version};
const OrtApiBase *OrtGetApiBase(void) { return &base; }
`

func (w *world) oldRuntime(_ *fault) error {
	return w.withRuntime(func(at string) error {
		source := w.pathOf("old.c")
		if err := os.WriteFile(source, []byte(oldLibrary), 0o600); err != nil {
			return err
		}
		if output, err := exec.CommandContext(w.ctx, "gcc", "-shared", "-fPIC", "-o", at, source).CombinedOutput(); err != nil {
			return fmt.Errorf("gcc: %w\n%s", err, output)
		}
		return nil
	}, w.runtime+" is older than the version 1.24 that is needed")
}
