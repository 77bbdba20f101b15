package mutations

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// TestHostileFiles: sixteen files at once that are made to take memory, and four more, and the router stays under memory.limit, brings each to an end
// with a reason, and classifies the X-rays among them. Orthanc itself would die of some: a proxy puts them into its answers.
func TestHostileFiles(t *testing.T) {
	// Each limit has pictures of a size that it just lets through, so that they wait for one another, and some that are beyond it.
	tests := map[string]struct {
		limit int64
		side  int // rows and columns
	}{"1.12": {768 << 20, 2600}, "1.13": {1536 << 20, 5200}}
	orthanctest.Each(t, func(t *testing.T, version string) {
		limit, files := tests[version].limit, hostile(t, tests[version].side)
		for _, f := range hostile(t, largest) {
			if f.name == "one bit a pixel" || f.name == "progressive JPEG" || f.name == "PNG file" {
				files = append(files, hostileFile{f.name + ", the largest", f.content})
			}
		}
		// Without a checksum in Orthanc: the proxy gives other files than it has, and the router would see that.
		archive := orthanctest.New(t, orthanctest.Config{Version: version, Extra: map[string]any{"StoreMD5ForAttachments": false}})
		served := map[string][]byte{} // file by Orthanc's identifier, known before the router begins
		names := map[string]string{}
		store := func(content []byte) string {
			id, err := archive.Upload(t.Context(), content)
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		for _, f := range files {
			id := store(orthanctest.File{PatientID: marked}.Bytes())
			served[id], names[id] = f.content, f.name
		}
		var xrays []string
		for i := range 4 {
			var b bytes.Buffer
			if _, err := phantom.Write(&b, phantom.Options{Class: "spine", Seed: int64(i), Rows: 1200, Columns: 900}); err != nil {
				t.Fatal(err)
			}
			xrays = append(xrays, store(b.Bytes()))
		}
		router := routertest.New(t, routertest.Config{Version: version, Settings: routertest.Settings{
			"memory": routertest.Settings{"limit": limit}, "intake": routertest.Settings{"follower": false},
			"jobs": routertest.Settings{"classify_workers": 16, "max_attempts": 3, "backoff_max": "1s"}, "picture": routertest.Settings{"child_timeout": "60s"},
		}})
		router.Beside(t, archive, inPlace(t, archive.URL, served))
		if err := router.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		idle := highWater(t, router.PID())
		ids := append([]string{}, xrays...)
		for id := range served {
			ids = append(ids, id)
		}
		if err := router.Hook(t.Context(), ids...); err != nil {
			t.Fatal(err)
		}
		ends := ended(t, router, archive, len(ids))
		most := highWater(t, router.PID())
		t.Logf("at most %d MiB of %d MiB, %d MiB before the first file", most>>20, limit>>20, idle>>20)
		if most > limit {
			t.Errorf("the router held %d MiB, memory.limit is %d MiB", most>>20, limit>>20)
		}
		for _, id := range xrays {
			if ends[id].State != "published" {
				t.Errorf("an X-ray is %s: %s", ends[id].State, ends[id].Reason)
			}
		}
		for id, name := range names {
			end := ends[id]
			t.Logf("%-36s %s %s", name, end.State, end.Reason)
			if end.State == "failed" || end.State != "published" && end.Reason == "" || strings.Contains(end.Reason, marked) {
				t.Errorf("%s is %s: %q\n%s", name, end.State, end.Reason, router.Show(t.Context(), id))
			}
		}
	})
}

// inPlace is a proxy before an Orthanc that answers with other files for some instances.
func inPlace(t *testing.T, orthanc string, files map[string][]byte) string {
	t.Helper()
	to, err := url.Parse(orthanc)
	if err != nil {
		t.Fatal(err)
	}
	behind := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, Transport: &http.Transport{DisableKeepAlives: true}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		part := strings.Split(r.URL.Path, "/")
		if content, hostile := files[part[min(2, len(part)-1)]]; hostile && len(part) == 4 && part[3] == "file" {
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			_, _ = w.Write(content)
			return
		}
		behind.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// end is how an instance ended.
type end struct{ Kind, Instance, State, Reason string }

// ended waits until all instances have, and returns how.
func ended(t *testing.T, router *routertest.Router, archive *orthanctest.Server, n int) map[string]end {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		select {
		case <-router.Ended():
			t.Fatal("the router is gone")
		case <-archive.Ended():
			t.Fatal("Orthanc has died")
		default:
		}
		out, errs, _, err := router.Run(t.Context(), "jobs", "list", "--json", "--limit", "0", "--state", "published,skipped,undecodable,unreadable,gone,failed")
		if err != nil {
			t.Fatal(err, errs)
		}
		ends := map[string]end{}
		for line := range strings.Lines(out) {
			var e end
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			if e.Kind == "instance" {
				ends[e.Instance] = e
			}
		}
		if len(ends) == n {
			return ends
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d instances have come to an end", len(ends), n)
		}
	}
}

// highWater is the most memory that a process has had, in bytes.
func highWater(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}

type hostileFile struct {
	name    string
	content []byte
}

const largest = 9999 // rows and columns of the largest square under picture.max_pixels

// hostile returns files that are small, and take much memory when somebody believes them.
func hostile(t *testing.T, side int) []hostileFile {
	t.Helper()
	plain, ok := take("", orthanctest.File{PatientID: marked, Side: 16}.Bytes())
	if !ok {
		t.Fatal("the fixture cannot be taken apart")
	}
	huge := func(bits, samples int) file {
		f := plain.clone()
		f.number(rows, side)
		f.number(columns, side)
		f.number(bitsAllocated, bits)
		f.number(bitsStored, bits)
		f.number(highBit, bits-1)
		f.number(samplesPerPixel, samples)
		if samples == 3 {
			f.put(photometric, "CS", []byte("YBR_FULL"))
		}
		return f
	}
	with := func(f file, t tag, vr string, value []byte) file {
		f = f.clone()
		f.put(t, vr, value)
		return f
	}
	baseline, progressive := hugeJPEG(0xC0, side), hugeJPEG(0xC2, side)
	element8 := []byte{0x28, 0, 0x06, 0x30, 'L', 'O', 0, 0}
	return []hostileFile{
		{"deflated picture", bomb(huge(16, 1), int64(side*side*2))},
		{"deflated to 1.2 GB", bomb(huge(16, 1), 1200<<20)},
		{"one bit a pixel", with(huge(1, 1), pixelData, "OB", make([]byte, side*side/8+1)).bytes()},
		{"pixels cut off", with(huge(16, 1), pixelData, "OW", make([]byte, 100)).bytes()},
		{"what it says it is", large(plain, side).bytes()},
		{"JPEG", huge(8, 3).compressed(jpegBaseline, baseline).bytes()},
		{"progressive JPEG", huge(8, 3).compressed(jpegBaseline, progressive).bytes()},
		{"JPEG larger than its header says", plain.compressed(jpegBaseline, progressive).bytes()},
		{"JPEG file", progressive},
		{"PNG file", hugePNG(side)},
		{"RLE of runs", huge(8, 1).compressed(rle, runs(side*side)).bytes()},
		{"JPEG 2000 of a header", huge(16, 1).compressed(uidRoot+".4.90", hugeJ2K(side)).bytes()},
		{"deflated frame", huge(16, 1).compressed(uidRoot+".8.1", zeros(int64(side*side*2+1000))).bytes()},
		{"sequences inside one another", with(plain, 0x00081140, "SQ", deepItems(200_000)).undefinedAt(0x00081140).bytes()},
		{"millions of elements in an item", with(plain, modalityLUT, "SQ", oneItem(bytes.Repeat(element8, 4_000_000))).bytes()},
		{"millions of fragments", manyFragments(plain, 3_000_000).bytes()},
		{"a VR that is none, and a length inside", with(plain, 0x00080020, "NA", []byte("\xF0\xFF\xFF\xFF\xF0\xFF\xFF\x7F")).bytes()},
	}
}

// bomb returns the file deflated, with so many zeros for its pixels.
func bomb(f file, pixels int64) []byte {
	f = f.clone()
	f.put(metaSyntax, "UI", []byte(deflated))
	i := f.at(pixelData)
	f.set = f.set[:i]
	var head []byte
	for _, e := range f.set {
		head = write(head, f.order(), e)
	}
	head = write(head, f.order(), element{pixelData, "OW", nil, uint32(pixels)})
	f.set = nil
	var out bytes.Buffer
	whole := f.bytes()
	_, _ = out.Write(whole[:len(whole)-len(deflate(nil))])
	w, _ := flate.NewWriter(&out, flate.BestSpeed)
	_, _ = w.Write(head)
	_, _ = io.CopyN(w, zeroReader{}, pixels)
	_ = w.Close()
	return out.Bytes()
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func zeros(n int64) []byte {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, flate.BestSpeed)
	_, _ = io.CopyN(w, zeroReader{}, n)
	_ = w.Close()
	return out.Bytes()
}

// hugeJPEG is a frame header for three samples a pixel, tables, and the beginning of a scan that never comes.
func hugeJPEG(frame byte, side int) []byte {
	b := []byte{0xFF, 0xD8, 0xFF, 0xDB, 0, 67, 0}
	b = append(b, bytes.Repeat([]byte{1}, 64)...)
	b = append(b, 0xFF, frame, 0, 17, 8, byte(side>>8), byte(side), byte(side>>8), byte(side), 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0)
	for _, table := range []byte{0x00, 0x10} {
		b = append(b, 0xFF, 0xC4, 0, 20, table, 1)
		b = append(b, make([]byte, 15)...)
		b = append(b, 0)
	}
	end := []byte{0, 63, 0}
	if frame == 0xC2 {
		end = []byte{0, 0, 0}
	}
	b = append(b, 0xFF, 0xDA, 0, 12, 3, 1, 0, 2, 0, 3, 0)
	b = append(b, end...)
	return append(b, make([]byte, 1000)...)
}

// hugePNG is a PNG of four channels of 16 bits that ends with its first row.
func hugePNG(side int) []byte {
	chunk := func(b []byte, kind string, data []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
		body := append([]byte(kind), data...)
		return binary.BigEndian.AppendUint32(append(b, body...), crc32.ChecksumIEEE(body))
	}
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(side)), uint32(side))
	b := chunk([]byte("\x89PNG\r\n\x1a\n"), "IHDR", append(header, 16, 6, 0, 0, 0))
	return chunk(b, "IDAT", append([]byte{0x78, 0x01}, zeros(int64(side*8+1))...))
}

