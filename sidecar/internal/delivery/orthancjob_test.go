package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
)

// scene is an archive and a destination, both real Orthancs of one version, that know each other in every way.
type scene struct {
	archive, destination *orthanctest.Server
	client               *orthanc.Client
	jobs                 *Jobs
}

func newScene(t *testing.T, version string, modalities map[string]any) *scene {
	t.Helper()
	destination := orthanctest.New(t, orthanctest.Config{Version: version, AET: "DEST", DICOMweb: true})
	all := map[string]any{"dest": []any{"DEST", "127.0.0.1", destination.DicomPort}, "closed": []any{"CLOSED", "127.0.0.1", freePort(t)}}
	for name, m := range modalities {
		all[name] = m
	}
	archive := orthanctest.New(t, orthanctest.Config{Version: version, AET: "ARCHIVE", DICOMweb: true, Extra: map[string]any{
		"OrthancPeers": map[string]any{
			"dest":   []any{destination.URL, destination.Username, destination.Password},
			"closed": []any{fmt.Sprintf("http://127.0.0.1:%d/", freePort(t))},
		},
		"DicomModalities": all,
		"DicomWeb": map[string]any{"Servers": map[string]any{
			"dest":   []any{destination.URL + "/dicom-web/", destination.Username, destination.Password},
			"closed": []any{fmt.Sprintf("http://127.0.0.1:%d/dicom-web/", freePort(t))},
		}},
	}})
	client, err := orthanc.New(orthanc.Options{URL: archive.URL, Username: archive.Username, Password: archive.Password})
	if err != nil {
		t.Fatal(err)
	}
	return &scene{archive: archive, destination: destination, client: client, jobs: &Jobs{Orthanc: client}}
}

// freePort returns a port on which nothing listens.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// stored puts a phantom into the archive and returns a delivery of it.
func (s *scene) stored(t *testing.T, id string) Parcel {
	t.Helper()
	p := s.set(t, id, 1)
	p.Level, p.ResourceID = store.LevelInstance, p.Parts[0].InstanceID
	return p
}

// set puts phantoms into the archive and returns a delivery of all of them.
func (s *scene) set(t *testing.T, id string, n int) Parcel {
	t.Helper()
	p := Parcel{Delivery: store.Delivery{ID: id, Level: store.LevelStudy, ResourceID: "study", Instances: n, Priority: store.NormalPriority, SubmittedAt: time.Now()}}
	for range n {
		var file bytes.Buffer
		if _, err := phantom.Write(&file, phantom.Options{Class: "spine", Rows: 64, Columns: 64}); err != nil {
			t.Fatal(err)
		}
		instance, err := s.archive.Upload(context.Background(), file.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		p.Parts = append(p.Parts, Part{Item: store.Item{InstanceID: instance}})
	}
	return p
}

// hold returns how many of a parcel's instances a server has.
func hold(t *testing.T, server *orthanctest.Server, p Parcel) (n int) {
	t.Helper()
	for _, id := range p.Instances() {
		if has(t, server, id) {
			n++
		}
	}
	return n
}

func has(t *testing.T, server *orthanctest.Server, instance string) bool {
	t.Helper()
	status, _, err := server.Do(context.Background(), "GET", "/instances/"+instance, nil)
	if err != nil {
		t.Fatal(err)
	}
	return status == 200
}

func TestCarriersDeliverAndFindTheirJobs(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s, ctx := newScene(t, version, nil), context.Background()
		for i, by := range []Carrier{Peer{"dest"}, Modality{Name: "dest"}, DICOMweb{"dest"}} {
			t.Run(by.String(), func(t *testing.T) {
				d, other := s.stored(t, fmt.Sprintf("delivery-%d", i)), s.stored(t, fmt.Sprintf("other-%d", i))
				if _, found, err := s.jobs.Find(ctx, d, by, ofNobody); found || err != nil {
					t.Fatalf("found a job before there was one: %v", err)
				}
				job, err := s.jobs.Submit(ctx, d, by)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.jobs.Follow(ctx, d, by, job, time.Minute); err != nil {
					t.Fatal(err)
				}
				if hold(t, s.destination, d) != 1 || hold(t, s.destination, other) != 0 {
					t.Error("the destination does not hold exactly what was sent")
				}
				if found, ok, err := s.jobs.Find(ctx, d, by, ofNobody); !ok || found != job || err != nil {
					t.Errorf("the job was not recognised: %q %t %v, want %q", found, ok, err, job)
				}
				if found, ok, err := s.jobs.Find(ctx, other, by, ofNobody); ok || err != nil {
					t.Errorf("another delivery's job was taken for this one: %q %v", found, err)
				}
				later := d
				later.ID, later.SubmittedAt = "later", time.Now().Add(time.Hour)
				if found, ok, err := s.jobs.Find(ctx, later, by, ofNobody); ok || err != nil {
					t.Errorf("the job of an earlier delivery of the same instance was taken for this one: %q %v", found, err)
				}
				// A job that carries our mark is ours, whatever the clocks say; another one is not when it is known to be another delivery's.
				made, err := s.client.Job(ctx, job)
				if err != nil {
					t.Fatal(err)
				}
				later.ID = d.ID
				if found, ok, err := s.jobs.Find(ctx, later, by, ofNobody); ok != (made.UserData[userDataKey] == d.ID) || err != nil {
					t.Errorf("after the clock was set back: %q %v, marked %v", found, err, made.UserData)
				}
				if found, ok, err := s.jobs.Find(ctx, d, by, func(string) (bool, error) { return true, nil }); ok != (made.UserData[userDataKey] == d.ID) || err != nil {
					t.Errorf("known to carry another delivery: %q %v, marked %v", found, err, made.UserData)
				}
				if found, err := by.Check(ctx, s.client); err != nil || found == "" {
					t.Errorf("check: %q, %v", found, err)
				}
			})
		}
	})
}

