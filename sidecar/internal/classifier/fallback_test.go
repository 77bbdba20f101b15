package classifier

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	ort "github.com/yalue/onnxruntime_go"
)

// lost is a session whose device is gone. No machine without a GPU can lose one, so it stands in for ONNX Runtime's.
type lost struct{ runs, destroyed atomic.Int32 }

var errDeviceLost = errors.New("device lost")

func (l *lost) Run([]ort.Value, []ort.Value) error { l.runs.Add(1); return errDeviceLost }
func (l *lost) Destroy() error                     { l.destroyed.Add(1); return nil }

// notes collects what FellBack hears.
type notes struct {
	mu   sync.Mutex
	said []string
}

func (n *notes) fellBack(from, to string, cause error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.said = append(n.said, fmt.Sprintf("%s to %s: %v", from, to, cause))
}

// A device that is lost while pictures are looked at: the next provider looks at the same pictures, and somebody hears of it, once.
func TestFallsBackInMidRun(t *testing.T) {
	requireRuntime(t)
	var n notes
	dir := folder(t, "tiny.onnx")
	c, err := Load(dir, Options{Provider: "cpu", Threads: 1, FellBack: n.fellBack})
	if err != nil {
		t.Fatal(err)
	}
	want, err := c.Logits(context.Background(), grey(0.5))
	if err != nil {
		t.Fatal(err)
	}
	working, gone := c.session, &lost{}
	if c.network, err = c.model.readNetwork(dir); err != nil {
		t.Fatal(err)
	}
	c.session, c.provider, c.next = gone, "cuda", []string{"cpu"}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			got, err := c.Logits(context.Background(), grey(0.5))
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%v, %v; want %v", got, err, want)
			}
		})
	}
	group.Wait()
	if c.Provider() != "cpu" || gone.runs.Load() == 0 || gone.destroyed.Load() != 0 {
		t.Errorf("provider %s after %d runs of the lost one", c.Provider(), gone.runs.Load())
	}
	if len(n.said) != 1 || n.said[0] != "cuda to cpu: run tiny@1.0.0: device lost" {
		t.Errorf("heard: %q", n.said)
	}
	if err := errors.Join(c.Close(), working.Destroy()); err != nil {
		t.Error(err)
	}
}

// Without a next provider the error stays, and so does the session: the device may come back.
func TestNothingToFallBackTo(t *testing.T) {
	requireRuntime(t)
	c := load(t, folder(t, "tiny.onnx"))
	working, gone := c.session, &lost{}
	c.session = gone
	for range 2 {
		if _, err := c.Logits(context.Background(), grey(0.5)); !errors.Is(err, errDeviceLost) {
			t.Errorf("%v", err)
		}
	}
	c.session = working
	if _, err := c.Logits(context.Background(), grey(0.5)); err != nil {
		t.Errorf("after its return: %v", err)
	}
}

// A provider that this machine does not have is passed over at the start where the order names another one, and somebody hears of it.
func TestOrderOfProviders(t *testing.T) {
	requireRuntime(t)
	var n notes
	c, err := Load(folder(t, "tiny.onnx"), Options{Provider: "tensorrt, CPU", Threads: 1, FellBack: n.fellBack})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if c.Provider() != "cpu" || len(n.said) != 1 || !strings.HasPrefix(n.said[0], "tensorrt to cpu: execution provider tensorrt does not work with this ONNX Runtime") {
		t.Errorf("%s; heard: %q", c.Provider(), n.said)
	}
	for order, want := range map[string]string{
		"cuda,cuda": "execution provider cuda is named twice", "cpu,": `unknown execution provider ""`, "cpu, gpu": `unknown execution provider " gpu"`,
	} {
		if _, err := Load(folder(t, "tiny.onnx"), Options{Provider: order}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", order, err)
		}
	}
	_, err = Load(folder(t, "tiny.onnx"), Options{Provider: "tensorrt,cuda"})
	if err == nil || !strings.Contains(err.Error(), "provider tensorrt does not") || !strings.Contains(err.Error(), "provider cuda does not") {
		t.Errorf("none works: %v", err)
	}
}

// What is wrong with the picture is not the provider's fault.
func TestNoFallBackForAPicture(t *testing.T) {
	requireRuntime(t)
	c := load(t, folder(t, "tiny.onnx"))
	c.next = []string{"xnnpack"}
	tensor := grey(0.5)
	tensor[3] = float32(math.NaN())
	if _, err := c.Logits(context.Background(), tensor); !errors.Is(err, errNotFinite) || len(c.next) != 1 {
		t.Errorf("%v, next %v", err, c.next)
	}
}
