package e2e

import (
	"bytes"
	"image"
	"image/color"
	"imagingrouter/tests/routertest"
	"testing"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
)

// An age that contradicts the network, or of which it knows nothing, and a plate without a picture: a person looks, and nothing is forwarded.
func TestReview(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true})
		aged := func(age string) func(*phantom.Options) { return func(o *phantom.Options) { o.PatientAge = age } }
		flat := image.NewGray(image.Rect(0, 0, 300, 400))
		for i := range flat.Pix {
			flat.Pix[i] = color.Gray{Y: 90}.Y
		}
		review := map[string]*xray{
			"age_contradicts": of(t, "adult_chest", aged("005Y")),
			"age_ambiguous":   of(t, "adult_chest", aged("015Y")),
			"blank":           write(t, "blank plate", phantom.Options{Class: "others", Picture: flat}),
		}
		child := of(t, "pediatric_chest", aged("040Y"))
		certain := []*xray{of(t, "adult_chest", aged("018Y")), of(t, "pediatric_chest", aged("012Y")), of(t, "spine", aged("015Y"))}
		w.begun()
		all := append([]*xray{child}, certain...)
		for _, x := range review {
			all = append(all, x)
		}
		w.upload(all...)
		w.allRight(all, 1)
		for reason, x := range review {
			if s := w.see(x); s.Said != "review" || !contains(s.Result, `"`+reason+`"`) {
				t.Errorf("%s: %s", reason, s.Result)
			}
		}
		if s := w.see(child); s.Said != "review" || !contains(s.Result, `"age_contradicts"`) {
			t.Errorf("a child's chest of forty years: %s", s.Result)
		}
		for _, x := range certain {
			if s := w.see(x); s.Said != x.class {
				t.Errorf("%s: %s", x.class, s.Result)
			}
		}
	})
}

// No tag of a patient, study or series reaches the router's database, log, metrics or commands, of good files and of bad ones.
func TestNoPatientData(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true})
		w.router.Configure(routertest.Settings{"log": routertest.Settings{"level": "trace"}})
		w.begun()
		x := of(t, "abdominal", func(o *phantom.Options) { o.BodyPartExamined = "QZJXKVWPART" })
		secrets := []string{"QZJXKVW", x.study, x.series, x.sop}
		x.file = named(x.file)
		w.upload(x)
		ids := []string{x.id}
		for _, file := range [][]byte{before(of(t, "spine").file, pixelData), pixels(of(t, "spine").file, make([]byte, 100)), compressed(of(t, "spine").file, "1.2.840.10008.1.2.4.90")} {
			id, err := w.archive.Upload(t.Context(), named(file))
			w.must(err)
			var instance struct{ MainDicomTags map[string]string }
			w.must(w.archive.GetJSON(t.Context(), "/instances/"+id, &instance))
			secrets, ids = append(secrets, instance.MainDicomTags["SOPInstanceUID"]), append(ids, id)
		}
		w.destinations[spineAI].proxy.Set(routertest.Refuse) // a delivery that fails says why
		y := of(t, "spine")
		secrets, y.file = append(secrets, y.study, y.series, y.sop), named(y.file)
		w.upload(y)
		w.failing(spineAI)
		w.destinations[spineAI].proxy.Set(routertest.Pass)
		w.allRight([]*xray{x, y}, 1)

		written, err := w.router.Bytes()
		w.must(err)
		_, metrics, err := w.router.Do(t.Context(), "GET", "/metrics", nil)
		w.must(err)
		written = append(written, metrics...)
		for _, id := range append(ids, y.id) {
			written = append(written, w.router.Show(t.Context(), id)...)
			_, explained := w.explain(id)
			written = append(written, explained...)
		}
		list, _, _, err := w.router.Run(t.Context(), "jobs", "list")
		w.must(err)
		written = append(written, list...)
		if !contains(string(written), x.id) {
			t.Fatal("Orthanc's identifier is not there either: this test does not look where it should")
		}
		for _, secret := range secrets {
			if contains(string(written), secret) {
				t.Errorf("%q is in the router's database, log, metrics or commands", secret)
			}
		}
	})
}

// named gives a phantom another name and patient identifier, which occur nowhere else.
func named(file []byte) []byte {
	return bytes.ReplaceAll(file, []byte("PHANTOM"), []byte("QZJXKVW"))
}
