package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"imagingrouter/tests/orthanctest"
)

// What is no X-ray is counted and left alone: no pixels are fetched, and a CT of 300 slices costs a handful of requests.
func TestOtherObjects(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, front: true, alone: true})
		w.begun()
		w.front.Forget()
		study, series := orthanctest.NewUID(), orthanctest.NewUID()
		const slices = 300
		id := ""
		for range slices {
			var err error
			id, err = w.archive.Upload(t.Context(), orthanctest.File{SOPClass: orthanctest.CT, Modality: "CT", StudyUID: study, SeriesUID: series}.Bytes())
			w.must(err)
		}
		others := map[string]string{
			orthanctest.SecondaryCapture:    "OT",
			"1.2.840.10008.5.1.4.1.1.4":     "MR",
			"1.2.840.10008.5.1.4.1.1.6.1":   "US",
			"1.2.840.10008.5.1.4.1.1.1.2":   "MG",
			"1.2.840.10008.5.1.4.1.1.88.22": "SR",
			"1.2.840.10008.5.1.4.1.1.104.1": "DOC",
			"1.2.840.10008.5.1.4.1.1.11.1":  "PR",
		}
		for class, modality := range others {
			_, err := w.archive.Upload(t.Context(), orthanctest.File{SOPClass: class, Modality: modality}.Bytes())
			w.must(err)
		}
		w.idle()
		w.eventually("all are skipped", func() error {
			m := w.metrics()
			if n, all := m.Sum("instances_skipped_total", orthanctest.CT+`"`), m.Sum("instances_skipped_total"); n != slices || all != slices+float64(len(others)) {
				return fmt.Errorf("%v CT slices and %v objects in all are counted", n, all)
			}
			return nil
		})
		// A hook without a filter may tell about them: they end as skipped, by their description.
		w.must(w.router.Hook(t.Context(), id))
		w.idle()
		if n := w.metrics().Sum("instances", `state="skipped"`); n != 1 {
			t.Errorf("%v instances ended as skipped, want the one that was told", n)
		}
		work := 0
		for _, r := range w.front.Requests() {
			if strings.HasSuffix(r.Path, "/file") {
				t.Errorf("pixels were fetched: %s", r.Path)
			}
			if r.Path != "/changes" && r.Path != "/system" {
				work++
			}
		}
		t.Logf("%d requests beside the polling of /changes for %d slices and %d other objects", work, slices, len(others))
		// The uploads are spread over several polls, each of which asks for descriptions with two requests.
		if work > slices/3 {
			t.Errorf("%d requests for %d objects", work, slices+len(others))
		}
		if labels := w.do(http.MethodGet, "/tools/labels", nil); strings.TrimSpace(string(labels)) != "[]" {
			t.Errorf("labels: %s", labels)
		}
	})
}

