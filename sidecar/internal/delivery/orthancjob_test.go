package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
func (s *scene) stored(t *testing.T, id string) store.Delivery {
	t.Helper()
	var file bytes.Buffer
	if _, err := phantom.Write(&file, phantom.Options{Class: "spine", Rows: 64, Columns: 64}); err != nil {
		t.Fatal(err)
	}
	instance, err := s.archive.Upload(context.Background(), file.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return store.Delivery{ID: id, InstanceID: instance, SubmittedAt: time.Now()}
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
				if _, found, err := s.jobs.Find(ctx, d, by); found || err != nil {
					t.Fatalf("found a job before there was one: %v", err)
				}
				job, err := s.jobs.Submit(ctx, d, by)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.jobs.Follow(ctx, job, time.Minute); err != nil {
					t.Fatal(err)
				}
				if !has(t, s.destination, d.InstanceID) || has(t, s.destination, other.InstanceID) {
					t.Error("the destination does not hold exactly what was sent")
				}
				if found, ok, err := s.jobs.Find(ctx, d, by); !ok || found != job || err != nil {
					t.Errorf("the job was not recognised: %q %t %v, want %q", found, ok, err, job)
				}
				if found, ok, err := s.jobs.Find(ctx, other, by); ok || err != nil {
					t.Errorf("another delivery's job was taken for this one: %q %v", found, err)
				}
				later := d
				later.ID, later.SubmittedAt = "later", time.Now().Add(time.Hour)
				if found, ok, err := s.jobs.Find(ctx, later, by); ok || err != nil {
					t.Errorf("the job of an earlier delivery of the same instance was taken for this one: %q %v", found, err)
				}
				if found, err := by.Check(ctx, s.client); err != nil || found == "" {
					t.Errorf("check: %q, %v", found, err)
				}
			})
		}
	})
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
				err = s.jobs.Follow(ctx, job, time.Minute)
				if err == nil || orthanc.IsUnreachable(err) || errors.Is(err, ErrJobLost) || !strings.Contains(err.Error(), "failed: error") {
					t.Errorf("a destination that is down: %v", err)
				}
				if _, found, err := s.jobs.Find(ctx, d, by); found || err != nil {
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
		if err := s.jobs.Follow(ctx, "00000000-0000-0000-0000-000000000000", time.Second); !errors.Is(err, ErrJobLost) {
			t.Errorf("an unknown job: %v", err)
		}
		if err := s.archive.Kill(); err != nil {
			t.Fatal(err)
		}
		d := store.Delivery{ID: "y", InstanceID: "11111111-11111111-11111111-11111111-11111111"}
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
		job, err := s.jobs.Submit(ctx, s.stored(t, "hanging"), Modality{Name: "hole"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.jobs.Follow(ctx, job, 500*time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not end within 500ms") {
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
		job, err := s.jobs.Submit(ctx, s.stored(t, "scp"), by)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.jobs.Follow(ctx, job, time.Minute); err != nil {
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
