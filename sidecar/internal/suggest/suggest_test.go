package suggest

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"class", "confidence", "probabilities", "review"}
	for word, want := range map[string]string{
		"clas": "class", "klass": "class", "Class": "class", "confidenc": "confidence", "probability": "probabilities",
		"reviewed": "review", "station": "", "x": "", "": "",
	} {
		got, ok := Nearest(word, known)
		if got != want || ok != (want != "") {
			t.Errorf("Nearest(%q) = %q, %v; want %q", word, got, ok, want)
		}
	}
	if _, ok := Nearest("class", nil); ok {
		t.Error("a suggestion out of nothing")
	}
}

func TestDidYouMean(t *testing.T) {
	for word, want := range map[string]string{
		"spine":  `, did you mean "spine-ai"?`,
		"radius": " (known: chest-ai, spine-ai)",
	} {
		if got := DidYouMean(word, []string{"chest-ai", "spine-ai"}); got != want {
			t.Errorf("DidYouMean(%q) = %q, want %q", word, got, want)
		}
	}
	if got := DidYouMean("x", nil); got != "" {
		t.Errorf("with nothing known: %q", got)
	}
}