// A set goes in one job, is found again by it, in whatever order Orthanc names the instances, and is told from a part of it and from more.
func TestCarriersTakeSets(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s, ctx := newScene(t, version, nil), context.Background()
		for i, by := range []Carrier{Peer{"dest"}, Modality{Name: "dest"}, DICOMweb{"dest"}} {
			t.Run(by.String(), func(t *testing.T) {
				d, alone := s.set(t, fmt.Sprintf("set-%d", i), 3), s.stored(t, fmt.Sprintf("alone-%d", i))
				job, err := s.jobs.Submit(ctx, d, by)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.jobs.Follow(ctx, d, by, job, time.Minute); err != nil {
					t.Fatal(err)
				}
				if n := hold(t, s.destination, d); n != 3 {
					t.Errorf("%d of 3 instances arrived", n)
				}
				unmarked := d
				unmarked.Parts = slices.Clone(d.Parts)
				slices.Reverse(unmarked.Parts)
				if found, ok, err := s.jobs.Find(ctx, unmarked, by, ofNobody); !ok || found != job || err != nil {
					t.Errorf("the job was not found again: %q %t %v, want %q", found, ok, err, job)
				}
				recognised, err := by.recognise(ctx, s.client, unmarked)
				if err != nil {
					t.Fatal(err)
				}
				made, err := s.client.Job(ctx, job)
				if err != nil || !recognised(made) {
					t.Errorf("the job was not recognised without our mark: %+v, %v", made, err)
				}
				less, more := d, d
				less.ID, less.Parts = "less", d.Parts[:2]
				more.ID, more.Parts = "more", append(slices.Clone(d.Parts), alone.Parts...)
				for _, other := range []Parcel{less, more} {
					if found, ok, err := s.jobs.Find(ctx, other, by, ofNobody); ok || err != nil {
						t.Errorf("the job was taken for one with %s: %q %v", other.ID, found, err)
					}
				}
				if err := s.jobs.Follow(ctx, less, by, job, time.Minute); err == nil || !strings.Contains(err.Error(), "sent 3 instances instead of 2") {
					t.Errorf("a job that sent another number counts as delivered: %v", err)
				}
			})
		}
	})
}

