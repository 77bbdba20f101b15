package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// reload asks the running router to read its configuration again.
func (w *world) reload() (status int, answer struct {
	Error   string
	Rules   int
	Restart []string `json:"restart_needed_for"`
}) {
	w.Helper()
	status, body, err := w.router.Do(w.Context(), http.MethodPost, "/-/reload", nil)
	w.must(err)
	w.must(json.Unmarshal(body, &answer))
	return status, answer
}

// Rules change without a restart, by request and by signal. A file with a fault changes nothing, and is told about.
func TestReload(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		spineTo := func(destination string) routertest.Settings {
			return routertest.Settings{"rules": []any{rule("spines", `class == "spine"`, destination)}}
		}
		w := newWorld(t, version, plan{hook: true, settings: spineTo(spineAI)})
		w.begun()
		send := func(to string) {
			t.Helper()
			x := of(t, "spine")
			w.upload(x)
			w.idle()
			for _, name := range w.names() {
				w.sentTo(name, x, map[bool]int{true: 1}[name == to])
			}
		}
		send(spineAI)
		first := w.metrics()["imaging_router_config_reload_success_timestamp_seconds"]

		w.router.Configure(spineTo(chestAI))
		w.must(w.router.Rewrite())
		send(spineAI) // a changed file alone changes nothing
		if status, _, err := w.router.As(t.Context(), "wrong-token", http.MethodPost, "/-/reload", nil); err != nil || status != http.StatusUnauthorized {
			t.Errorf("a stranger reloads: HTTP %d, %v", status, err)
		}
		send(spineAI)
		if status, answer := w.reload(); status != http.StatusOK || answer.Rules != 1 || len(answer.Restart) != 0 {
			t.Errorf("HTTP %d: %+v", status, answer)
		}
		send(chestAI)
		if m := w.metrics(); m.Sum("config_reload_success") != 1 || m["imaging_router_config_reload_success_timestamp_seconds"] <= first {
			t.Error("the metrics do not tell of the reload")
		}

		// By signal; and what needs a restart is named.
		w.router.Configure(spineTo(spineAI))
		w.router.Configure(routertest.Settings{"jobs": routertest.Settings{"backoff_max": "3s"}})
		w.must(w.router.Rewrite())
		w.must(w.router.Signal(syscall.SIGHUP))
		w.eventually("the signal reloads", func() error {
			if !contains(w.router.Log(), `"restart_needed_for":"jobs"`) {
				return fmt.Errorf("the log does not say so")
			}
			return nil
		})
		send(spineAI)

		// Faults of every kind: the rules stay.
		file := filepath.Join(w.router.Dir, "config.yaml")
		good, err := os.ReadFile(file)
		w.must(err)
		for name, c := range map[string]struct{ text, want string }{
			"no YAML":             {"rules: [", "config.yaml:1"},
			"a slip":              {strings.Replace(string(good), `class == \"spine\"`, `clas == \"spine\"`, 1), `"clas" does not exist, did you mean "class"?`},
			"another place":       {strings.Replace(string(good), `"batch"`, `"x"`, 1) + " {", "config.yaml:"},
			"unknown destination": {strings.Replace(string(good), `"to": [`, `"to": ["nowhere",`, 1), `unknown destination "nowhere"`},
			"new destination": {strings.NewReplacer(`"destinations": [`, `"destinations": [{"name": "new"},`, `"to": [`, `"to": ["new",`).Replace(string(good)),
				`destination "new" is new since the router was started`},
			"gone":    {"", "no such file"},
			"written": {"\n", "config.yaml is empty"},
		} {
			w.must(os.Remove(file))
			if c.text != "" {
				w.must(os.WriteFile(file, []byte(c.text), 0o600))
			}
			if status, answer := w.reload(); status != http.StatusUnprocessableEntity || !contains(answer.Error, c.want) {
				t.Errorf("%s: HTTP %d: %+v", name, status, answer)
			}
			if m := w.metrics(); m.Sum("config_reload_success") != 0 {
				t.Errorf("%s: the metrics say that all is well", name)
			}
			w.must(os.WriteFile(file, good, 0o600))
		}
		if !contains(w.router.Log(), "the rules stay as they were") {
			t.Error("the log does not say so")
		}
		send(spineAI)
		if status, _ := w.reload(); status != http.StatusOK || w.metrics().Sum("config_reload_success") != 1 {
			t.Error("the good file is not taken again")
		}
	})
}

// Reloads without pause, while X-rays arrive: each goes to the one place or the other, once.
func TestReloadLosesNothing(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		to := func(destination string) routertest.Settings {
			return routertest.Settings{"rules": []any{rule("spines", `class == "spine" && modality == "DX"`, destination)}}
		}
		w := newWorld(t, version, plan{hook: true, settings: to(spineAI)})
		w.begun()
		stop, stopped, reloads := make(chan struct{}), make(chan struct{}), 0
		go func() {
			defer close(stopped)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
				w.router.Configure(to([]string{chestAI, spineAI}[n%2]))
				if err := w.router.Rewrite(); err != nil {
					t.Error(err)
					return
				}
				if err := w.router.Signal(syscall.SIGHUP); err != nil {
					t.Error(err)
					return
				}
				reloads++
			}
		}()
		var files []*xray
		for range 30 {
			files = append(files, of(t, "spine"))
		}
		w.upload(files...)
		w.idle()
		close(stop)
		<-stopped
		if reloads < 10 {
			t.Errorf("%d reloads only: this test proves little", reloads)
		}
		sent := map[string]int{}
		for _, x := range files {
			n := 0
			for _, name := range w.names() {
				passed := w.destinations[name].proxy.Passed()[x.sop]
				n, sent[name] = n+passed, sent[name]+passed
			}
			if n != 1 {
				t.Errorf("%s was sent %d times", x.id, n)
			}
		}
		t.Logf("%d reloads, sent %v", reloads, sent)
		if contains(w.router.Log(), "was not reloaded") {
			t.Error("a good file was refused")
		}
	})
}
