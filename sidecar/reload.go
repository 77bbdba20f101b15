package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/metrics"
	"imagingrouter/sidecar/internal/rules"
)

// reloader puts the rules of a changed configuration file in force without a restart. Everything else in the file waits for one.
type reloader struct {
	running *config.Config // as the router was started with it
	rules   *rules.Current
	metrics *metrics.Metrics
	log     zerolog.Logger
	signals chan os.Signal
	mu      sync.Mutex // one at a time
}

// newReloader also takes SIGHUP from now on, which ends a program that does not ask for it.
func newReloader(c *config.Config, log zerolog.Logger) *reloader {
	r := &reloader{running: c, rules: rules.NewCurrent(c.Rules), log: log, signals: make(chan os.Signal, 1)}
	signal.Notify(r.signals, syscall.SIGHUP)
	return r
}

// run reloads at every SIGHUP until ctx ends.
func (r *reloader) run(ctx context.Context) {
	defer signal.Stop(r.signals)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.signals:
			_, _ = r.reload() // it has logged what was wrong
		}
	}
}

// reloaded is what a reload has changed, and what it could not.
type reloaded struct {
	Rules   int      `json:"rules"`
	Restart []string `json:"restart_needed_for"` // sections of the file that have changed, too
}

// reload reads the file again and puts its rules in force, all at once: what is being decided at this moment is decided by the old ones or
// by the new ones. When anything is wrong with the file, the rules that are in force stay.
func (r *reloader) reload() (reloaded, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := config.Load(r.running.Path)
	if err == nil {
		err = errors.Join(r.reachable(c), r.written())
	}
	r.metrics.Reloaded(err == nil, time.Now())
	if err != nil {
		r.log.Error().Err(err).Str("file", r.running.Path).Msg("the configuration was not reloaded: the rules stay as they were")
		return reloaded{}, err
	}
	for _, w := range c.Warnings {
		r.log.Warn().Msg(w)
	}
	r.rules.Use(c.Rules)
	done := reloaded{Rules: c.Rules.Len(), Restart: r.running.Differs(c)}
	event := r.log.Info()
	if len(done.Restart) > 0 {
		event = r.log.Warn().Str("restart_needed_for", strings.Join(done.Restart, ", "))
	}
	event.Str("file", r.running.Path).Int("rules", done.Rules).Msg("rules reloaded")
	return done, nil
}

// written refuses an empty file: an editor that is just writing it, or a disk that was full, must not switch all rules off. (At the start an
// empty file is a configuration of nothing but defaults.)
func (r *reloader) written() error {
	content, err := os.ReadFile(r.running.Path)
	if err == nil && strings.TrimSpace(string(content)) == "" {
		return fmt.Errorf("%s is empty", r.running.Path)
	}
	return err
}

// reachable refuses rules that send to a destination which the running router does not have: it has no queue for it.
func (r *reloader) reachable(c *config.Config) error {
	var faults []error
	for _, rule := range c.RuleList {
		for _, to := range rule.To {
			if !slices.Contains(r.running.DestinationNames(), to) {
				faults = append(faults, fmt.Errorf("rule %q: destination %q is new since the router was started: restart it", rule.Name, to))
			}
		}
	}
	return errors.Join(faults...)
}