// TestStorageCommitment: what the modality does not keep is not delivered, although it has taken it.
func TestStorageCommitment(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		discard := filepath.Join(t.TempDir(), "discard.lua")
		if err := os.WriteFile(discard, []byte("function ReceivedInstanceFilter(dicom, origin, info) return false end\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		archivePort := freePort(t)
		knows := map[string]any{"DicomModalities": map[string]any{"archive": []any{"ARCHIVE", "127.0.0.1", archivePort}}}
		keeper := orthanctest.New(t, orthanctest.Config{Version: version, AET: "KEEPER", Extra: knows})
		loser := orthanctest.New(t, orthanctest.Config{Version: version, AET: "LOSER", Lua: []string{discard}, Extra: knows})
		archive := orthanctest.New(t, orthanctest.Config{Version: version, AET: "ARCHIVE", DicomPort: archivePort, Extra: map[string]any{"DicomModalities": map[string]any{
			"keeper": []any{"KEEPER", "127.0.0.1", keeper.DicomPort}, "loser": []any{"LOSER", "127.0.0.1", loser.DicomPort},
		}}})
		client, err := orthanc.New(orthanc.Options{URL: archive.URL, Username: archive.Username, Password: archive.Password})
		if err != nil {
			t.Fatal(err)
		}
		s, ctx := &scene{archive: archive, client: client, jobs: &Jobs{Orthanc: client}}, context.Background()
		for name, tt := range map[string]struct {
			by   Modality
			want string
		}{
			"kept":                {Modality{Name: "keeper", Commit: true}, ""},
			"discarded":           {Modality{Name: "loser", Commit: true}, "storage commitment: modality loser does not keep 3 of 3 instances"},
			"discarded unnoticed": {Modality{Name: "loser"}, ""},
		} {
			t.Run(name, func(t *testing.T) {
				d := s.set(t, name, 3)
				job, err := s.jobs.Submit(ctx, d, tt.by)
				if err != nil {
					t.Fatal(err)
				}
				err = s.jobs.Follow(ctx, d, tt.by, job, time.Minute)
				if (err == nil) != (tt.want == "") || err != nil && (err.Error() != tt.want || errors.Is(err, ErrUncertain) || errors.Is(err, ErrJobLost)) {
					t.Errorf("%v, want %q", err, tt.want)
				}
			})
		}
	})
}

