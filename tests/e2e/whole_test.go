package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
	"imagingrouter/tests/worldtest"
)

// stableSoon is an archive that calls a study stable a second after its last instance, and that takes new contents for old instances.
var stableSoon = map[string]any{"StableAge": 1, "ConcurrentJobs": 8, "OverwriteInstances": true}

// stableLate is one in which no study is complete within a test.
var stableLate = map[string]any{"StableAge": 600, "ConcurrentJobs": 8, "OverwriteInstances": true}

// wholes are the settings of a router with these rules, for which a study is quiet soon.
func wholes(list ...any) routertest.Settings {
	return routertest.Settings{"forwarding": routertest.Settings{"quiet": "500ms"}, "rules": list}
}

// wholeRule is a rule that sends what is of a level as one.
func wholeRule(name, level, when string, to ...string) map[string]any {
	return with(rule(name, when, to...), "level", level)
}

// wholeStudy makes X-rays of one study, one of each class, each in a series of its own.
func wholeStudy(t testing.TB, classes ...string) []*xray {
	t.Helper()
	uid := orthanctest.NewUID()
	files := make([]*xray, len(classes))
	for i, class := range classes {
		files[i] = of(t, class, func(o *phantom.Options) { o.StudyUID = uid })
	}
	return files
}

// sameStudy makes a further X-ray of an X-ray's study.
func sameStudy(t testing.TB, x *xray, class string) *xray {
	t.Helper()
	return of(t, class, func(o *phantom.Options) { o.StudyUID = x.study })
}

// sameObject makes another content of an X-ray, with all its identifiers.
func sameObject(t testing.TB, x *xray, class, age string) *xray {
	t.Helper()
	again := of(t, class, func(o *phantom.Options) {
		o.StudyUID, o.SeriesUID, o.SOPInstanceUID, o.PatientAge = x.study, x.series, x.sop, age
	})
	again.id = x.id
	return again
}

// ctOf makes an object of an X-ray's study that is no X-ray.
func ctOf(x *xray) *xray {
	other := &xray{name: "CT of " + x.name, sop: orthanctest.NewUID(), study: x.study, series: orthanctest.NewUID()}
	other.file = orthanctest.File{SOPClass: orthanctest.CT, Modality: "CT", PatientID: patientID(x.file), StudyUID: x.study, SeriesUID: other.series, SOPInstanceUID: other.sop}.Bytes()
	return other
}

// patientID reads Patient ID (0010,0020) out of a phantom: Orthanc's study is one of a patient.
func patientID(file []byte) string {
	_, rest, _ := bytes.Cut(file, []byte{0x10, 0, 0x20, 0, 'L', 'O'})
	n := int(binary.LittleEndian.Uint16(rest))
	return strings.TrimSpace(string(rest[2 : 2+n]))
}

// tagged puts a text element into a phantom, which is explicit VR little endian, at its place.
func tagged(file []byte, group, element uint16, vr, value string) []byte {
	if len(value)%2 == 1 {
		value += " "
	}
	at := 132
	for at < len(file) {
		g, e := binary.LittleEndian.Uint16(file[at:]), binary.LittleEndian.Uint16(file[at+2:])
		if g > group || g == group && e > element {
			break
		}
		switch string(file[at+4 : at+6]) {
		case "OB", "OW", "SQ", "UN", "UT":
			at += 12 + int(binary.LittleEndian.Uint32(file[at+8:]))
		default:
			at += 8 + int(binary.LittleEndian.Uint16(file[at+6:]))
		}
	}
	added := binary.LittleEndian.AppendUint16(nil, group)
	added = binary.LittleEndian.AppendUint16(added, element)
	added = binary.LittleEndian.AppendUint16(append(added, vr...), uint16(len(value)))
	return slices.Concat(file[:at], added, []byte(value), file[at:])
}

// fileGate stands between router and archive and keeps files back, so that a test decides when a study is classified.
type fileGate struct {
	w    *world
	mu   sync.Mutex
	all  bool
	shut map[string]bool // by Orthanc's identifier
}

// gated points the router at its archive through a gate.
func (w *world) gated() *fileGate {
	w.Helper()
	g := &fileGate{w: w, shut: map[string]bool{}}
	target, err := url.Parse(w.archive.URL)
	w.must(err)
	behind := httputil.NewSingleHostReverseProxy(target)
	behind.Transport = &http.Transport{DisableKeepAlives: true}
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		for g.closed(r.URL.Path) {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		behind.ServeHTTP(rw, r)
	}))
	w.Cleanup(func() {
		g.open()
		front.CloseClientConnections()
		front.Close()
	})
	w.router.Beside(w.T, w.archive, front.URL)
	return g
}

