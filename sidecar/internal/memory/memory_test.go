package memory

import (
	"context"
	"errors"
	"math"
	"runtime/debug"
	"strings"
	"testing"
)

func TestBudget(t *testing.T) {
	b := NewBudget(100 << 20)
	first, err := b.Take(t.Context(), 60<<20)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Take(short, 50<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("110 MiB of 100 were given out: %v", err)
	}
	got := make(chan func())
	go func() {
		second, err := b.Take(t.Context(), 50<<20)
		if err != nil {
			t.Error(err)
		}
		got <- second
	}()
	select {
	case <-got:
		t.Fatal("the second did not wait")
	default:
	}
	first()
	(<-got)()
	var much *TooMuch
	if _, err := b.Take(t.Context(), 101<<20); !errors.As(err, &much) || !strings.Contains(err.Error(), "101 MiB of memory are needed, memory.limit leaves 100 MiB") {
		t.Errorf("more than there is: %v", err)
	}
	all, err := b.Take(t.Context(), 100<<20)
	if err != nil {
		t.Fatalf("not everything was given back: %v", err)
	}
	all()
}

func TestNoBudget(t *testing.T) {
	var none *Budget
	giveBack, err := none.Take(t.Context(), math.MaxInt64)
	if err != nil || none.Size() != 0 {
		t.Fatalf("%v, %d", err, none.Size())
	}
	giveBack()
	if s := Limit(0); s.Files != nil || s.Pictures != nil {
		t.Errorf("%+v", s)
	}
}

func TestLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	s := Limit(2 << 30)
	if heap := debug.SetMemoryLimit(-1); heap >= 2<<30 || heap < 1<<30 {
		t.Errorf("Go's limit is %d", heap)
	}
	if sum := s.Files.Size() + s.Pictures.Size(); sum+Outside != 2<<30 || s.Files.Size() != 512<<20 {
		t.Errorf("files %d, pictures %d", s.Files.Size(), s.Pictures.Size())
	}
	if s := Limit(1); s.Files.Size() <= 0 || s.Pictures.Size() <= 0 {
		t.Errorf("a tiny limit leaves %+v", s)
	}
}