// A modality that has taken the instances and says nothing about keeping them holds the delivery no longer than its time-out.
func TestStorageCommitmentWithoutAnAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := `{"ID": "` + someJob + `", "State": "Success", "Content": {"InstancesCount": 1, "StorageCommitmentTransactionUID": "2.25.1"}}`
		switch {
		case strings.Contains(r.URL.Path, "/storage-commitment/2.25.1"):
			body = `{"Status": "Pending"}`
		case strings.Contains(r.URL.Path, "/storage-commitment/"):
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, body)
	}))
	defer server.Close()
	client, err := orthanc.New(orthanc.Options{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	j, d, by := &Jobs{Orthanc: client}, parcel(""), Modality{Name: "dest", Commit: true}
	if err := j.Follow(context.Background(), d, by, someJob, 200*time.Millisecond); err == nil || !strings.Contains(err.Error(), "has not said whether it keeps them") {
		t.Errorf("no answer: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := j.Follow(ctx, d, by, someJob, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("the router stops meanwhile: %v", err)
	}
	forgotten := orthanc.Job{Content: map[string]any{"StorageCommitmentTransactionUID": "2.25.2"}}
	if err := by.confirm(context.Background(), client, forgotten); err == nil || !strings.Contains(err.Error(), "no longer has the report") {
		t.Errorf("a restarted Orthanc: %v", err)
	}
}

// ofNobody: no job is known to carry another delivery.
func ofNobody(string) (bool, error) { return false, nil }

const someJob = "12345678-1234-1234-1234-123456789abc"

func TestOnlyResources(t *testing.T) {
	p := Parcel{Parts: []Part{{Item: store.Item{InstanceID: "a"}}, {Item: store.Item{InstanceID: "b"}}}}
	for name, tt := range map[string]struct {
		list any
		want bool
	}{
		"in order":         {[]any{"a", "b"}, true},
		"in another order": {[]any{"b", "a"}, true},
		"too few":          {[]any{"a"}, false},
		"too many":         {[]any{"a", "b", "c"}, false},
		"another":          {[]any{"a", "c"}, false},
		"one twice":        {[]any{"a", "a"}, false},
		"no texts":         {[]any{1.0, nil}, false},
		"no list":          {"a", false},
		"nothing":          {nil, false},
	} {
		if got := onlyResources(tt.list, p); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// A plugin's job that sends to the same peer as many instances as the delivery holds is taken for its own, one of another number is not.
func TestTransfersRecognises(t *testing.T) {
	recognised, err := Transfers{"p"}.recognise(context.Background(), nil, Parcel{Parts: make([]Part, 2)})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		kind, peer string
		n          float64
		want       bool
	}{
		"push": {"PushTransfer", "p", 2, true}, "pull": {"PullTransfer", "p", 2, true}, "another peer": {"PushTransfer", "q", 2, false},
		"more": {"PushTransfer", "p", 3, false}, "another kind": {"OrthancPeerStore", "p", 2, false},
	} {
		job := orthanc.Job{Type: tt.kind, Content: map[string]any{"Peer": tt.peer, "TotalInstances": tt.n}}
		if got := recognised(job); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// Of Orthanc's jobs the router never takes all, so that people's own jobs go on.
func TestSlots(t *testing.T) {
	for name, tt := range map[string]struct {
		configured int
		says       string // Orthanc
		want       int64
	}{
		"Orthanc says it":        {0, `{"Version": "1.13.0", "Performance": {"ConcurrentJobs": 4}}`, 3},
		"an Orthanc before 1.13": {0, `{"Version": "1.12.7"}`, 1},
		"the configuration wins": {3, `{"Version": "1.13.0", "Performance": {"ConcurrentJobs": 9}}`, 2},
		"never none":             {1, ``, 1},
		"Orthanc has one job":    {0, `{"Version": "1.13.0", "Performance": {"ConcurrentJobs": 1}}`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, tt.says) }))
			defer server.Close()
			client, err := orthanc.New(orthanc.Options{URL: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			j := &Jobs{Orthanc: client, Concurrent: tt.configured}
			var now, most atomic.Int64
			var group sync.WaitGroup
			for range 20 {
				group.Go(func() {
					release, err := j.Slot(context.Background())
					if err != nil {
						t.Error(err)
						return
					}
					defer release()
					n := now.Add(1)
					for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
					}
					time.Sleep(5 * time.Millisecond)
					now.Add(-1)
				})
			}
			group.Wait()
			if most.Load() != tt.want {
				t.Errorf("%d at a time, want %d", most.Load(), tt.want)
			}
		})
	}
}

// Whoever waits for a slot ends with the router, and an Orthanc that did not say its number is asked again.
func TestSlotWaits(t *testing.T) {
	var up atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, `{"Version": "1.13.0", "Performance": {"ConcurrentJobs": 2}}`)
	}))
	defer server.Close()
	client, err := orthanc.New(orthanc.Options{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	j := &Jobs{Orthanc: client}
	if _, err := j.Slot(context.Background()); !orthanc.IsUnreachable(err) {
		t.Errorf("an Orthanc that is down: %v", err)
	}
	up.Store(true)
	release, err := j.Slot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := j.Slot(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the only slot was given twice: %v", err)
	}
	release()
	if _, err := j.Slot(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestCarriersSayWhatFailed(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s, ctx := newScene(t, version, nil), context.Background()
		for _, by := range []Carrier{Peer{"closed"}, Modality{Name: "closed"}, DICOMweb{"closed"}} {
			t.Run(by.String(), func(t *testing.T) {
				d := s.stored(t, "failing "+by.String())
				job, err := s.jobs.Submit(ctx, d, by)
				if err != nil {
					t.Fatal(err)
				}
				err = s.jobs.Follow(ctx, d, by, job, time.Minute)
				if err == nil || orthanc.IsUnreachable(err) || errors.Is(err, ErrJobLost) || !strings.Contains(err.Error(), "failed: error") {
					t.Errorf("a destination that is down: %v", err)
				}
				if _, found, err := s.jobs.Find(ctx, d, by, ofNobody); found || err != nil {
					t.Errorf("a failed job counts as underway: %v", err)
				}
			})
		}
		for _, tt := range []struct {
			by   Carrier
			want string
		}{
			{Peer{"nowhere"}, `no peer "nowhere" (OrthancPeers: closed, dest)`},
			{Modality{Name: "nowhere"}, `no modality "nowhere" (DicomModalities: closed, dest)`},
			{DICOMweb{"nowhere"}, `no DICOMweb server "nowhere" (DicomWeb.Servers: closed, dest)`},
			{Peer{"closed"}, "does not reach it"},
			{Modality{Name: "closed"}, "no answer to C-ECHO from CLOSED"},
		} {
			if _, err := tt.by.Check(ctx, s.client); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("check of %s: %v, want %q", tt.by, err, tt.want)
			}
		}
		if _, err := s.jobs.Submit(ctx, s.stored(t, "x"), Peer{"nowhere"}); err == nil || errors.Is(err, ErrUncertain) {
			t.Errorf("an unknown peer is a certain refusal: %v", err)
		}
		if err := s.jobs.Follow(ctx, Parcel{}, Peer{"dest"}, "00000000-0000-0000-0000-000000000000", time.Second); !errors.Is(err, ErrJobLost) {
			t.Errorf("an unknown job: %v", err)
		}
		if err := s.archive.Kill(); err != nil {
			t.Fatal(err)
		}
		d := Parcel{Delivery: store.Delivery{ID: "y", Level: store.LevelInstance}, Parts: []Part{{Item: store.Item{InstanceID: "11111111-11111111-11111111-11111111-11111111"}}}}
		if _, err := s.jobs.Submit(ctx, d, Peer{"dest"}); !errors.Is(err, ErrUncertain) {
			t.Errorf("without an answer the submission is uncertain: %v", err)
		}
	})
}