func (g *fileGate) closed(path string) bool {
	id, isFile := strings.CutSuffix(strings.TrimPrefix(path, "/instances/"), "/file")
	g.mu.Lock()
	defer g.mu.Unlock()
	return isFile && (g.all || g.shut[id])
}

// upload stores a file that the router does not get to see before open.
func (g *fileGate) upload(x *xray) {
	g.w.Helper()
	g.set(true)
	g.w.upload(x)
	g.mu.Lock()
	g.shut[x.id] = true
	g.mu.Unlock()
	g.set(false)
}

func (g *fileGate) set(all bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = all
}

func (g *fileGate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all, g.shut = false, map[string]bool{}
}

// counted reads a number from the router's database.
func (w *world) counted(query string, args ...any) int64 {
	w.Helper()
	n, err := w.router.Query(w.Context(), query, args...)
	w.must(err)
	return n
}

// whole waits until so many series and studies are in a state.
func (w *world) whole(state string, want float64) {
	w.Helper()
	w.eventually(fmt.Sprintf("%v series and studies are %s", want, state), func() error {
		m, err := w.router.Metrics(w.Context())
		if n := m.Sum("wholes", fmt.Sprintf("state=%q", state)); err == nil && n != want {
			err = fmt.Errorf("%v are; %s", n, w.run("deliveries", "list"))
		}
		return err
	})
}

// followed waits until the router has heard of everything and is at rest, but for what it waits for.
func (w *world) followed() {
	w.Helper()
	w.eventually("the router has heard of everything", func() error {
		last, err := worldtest.LastNewInstance(w.Context(), w.archive)
		if err != nil {
			return err
		}
		if seq, err := w.router.Query(w.Context(), "SELECT coalesce(max(seq), 0) FROM cursor"); err != nil || seq < last {
			return fmt.Errorf("the follower stands at %d, the last new instance is %d (%w)", seq, last, err)
		}
		m, err := w.router.Metrics(w.Context())
		if open := m.Sum("queue_jobs") - m.Sum("queue_jobs", `kind="gather"`); err == nil && open > 0 {
			err = fmt.Errorf("%v jobs are open", open)
		}
		return err
	})
}

// lists waits until `deliveries list` says all of it.
func (w *world) lists(parts ...string) {
	w.Helper()
	w.eventually(fmt.Sprintf("deliveries list says %q", parts), func() error {
		out := w.run("deliveries", "list")
		for _, p := range parts {
			if !contains(out, p) {
				return fmt.Errorf("%q is missing:\n%s", p, out)
			}
		}
		return nil
	})
}

// stable waits until Orthanc calls an X-ray's study stable.
func (w *world) stable(x *xray) {
	w.Helper()
	study := w.see(x).Study
	w.eventually("the study is stable", func() error {
		var s struct{ IsStable bool }
		if err := w.archive.GetJSON(w.Context(), "/studies/"+study, &s); err != nil || !s.IsStable {
			return fmt.Errorf("not stable (%w)", err)
		}
		return nil
	})
}

// once waits until all files have arrived at a destination and the router is at rest, and checks that each was sent once.
func (w *world) once(destination string, files ...*xray) {
	w.Helper()
	for _, x := range files {
		w.eventually(x.name+" arrives at "+destination, func() error {
			if w.destinations[destination].proxy.Passed()[x.sop] == 0 {
				return fmt.Errorf("not sent; %s", w.router.Show(w.Context(), x.id))
			}
			return nil
		})
	}
	w.idle()
	there, err := w.destinations[destination].arrived(w)
	w.must(err)
	for _, x := range files {
		w.sentTo(destination, x, 1)
		if !there[x.sop] {
			w.Errorf("%s is not at %s", x.name, destination)
		}
	}
}

// made checks how many deliveries of a level there are, with how many instances each.
func (w *world) made(level string, instances int, want int64) {
	w.Helper()
	if n := w.counted("SELECT count(*) FROM delivery WHERE level = ? AND instances = ?", level, instances); n != want {
		w.Errorf("%d deliveries of level %s with %d instances, want %d", n, level, instances, want)
	}
}

