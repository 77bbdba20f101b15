// Package memory keeps the running router under its configured limit: it sets Go's own limit, and shares what is left for files and
// pictures among those who work at the same time. Who needs more than is free waits; who needs more than there ever is hears so.
package memory

import (
	"context"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/semaphore"
)

// What the limit is divided into. The shares are those of the tests in tests/mutations and of docs/configuration.md.
const (
	// Outside is what the process holds beside the files and pictures that it works on: ONNX Runtime with its network, SQLite's caches,
	// the program itself, and what of the heap is garbage and not collected yet.
	Outside = int64(512) << 20
	// Least is the smallest limit with which a usual X-ray can be read.
	Least = int64(768) << 20
	// native is the part of Outside that is not Go's heap.
	native = int64(192) << 20
)

// Budget is bytes that some share. The nil Budget has no bound.
type Budget struct {
	size int64
	free *semaphore.Weighted
}

// NewBudget returns a budget of so many bytes.
func NewBudget(size int64) *Budget { return &Budget{size: size, free: semaphore.NewWeighted(size)} }

// Size returns the bytes that there are, 0 for no bound.
func (b *Budget) Size() int64 {
	if b == nil {
		return 0
	}
	return b.size
}

// TooMuch says that something needs more than the whole budget. Waiting would not help.
type TooMuch struct{ Need, Size int64 }

// Error names the setting that would help.
func (e *TooMuch) Error() string {
	return fmt.Sprintf("%d MiB of memory are needed, memory.limit leaves %d MiB for it", (e.Need+1<<20-1)>>20, e.Size>>20)
}

// Take waits until n bytes are free, takes them, and returns what gives them back; call that once. Its error is a *TooMuch, or ctx's.
func (b *Budget) Take(ctx context.Context, n int64) (giveBack func(), err error) {
	if b == nil || n <= 0 {
		return func() {}, nil
	}
	if n > b.size {
		return nil, &TooMuch{Need: n, Size: b.size}
	}
	if err := b.free.Acquire(ctx, n); err != nil {
		return nil, fmt.Errorf("wait for %d MiB of memory: %w", n>>20, err)
	}
	return func() { b.free.Release(n) }, nil
}

// Shares is what files as they were fetched, and pictures made of them, may take. Whoever needs both takes of Files first and gives
// back of Pictures first: so nobody waits in a circle.
type Shares struct{ Files, Pictures *Budget }

// Limit holds Go's heap under limit bytes of the whole process, and returns how the rest is shared: a third for files, two thirds for pictures.
// 0 is no limit. A limit under Least counts as Least.
func Limit(limit int64) Shares {
	if limit <= 0 {
		return Shares{}
	}
	limit = max(limit, Least)
	debug.SetMemoryLimit(limit - native)
	rest := limit - Outside
	return Shares{Files: NewBudget(rest / 3), Pictures: NewBudget(rest - rest/3)}
}