// Broken files come to an end with their reason: no crash, no storm of retries, no labels.
func TestBrokenFiles(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newWorld(t, version, plan{hook: true, front: true, alone: true})
		w.begun()
		good := func() []byte { return orthanctest.File{Side: 64}.Bytes() }
		rows := []byte{0x28, 0, 0x10, 0, 'U', 'S', 2, 0}
		broken := map[string]struct {
			file          []byte
			state, reason string
		}{
			"no pixel data":      {before(good(), pixelData), "unreadable", "pixeldata"},
			"zero rows":          {patched(good(), rows, 0, 0), "unreadable", "(0028,0010)"},
			"truncated pixels":   {pixels(good(), make([]byte, 1000)), "unreadable", "(7fe0,0010)"},
			"unsupported syntax": {compressed(good(), "1.2.840.10008.1.2.4.201"), "undecodable", "1.2.840.10008.1.2.4.201"},
			"not JPEG at all":    {compressed(good(), "1.2.840.10008.1.2.4.50"), "undecodable", "1.2.840.10008.1.2.4.50"},
			"not JPEG 2000":      {compressed(good(), "1.2.840.10008.1.2.4.90"), "undecodable", "1.2.840.10008.1.2.4.90"},
		}
		ids := map[string]string{}
		for name, b := range broken {
			id, err := w.archive.Upload(t.Context(), b.file)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			ids[id] = name
		}
		fine := of(t, "others")
		w.upload(fine)
		w.labelled(fine, label("others"))
		w.idle()

		out, errs, status, err := w.router.Run(t.Context(), "jobs", "list", "--json", "--state", "unreadable,undecodable,failed,skipped,published")
		w.must(err)
		if status != 0 {
			t.Fatalf("jobs list: exit status %d: %s", status, errs)
		}
		seen := 0
		for line := range strings.Lines(out) {
			var j struct{ Instance, State, Reason string }
			w.must(json.Unmarshal([]byte(line), &j))
			name, is := ids[j.Instance]
			if !is {
				continue
			}
			seen++
			t.Logf("%s: %s: %s", name, j.State, j.Reason)
			if b := broken[name]; j.State != b.state || j.Reason == "" || !contains(strings.ToLower(j.Reason), b.reason) {
				t.Errorf("%s ended as %s: %q; want %s and a reason with %q", name, j.State, j.Reason, b.state, b.reason)
			}
		}
		if seen != len(broken) {
			t.Errorf("%d of %d broken files came to an end", seen, len(broken))
		}
		fetched := map[string]int{}
		for _, r := range w.front.Requests() {
			fetched[r.Path]++
		}
		for id, name := range ids {
			if n := fetched["/instances/"+id+"/file"]; n > 2 { // the hook's mark and the follower's may each come to look
				t.Errorf("%s was fetched %d times", name, n)
			}
			var expanded map[string]string
			w.must(w.archive.GetJSON(t.Context(), "/instances/"+id+"/metadata?expand", &expanded))
			if expanded["BodyPart"] != "" || expanded["BodyPartResult"] != "" {
				t.Errorf("%s has a result", name)
			}
		}
		var labels []string
		w.must(w.archive.GetJSON(t.Context(), "/tools/labels", &labels))
		if len(labels) != 1 {
			t.Errorf("labels %v, only the good file should have one", labels)
		}
	})
}

var pixelData = []byte{0xe0, 0x7f, 0x10, 0x00}

// before cuts a file off at an element.
func before(file, element []byte) []byte { return file[:bytes.LastIndex(file, element)] }

// patched replaces the bytes that follow the head of an element.
func patched(file, head []byte, value ...byte) []byte {
	copy(file[bytes.Index(file, head)+len(head):], value)
	return file
}

// pixels gives a file other pixel data.
func pixels(file, data []byte) []byte {
	file = append(before(file, pixelData), pixelData...)
	file = append(file, 'O', 'B', 0, 0)
	file = binary.LittleEndian.AppendUint32(file, uint32(len(data)))
	return append(file, data...)
}

// compressed declares a compressed transfer syntax (PS3.5 A.4) and puts a fragment into the file that is nothing of the kind.
func compressed(file []byte, syntax string) []byte {
	if len(syntax)%2 == 1 {
		syntax += "\x00"
	}
	head := []byte{0x02, 0x00, 0x10, 0x00, 'U', 'I'}
	at := bytes.Index(file, head) + len(head)
	old := int(binary.LittleEndian.Uint16(file[at:]))
	length := bytes.Index(file, []byte{0x02, 0, 0, 0, 'U', 'L', 4, 0}) + 8
	binary.LittleEndian.PutUint32(file[length:], binary.LittleEndian.Uint32(file[length:])+uint32(len(syntax)-old))
	out := binary.LittleEndian.AppendUint16(bytes.Clone(file[:at]), uint16(len(syntax)))
	out = append(append(out, syntax...), file[at+2+old:]...)

	out = append(before(out, pixelData), pixelData...)
	out = append(out, 'O', 'B', 0, 0, 0xff, 0xff, 0xff, 0xff)
	out = append(out, 0xfe, 0xff, 0x00, 0xe0, 0, 0, 0, 0) // empty offset table
	out = append(out, 0xfe, 0xff, 0x00, 0xe0, 64, 0, 0, 0)
	out = append(out, bytes.Repeat([]byte("no code!"), 8)...)
	return append(out, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0)
}