// A study goes as one when it is complete, with what is no X-ray. What comes later follows it.
func TestWholeStudy(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: wholes(wholeRule("spine studies", "study", `class == "spine"`, spineAI))})
		gate := w.gated()
		w.begun()
		files := wholeStudy(t, "spine", "others", "abdominal")
		files = append(files, ctOf(files[0]))
		gate.upload(files[1])
		w.upload(files[0], files[2], files[3])
		w.stable(files[0])
		w.lists("spine studies", "waiting", "1 of 4 instances are not classified yet")
		w.nothingSent(files...)
		gate.open()
		w.once(spineAI, files...)
		w.made("studies", 4, 1)
		if n := w.counted("SELECT count(*) FROM delivery"); n != 1 {
			t.Errorf("%d deliveries, want the one of the study", n)
		}
		for _, x := range files {
			w.sentTo(chestAI, x, 0)
		}

		// Every X-ray of the study tells how it was decided about.
		for _, x := range files[:3] {
			e, text := w.explain(x.id)
			if len(e.Deliveries) != 1 || e.Deliveries[0].State != "delivered" || e.Deliveries[0].Rule != "spine studies" {
				t.Errorf("%s: the deliveries: %+v", x.name, e.Deliveries)
			}
			told := slices.ContainsFunc(e.Events, func(v struct{ Stage, Outcome string }) bool { return v.Stage == "gather" && v.Outcome == "decided" })
			if !told || !contains(text, "4 instances to spine-ai") {
				t.Errorf("%s: the story does not tell of its study:\n%s", x.name, text)
			}
			if story := w.router.Show(t.Context(), x.id); !contains(story, "gather") || !contains(story, `rule "spine studies"`) || !contains(story, "4 instances to spine-ai") {
				t.Errorf("%s: jobs show does not tell of its study:\n%s", x.name, story)
			}
		}

		late := sameStudy(t, files[0], "abdominal")
		w.upload(late)
		w.once(spineAI, late)
		other := ctOf(files[0])
		w.upload(other)
		w.once(spineAI, other)
		w.once(spineAI, files...)
		if all, repeats := w.posts(); all != 6 || repeats != 0 {
			t.Errorf("%d POSTs, %d of them repeats; want 6", all, repeats)
		}
		w.made("studies", 1, 2)
	})
}

// A study in which no instance matches stays, and says so.
func TestWholeStudyWithoutMatch(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: wholes(
			wholeRule("mixed", "study", `"spine" in study.classes && "abdominal" in study.classes`, spineAI),
			wholeRule("spine studies", "study", `class == "spine"`, chestAI),
		)})
		w.begun()
		none := wholeStudy(t, "abdominal", "others")
		w.upload(none...)
		both := wholeStudy(t, "abdominal", "spine")
		w.upload(both...)
		w.once(spineAI, both...) // the first picture matched nothing when it came
		w.once(chestAI, both...)
		w.nothingSent(none...)
		for _, x := range none {
			if story := w.router.Show(t.Context(), x.id); !contains(story, "no instance of it matches") {
				t.Errorf("the story does not say why its study was not sent:\n%s", story)
			}
		}
	})
}

// Of a rule of level series only the series goes.
func TestWholeSeries(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: wholes(wholeRule("spine series", "series", `class == "spine"`, spineAI))})
		w.begun()
		spine := of(t, "spine")
		same := of(t, "others", func(o *phantom.Options) { o.StudyUID, o.SeriesUID = spine.study, spine.series })
		elsewhere := []*xray{sameStudy(t, spine, "abdominal"), ctOf(spine)}
		w.upload(elsewhere...)
		w.upload(spine, same)
		w.once(spineAI, spine, same)
		w.made("series", 2, 1)
		w.nothingSent(elsewhere...)
		late := of(t, "abdominal", func(o *phantom.Options) { o.StudyUID, o.SeriesUID = spine.study, spine.series })
		w.upload(late)
		w.once(spineAI, spine, same, late)
		w.nothingSent(elsewhere...)
	})
}

