package delivery

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/time/rate"
)

// Gate stands before a destination: it lets no more through than the site allows, and nothing while the destination is found not to take it.
type Gate struct {
	breaker *gobreaker.CircuitBreaker[struct{}] // nil: never closes
	limit   *rate.Limiter
	excused func(error) bool

	mu     sync.Mutex
	failed map[string]struct{} // deliveries that failed since the last success
}

// GateOptions says what a gate lets through.
type GateOptions struct {
	Failures      int           // it closes when so many different deliveries failed with no success between them; 0 = never
	Pause         time.Duration // until one delivery tries the destination again
	MostPerMinute int           // attempts; 0 = no limit
	// Excused says of an error that it is not the destination's fault.
	Excused func(error) bool
	// Changed hears that the gate has closed or opened. It must not block.
	Changed func()
}

// ErrClosed says that nothing was sent, because the destination is being left alone.
var ErrClosed = errors.New("the destination is left alone for a while: it did not take what was sent before")

// NewGate returns an open gate.
//
// Different deliveries are counted, and not attempts: a single picture that a destination never takes must not keep the others from it.
func NewGate(name string, o GateOptions) *Gate {
	g := &Gate{failed: map[string]struct{}{}, limit: rate.NewLimiter(rate.Inf, 1), excused: o.Excused}
	if g.excused == nil {
		g.excused = func(error) bool { return false }
	}
	if o.MostPerMinute > 0 {
		g.limit = rate.NewLimiter(rate.Every(time.Minute/time.Duration(o.MostPerMinute)), 1)
	}
	if o.Failures > 0 {
		g.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
			Name: name, MaxRequests: 1, Timeout: o.Pause,
			ReadyToTrip: func(gobreaker.Counts) bool { return g.failing() >= o.Failures },
			IsExcluded:  g.excused,
			OnStateChange: func(string, gobreaker.State, gobreaker.State) {
				if o.Changed != nil {
					o.Changed()
				}
			},
		})
	}
	return g
}

// Pass sends, when the gate is open and the rate allows it; it waits for the latter. ErrClosed when the gate is not: nothing was sent then.
func (g *Gate) Pass(ctx context.Context, delivery string, send func() error) error {
	attempt := func() (struct{}, error) {
		if err := g.limit.Wait(ctx); err != nil {
			return struct{}{}, errors.Join(context.Canceled, err) // the router is stopping
		}
		err := send()
		g.note(delivery, err)
		return struct{}{}, err
	}
	if g.breaker == nil {
		_, err := attempt()
		return err
	}
	_, err := g.breaker.Execute(attempt)
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return ErrClosed
	}
	return err
}

func (g *Gate) note(delivery string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil:
		clear(g.failed)
	case !g.excused(err):
		g.failed[delivery] = struct{}{}
	}
}

func (g *Gate) failing() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.failed)
}

// State is how a gate stands.
type State string

// The states of a gate.
const (
	GateOpen   State = "open"   // everything goes through
	GateClosed State = "closed" // nothing does
	GateTrial  State = "trial"  // one delivery finds out whether the destination is back
)

// State returns how the gate stands.
func (g *Gate) State() State {
	if g.breaker == nil {
		return GateOpen
	}
	switch g.breaker.State() {
	case gobreaker.StateOpen:
		return GateClosed
	case gobreaker.StateHalfOpen:
		return GateTrial
	case gobreaker.StateClosed:
	}
	return GateOpen
}