// TestHangingDestinationIsCancelled: a node that takes connections and never answers costs one time-out, and the job is cancelled.
func TestHangingDestinationIsCancelled(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		hole, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = hole.Close() }()
		s, ctx := newScene(t, version, map[string]any{"hole": []any{"HOLE", "127.0.0.1", hole.Addr().(*net.TCPAddr).Port}}), context.Background()
		d, by := s.stored(t, "hanging"), Modality{Name: "hole"}
		job, err := s.jobs.Submit(ctx, d, by)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.jobs.Follow(ctx, d, by, job, 500*time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not end within 500ms") {
			t.Errorf("a hanging node: %v", err)
		}
	})
}

// TestStorescp sends to DCMTK's receiver, which is nobody's relative of Orthanc.
func TestStorescp(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		folder, port := t.TempDir(), freePort(t)
		storescp, err := orthanctest.Tool(version, "storescp")
		if err != nil {
			t.Fatal(err)
		}
		receiver := exec.CommandContext(context.Background(), storescp, "--output-directory", folder, "--aetitle", "SCP", fmt.Sprint(port))
		if err := receiver.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = receiver.Process.Kill(); _ = receiver.Wait() }()
		s, ctx := newScene(t, version, map[string]any{"scp": []any{"SCP", "127.0.0.1", port}}), context.Background()
		by := Modality{Name: "scp"}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if _, err := by.Check(ctx, s.client); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		d := s.stored(t, "scp")
		job, err := s.jobs.Submit(ctx, d, by)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.jobs.Follow(ctx, d, by, job, time.Minute); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(folder, "*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("storescp holds %v, %v", files, err)
		}
		if content, err := os.ReadFile(files[0]); err != nil || !bytes.Contains(content[:min(len(content), 512)], []byte("DICM")) {
			t.Errorf("what arrived is no DICOM file: %v", err)
		}
	})
}

// Orthanc writes a peer as a list, or as an object where the peer has a Timeout.
func TestPeerAddress(t *testing.T) {
	for name, tt := range map[string]struct{ peer, want any }{
		"short":   {[]any{"http://dest/", "user", ""}, "http://dest/"},
		"long":    {map[string]any{"Url": "http://dest/", "Timeout": 10.0}, "http://dest/"},
		"empty":   {[]any{}, nil},
		"nothing": {nil, nil},
	} {
		if got := peerAddress(tt.peer); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
