package layout

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzTemplate looks for a template and values that lead out of the folder: what Check takes and Name then gives is a path inside it.
func FuzzTemplate(f *testing.F) {
	f.Add(Default, "spine", "s", "e", "i", "d")
	f.Add("../{instance}", "", "", "", "i", "")
	f.Add("{class}../{instance}", "", "", "", "i", "")
	f.Add("{date}/{series}-{delivery}/{instance}.dcm", "..", "/", "a/../..", "{instance}", "\x00")
	f.Fuzz(func(t *testing.T, template, class, study, series, instance, delivery string) {
		if err := Check(template); err != nil {
			if err.Error() == "" {
				t.Errorf("%q is refused without a reason", template)
			}
			return
		}
		v := Values{Class: class, Study: study, Series: series, Instance: instance, Delivery: delivery, Received: time.Unix(0, 0)}
		name, err := Name(template, v)
		if err != nil {
			if strings.Contains(err.Error(), "..") {
				t.Errorf("the error repeats a value: %v", err)
			}
			return
		}
		inside, err := filepath.Rel("/folder", filepath.Join("/folder", filepath.FromSlash(name)))
		if err != nil || !filepath.IsLocal(inside) || inside == "." {
			t.Errorf("%q with %+v leads out of the folder: %q", template, v, name)
		}
	})
}
