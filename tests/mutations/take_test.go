package mutations

import (
	"bytes"
	"testing"
)

// A file that is taken apart and put together is the same file but for its meta header's length, and a number makes one mutant only.
func TestTake(t *testing.T) {
	files := drawn(t)
	corpus, whole := corpora(t)
	t.Logf("%d drawn files; %d of %d real ones can be taken apart", len(files), len(corpus), len(whole))
	if whole != nil && len(corpus) < len(whole)*3/4 {
		t.Errorf("too few of the real files can be taken apart")
	}
	for _, f := range append(files, corpus...) {
		again, ok := take(f.name, f.bytes())
		if !ok || len(again.set) != len(f.set) || !bytes.Equal(again.bytes(), f.bytes()) {
			t.Errorf("%s (%s) is another file when it is put together", f.name, f.syntax())
		}
	}
	kinds := map[string]bool{}
	for i := range 300 {
		m, same := mutate(files, 1, i), mutate(files, 1, i)
		if !bytes.Equal(m.content, same.content) || m.name != same.name {
			t.Fatalf("mutant %d is not always the same", i)
		}
		if i > 0 && bytes.Equal(m.content, mutate(files, 1, i-1).content) {
			t.Errorf("mutants %d and %d are alike", i-1, i)
		}
		kinds[m.name] = true
	}
	if len(kinds) < 200 {
		t.Errorf("only %d kinds of mutants", len(kinds))
	}
}