// A rule that sends the instance at once and one that sends its study later name one destination: it gets every instance once.
func TestInstanceAndStudyToOneDestination(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: wholes(
			rule("spines", `class == "spine"`, spineAI),
			wholeRule("spine studies", "study", `class == "spine"`, spineAI, chestAI),
			wholeRule("spine series", "series", `class == "spine"`, spineAI),
		)})
		gate := w.gated()
		w.begun()
		files := wholeStudy(t, "spine", "others", "spine")
		files = append(files, ctOf(files[0]))
		gate.upload(files[1])
		w.upload(files[0], files[2], files[3])
		w.passed(spineAI, files[0]) // by itself
		w.passed(spineAI, files[2])
		w.sentTo(chestAI, files[0], 0)
		gate.open()
		w.once(spineAI, files...)
		w.once(chestAI, files...)
		w.made("studies", 2, 1) // the rest
		w.made("studies", 4, 1)
	})
}

// A study that is not complete in time goes as it is, and what comes later follows; or a person is asked.
func TestWholeStudyNotComplete(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableLate, settings: wholes(
			with(wholeRule("impatient", "study", `class == "spine"`, spineAI), "wait_at_most", "2s", "on_timeout", "send"),
			with(wholeRule("strict", "study", `class == "spine"`, chestAI), "wait_at_most", "2s", "on_timeout", "hold"),
		)})
		w.begun()
		files := wholeStudy(t, "spine", "others")
		w.upload(files...)
		w.whole("held", 1)
		w.once(spineAI, files...)
		w.lists("strict", "held", "not complete after 2s", "Orthanc does not call it stable")
		if story := w.router.Show(t.Context(), files[0].id); !contains(story, "not complete after 2s") {
			t.Errorf("the story does not say that the study was not complete:\n%s", story)
		}
		late := sameStudy(t, files[0], "abdominal")
		w.upload(late)
		w.once(spineAI, append(files, late)...)
		w.whole("held", 1)
		for _, x := range append(files, late) {
			w.sentTo(chestAI, x, 0)
		}
		if out := w.run("deliveries", "release", w.see(files[0]).Study); !contains(out, "1 waits released") {
			t.Errorf("release: %s", out)
		}
		w.once(chestAI, append(files, late)...)
		w.made("studies", 3, 1)
		w.whole("held", 0)
		if _, errs, status, err := w.router.Run(t.Context(), "deliveries", "release", w.see(files[0]).Study); err != nil || status != 1 || !contains(errs, "no rule waits") {
			t.Errorf("released twice: exit status %d, %v: %s", status, err, errs)
		}
	})
}

// reviewable are the settings under which pictures of the class others are under review.
func reviewable(s routertest.Settings) routertest.Settings {
	return join(s, routertest.Settings{"model": routertest.Settings{"thresholds": map[string]float64{"abdominal": 0, "adult_chest": 0, "pediatric_chest": 0, "spine": 0, "others": 1}}})
}

// What becomes of a study with a picture under review, a rule says: it waits for the review, which a person does by labels, or goes, or stays.
func TestWholeStudyUnderReview(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		folder := t.TempDir()
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: join(reviewable(wholes(
			with(wholeRule("holds", "study", `class == "spine"`, chestAI), "on_review", "hold"),
			with(wholeRule("sends", "study", `class == "spine"`, spineAI), "on_review", "send"),
			with(wholeRule("skips", "study", `class == "spine"`, "inbox"), "on_review", "skip"),
		)), routertest.Settings{"destinations": []any{
			map[string]any{"name": chestAI}, map[string]any{"name": spineAI}, map[string]any{"name": "inbox", "folder": map[string]any{"path": folder}},
		}})})
		w.begun()
		files := wholeStudy(t, "spine", "others")
		files = append(files, ctOf(files[0]))
		w.upload(files...)
		w.labelled(files[0], label("spine"), label("review"))
		w.whole("held", 1)
		w.once(spineAI, files...)
		w.lists("holds", "held", "1 of 3 instances are under review")
		for _, x := range files {
			w.sentTo(chestAI, x, 0)
		}
		for _, x := range files[:2] {
			if story := w.router.Show(t.Context(), x.id); !contains(story, "1 of 3 instances are under review (on_review: skip)") {
				t.Errorf("the story does not say why the study was not sent:\n%s", story)
			}
		}
		w.do(http.MethodDelete, "/studies/"+w.see(files[0]).Study+"/labels/"+label("review"), nil)
		w.once(chestAI, files...)
		w.made("studies", 3, 2)

		// Here nothing matches until a person has said what the picture shows.
		wrong := wholeStudy(t, "others")
		wrong = append(wrong, ctOf(wrong[0]))
		w.upload(wrong...)
		w.labelled(wrong[0], label("review"))
		w.whole("held", 1)
		study := "/studies/" + w.see(wrong[0]).Study + "/labels/"
		w.do(http.MethodPut, study+label("spine"), nil)
		w.do(http.MethodDelete, study+label("review"), nil)
		w.once(chestAI, wrong...)
		for _, x := range wrong {
			w.sentTo(spineAI, x, 0)
		}
		if entries, err := os.ReadDir(folder); err != nil || len(entries) != 0 {
			t.Errorf("a study that was to be skipped is in the folder: %v, %v", entries, err)
		}
	})
}