// runs is one RLE segment of runs of 128 zeros (PS3.5, annex G).
func runs(pixels int) []byte {
	return append(oneSegment(), bytes.Repeat([]byte{0x81, 0}, pixels/128+1)...)
}

// hugeJ2K is a JPEG 2000 codestream that ends after its main header (ISO 15444-1, annex A).
func hugeJ2K(side int) []byte {
	size := hex.EncodeToString(binary.BigEndian.AppendUint32(nil, uint32(side)))
	b, _ := hex.DecodeString("ff4fff51" + "0029" + "0000" + size + size + strings.Repeat("00000000", 2) + size + size + strings.Repeat("00000000", 2) + "0001" + "0f0101" +
		"ff52000c00000001000504040001" + "ff5c00134040484850484850484850484850484850" + "ff90000a0000000000000001" + "ff93")
	return b
}

// large returns a picture of 8 bits with all its pixels, an eighth as high as the others.
func large(f file, side int) file {
	f = f.clone()
	f.number(rows, side/8)
	f.number(columns, side)
	pixels := make([]byte, side/8*side)
	for i := range pixels {
		pixels[i] = byte(i / 40000)
	}
	f.put(pixelData, "OB", pixels)
	return f
}

// undefinedAt leaves the length of an element undefined.
func (f file) undefinedAt(t tag) file {
	f.set[f.at(t)].length = undefined
	return f
}

func deepItems(levels int) []byte {
	var b []byte
	for range levels {
		b = write(b, binary.LittleEndian, element{item, "", nil, undefined})
		b = write(b, binary.LittleEndian, element{0x00081140, "SQ", nil, undefined})
	}
	return b
}

func oneItem(content []byte) []byte {
	return write(nil, binary.LittleEndian, element{item, "", content, uint32(len(content))})
}

func manyFragments(f file, n int) file {
	f = f.compressed(jpegBaseline, nil)
	e := &f.set[f.at(pixelData)]
	e.value = append(bytes.Repeat(write(nil, binary.LittleEndian, element{item, "", nil, 0}), n), write(nil, binary.LittleEndian, element{sequenceEnd, "", nil, 0})...)
	return f
}