// A study is deleted while it waits: the wait ends. It comes again, and goes.
func TestWholeStudyDeleted(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableLate, settings: wholes(wholeRule("spine studies", "study", `class == "spine"`, spineAI))})
		w.begun()
		files := wholeStudy(t, "spine", "others")
		files = append(files, ctOf(files[0]))
		w.upload(files...)
		w.labelled(files[0], label("spine"), label("others"))
		w.whole("waiting", 1)
		study := w.see(files[0]).Study
		w.do(http.MethodDelete, "/studies/"+study, nil)
		w.whole("gone", 1)
		w.idle()
		w.nothingSent(files...)
		if out := w.run("deliveries", "list"); !contains(out, "none") {
			t.Errorf("deliveries list:\n%s", out)
		}
		w.upload(files...)
		w.labelled(files[0], label("spine"), label("others"))
		w.whole("waiting", 1)
		w.followed() // what comes after a release is waited for anew
		w.run("deliveries", "release", study)
		w.once(spineAI, files...)
	})
}

// The router is killed while a study waits, and again while it is being sent.
func TestKilledWithAWholeStudy(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: wholes(wholeRule("spine studies", "study", `class == "spine"`, spineAI))})
		gate := w.gated()
		w.begun()
		files := wholeStudy(t, "spine", "others", "abdominal")
		files = append(files, ctOf(files[0]))
		gate.upload(files[1])
		w.upload(files[0], files[2], files[3])
		w.whole("waiting", 1)
		w.must(w.router.Kill())
		w.start()
		w.lists("waiting", "1 of 4 instances are not classified yet")
		w.nothingSent(files...)

		spine := w.destinations[spineAI].proxy
		spine.Delay(time.Second)
		gate.open()
		w.eventually("the study is being sent", func() error {
			if len(spine.Posts()) == 0 {
				return fmt.Errorf("nothing was sent yet")
			}
			return nil
		})
		w.must(w.router.Kill())
		w.start()
		w.once(spineAI, files...)
		w.made("studies", 4, 1)
	})
}

// An instance is overwritten while its study waits, and again while the study's delivery waits: the last content arrives, once.
func TestOverwrittenInAWholeStudy(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: wholes(wholeRule("spine studies", "study", `class == "spine"`, spineAI))})
		gate := w.gated()
		w.begun()
		files := wholeStudy(t, "spine", "others")
		gate.upload(files[1])
		w.upload(files[0])
		classified := func(n int64) {
			t.Helper()
			w.eventually("the content is published", func() error {
				if got, err := w.router.Query(t.Context(), "SELECT count(*) FROM event WHERE instance_id = ? AND outcome = 'published'", files[0].id); err != nil || got < n {
					return fmt.Errorf("%d are (%w)", got, err)
				}
				return nil
			})
		}
		classified(1)
		w.run("deliveries", "pause", spineAI)
		second := sameObject(t, files[0], "spine", "060Y")
		w.upload(second)
		classified(2)
		gate.open()
		w.eventually("the delivery waits", func() error {
			if n, err := w.router.Query(t.Context(), "SELECT count(*) FROM delivery WHERE state = 'pending' AND instances = 2"); err != nil || n != 1 {
				return fmt.Errorf("%d do (%w)", n, err)
			}
			return nil
		})
		third := sameObject(t, files[0], "spine", "070Y")
		w.upload(third)
		classified(3)
		w.eventually("the new content has a delivery as well", func() error {
			if n, err := w.router.Query(t.Context(), "SELECT count(*) FROM delivery WHERE state = 'pending'"); err != nil || n != 2 {
				return fmt.Errorf("%d wait (%w)", n, err)
			}
			return nil
		})
		w.nothingSent(files...)
		w.run("deliveries", "resume", spineAI)
		w.once(spineAI, files...)
		sum := sha256.Sum256(third.file)
		for _, p := range w.destinations[spineAI].proxy.Posts() {
			if p.SOPInstanceUID == third.sop && p.SHA256 != hex.EncodeToString(sum[:]) {
				t.Error("what arrived is not the last content")
			}
		}
	})
}

// A webhook is told of a study at once, and a folder gets all its files.
func TestWholeStudyToWebhookAndFolder(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		folder := t.TempDir()
		var mu sync.Mutex
		var bodies [][]byte
		hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			bodies = append(bodies, body)
		}))
		t.Cleanup(hook.Close)
		w := newWorld(t, version, plan{hook: true, alone: true, archive: stableSoon, settings: join(
			wholes(wholeRule("spine studies", "study", `class == "spine"`, "program", "inbox")),
			routertest.Settings{"destinations": []any{
				map[string]any{"name": "program", "webhook": map[string]any{"url": hook.URL}},
				map[string]any{"name": "inbox", "folder": map[string]any{"path": folder}},
			}})})
		w.begun()
		files := wholeStudy(t, "spine", "abdominal")
		files = append(files, ctOf(files[0]))
		w.upload(files...)
		w.eventually("the webhook is told", func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(bodies) == 0 {
				return fmt.Errorf("not yet")
			}
			return nil
		})
		w.idle()
		mu.Lock()
		defer mu.Unlock()
		if len(bodies) != 1 {
			t.Fatalf("%d POSTs, want one", len(bodies))
		}
		var told struct {
			Delivery, Level, Study, Series, Rule, Instance, Class string
			Instances                                             []struct {
				Instance, Class string
				Probabilities   map[string]float64
			}
		}
		w.must(json.Unmarshal(bodies[0], &told))
		if told.Delivery == "" || told.Level != "study" || told.Study != w.see(files[0]).Study || told.Series != "" || told.Rule != "spine studies" || told.Instance != "" || told.Class != "" {
			t.Errorf("%s", bodies[0])
		}
		got, want := map[string]string{}, map[string]string{}
		for _, i := range told.Instances {
			got[i.Instance] = i.Class
			if (len(i.Probabilities) == 5) != (i.Class != "") {
				t.Errorf("%s: a result with %d probabilities", i.Class, len(i.Probabilities))
			}
		}
		for _, x := range files {
			want[x.id] = x.class
			class := x.class
			if class == "" {
				class = "unclassified"
			}
			content, err := os.ReadFile(filepath.Join(folder, class, told.Study, x.id+".dcm"))
			if err != nil || !bytes.Equal(content, x.file) {
				t.Errorf("the folder's file of %s: %v, the same content: %t", x.name, err, bytes.Equal(content, x.file))
			}
		}
		if len(told.Instances) != len(want) || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("the webhook was told of %v, want %v", got, want)
		}
	})
}

// What an order says of its priority gives a delivery its turn where no rule does, of an instance and of a study.
func TestPriorityOfTheOrder(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, archive: stableSoon, settings: wholes(
			rule("by the order", `class == "spine"`, spineAI),
			with(rule("by the rule", `class == "abdominal"`, spineAI), "priority", "low"),
			wholeRule("spine studies", "study", `class == "spine"`, chestAI),
		)})
		w.begun()
		with := func(class, priority string) *xray {
			x := of(t, class)
			if priority != "" {
				x.file = tagged(x.file, 0x0040, 0x1003, "SH", priority)
			}
			return x
		}
		for _, c := range []struct {
			x         *xray
			priority  int64
			wholesToo bool
		}{
			{with("spine", "STAT"), 1, true},
			{with("spine", "low"), 3, true},
			{with("spine", "ROUTINE"), 2, true},
			{with("spine", ""), 2, true},
			{with("abdominal", "STAT"), 3, false},
		} {
			w.upload(c.x)
			w.once(spineAI, c.x)
			if n := w.counted("SELECT priority FROM delivery WHERE resource_id = ?", c.x.id); n != c.priority {
				t.Errorf("%s has priority %d, want %d", c.x.name, n, c.priority)
			}
			if c.wholesToo {
				w.once(chestAI, c.x)
				if n := w.counted("SELECT priority FROM delivery WHERE level = 'studies' AND study_id = ?", w.see(c.x).Study); n != c.priority {
					t.Errorf("the study of %s has priority %d, want %d", c.x.name, n, c.priority)
				}
			}
		}
	})
}
