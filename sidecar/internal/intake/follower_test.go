package intake

import (
	"bytes"
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/metrics"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
)

// archive is a real Orthanc and a follower of it that polls only when it is told to.
type archive struct {
	t        *testing.T
	server   *orthanctest.Server
	follower *Follower
}

func newArchive(t *testing.T, version string) *archive {
	t.Helper()
	orthanctest.Require(t, version)
	server := orthanctest.New(t, orthanctest.Config{Version: version, Extra: map[string]any{"OverwriteInstances": true}})
	client, err := orthanc.New(orthanc.Options{URL: server.URL, Username: server.Username, Password: server.Password})
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{t: t, server: server, follower: &Follower{
		Orthanc: client, Marker: newMarker(t), PollInterval: time.Second, Batch: 3, Overlap: 50, Metrics: metrics.New(), Log: zerolog.Nop(),
		Objects: Objects{SOPClasses: []string{phantom.DXForPresentation}},
	}}
	return a
}

// store puts a picture into Orthanc and returns its identifier.
func (a *archive) store(o phantom.Options) string {
	a.t.Helper()
	if o.Rows == 0 {
		o.Rows, o.Columns, o.Bits, o.Class = 32, 32, 12, "spine"
	}
	var file bytes.Buffer
	if _, err := phantom.Write(&file, o); err != nil {
		a.t.Fatal(err)
	}
	id, err := a.server.Upload(context.Background(), file.Bytes())
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

// poll reads to the end of the changes.
func (a *archive) poll() {
	a.t.Helper()
	a.follower.verified, a.follower.overlap = time.Time{}, time.Time{} // every check that time would bring
	for range 50 {
		done, err := a.follower.poll(context.Background())
		if err != nil {
			a.t.Fatal(err)
		}
		if done {
			return
		}
	}
	a.t.Fatal("the follower does not come to the end of the changes")
}

// due returns the sources of the instances' marks; "" for one that is not marked.
func (a *archive) due(ids ...string) []store.Source {
	a.t.Helper()
	var out []store.Source
	for _, id := range ids {
		row, err := a.follower.Marker.Store.Instance(context.Background(), id)
		if err != nil {
			out = append(out, "")
			continue
		}
		out = append(out, row.Source)
	}
	return out
}

func (a *archive) want(what string, want []store.Source, ids ...string) {
	a.t.Helper()
	if got := a.due(ids...); !slices.Equal(got, want) {
		a.t.Errorf("%s: marked by %q, want %q", what, got, want)
	}
}

func forVersions(t *testing.T, test func(t *testing.T, version string)) {
	versions := orthanctest.Versions()
	if len(versions) == 0 {
		orthanctest.Require(t, "1.12")
	}
	for _, v := range versions {
		t.Run(v, func(t *testing.T) { test(t, v) })
	}
}

func TestFollowerFromNow(t *testing.T) {
	forVersions(t, func(t *testing.T, version string) {
		a := newArchive(t, version)
		old := a.store(phantom.Options{})
		a.poll()
		var fresh []string
		for range 7 { // more than two pages
			fresh = append(fresh, a.store(phantom.Options{}))
		}
		other := a.store(phantom.Options{Class: "spine", Rows: 32, Columns: 32, Bits: 12, SOPClass: phantom.CR})
		a.poll()
		a.want("what was there before", []store.Source{""}, old)
		a.want("what came after", slices.Repeat([]store.Source{store.SourceFollower}, 7), fresh...)
		a.want("another SOP class", []store.Source{""}, other)

		before, err := a.follower.Marker.Store.Instance(context.Background(), fresh[0])
		if err != nil {
			t.Fatal(err)
		}
		a.follower.recent = nil // as after a restart: the overlap is read again
		a.poll()
		after, err := a.follower.Marker.Store.Instance(context.Background(), fresh[0])
		if err != nil || after.Due < before.Due {
			t.Fatalf("%+v, %v", after, err)
		}
		a.want("what was there before, after a restart", []store.Source{""}, old)
	})
}

func TestFollowerFromBeginningLabelsOnly(t *testing.T) {
	forVersions(t, func(t *testing.T, version string) {
		a := newArchive(t, version)
		a.follower.FromBeginning = true
		old := []string{a.store(phantom.Options{}), a.store(phantom.Options{})}
		a.poll()
		fresh := a.store(phantom.Options{})
		a.poll()
		a.want("old and fresh", []store.Source{store.SourceReplay, store.SourceReplay, store.SourceFollower}, old[0], old[1], fresh)
	})
}

func TestFollowerWithoutExtendedChanges(t *testing.T) {
	forVersions(t, func(t *testing.T, version string) {
		a := newArchive(t, version)
		a.poll()
		a.follower.extended = false // as on an Orthanc before 1.12.5
		a.follower.verified = time.Now()
		ids := []string{a.store(phantom.Options{}), a.store(phantom.Options{})}
		for range 20 {
			if done, err := a.follower.poll(context.Background()); err != nil {
				t.Fatal(err)
			} else if done {
				break
			}
		}
		a.want("without a filter", []store.Source{store.SourceFollower, store.SourceFollower}, ids...)
		anchors, err := a.follower.Marker.Store.Anchors(context.Background())
		if err != nil || len(anchors) == 0 {
			t.Fatalf("anchors %+v, %v", anchors, err)
		}
		for _, anchor := range anchors {
			if anchor.Seq == 0 || anchor.ID == "" || anchor.Date == "" {
				t.Errorf("an anchor that is no row of the log: %+v", anchor)
			}
		}
	})
}

func TestFollowerSkipsWhatTheHookBrought(t *testing.T) {
	forVersions(t, func(t *testing.T, version string) {
		ctx := context.Background()
		a := newArchive(t, version)
		a.poll()
		o := phantom.Options{Class: "spine", Rows: 32, Columns: 32, Bits: 12, StudyUID: "2.25.1", SeriesUID: "2.25.2", SOPInstanceUID: "2.25.3"}
		id := a.store(o)
		if err := a.follower.Marker.Mark(ctx, store.SourceHook, id); err != nil {
			t.Fatal(err)
		}
		a.finish(id)
		a.poll()
		row, err := a.follower.Marker.Store.Instance(ctx, id)
		if err != nil || row.Due != 1 {
			t.Errorf("marked a second time for the same stored file: %+v, %v", row, err)
		}
		o.Seed = 99 // another picture under the same identifiers
		if again := a.store(o); again != id {
			t.Fatalf("the overwrite has another identifier: %s", again)
		}
		a.poll()
		if row, err = a.follower.Marker.Store.Instance(ctx, id); err != nil || row.Due != 2 || row.State != store.StateDue {
			t.Errorf("an overwrite was not marked: %+v, %v", row, err)
		}
	})
}

func TestFollowerRecognisesAnotherDatabase(t *testing.T) {
	forVersions(t, func(t *testing.T, version string) {
		for name, grown := range map[string]int{"behind the cursor": 1, "grown past the cursor": 8} {
			t.Run(name, func(t *testing.T) {
				ctx := context.Background()
				a := newArchive(t, version)
				a.poll()
				for range 4 {
					a.store(phantom.Options{})
				}
				a.poll()
				if err := a.server.Stop(); err != nil {
					t.Fatal(err)
				}
				if err := os.RemoveAll(filepath.Join(a.server.Dir, "storage")); err != nil {
					t.Fatal(err)
				}
				if err := a.server.Restart(ctx); err != nil {
					t.Fatal(err)
				}
				var ids []string
				for range grown {
					ids = append(ids, a.store(phantom.Options{}))
				}
				a.poll()
				a.want("the other database's instances", slices.Repeat([]store.Source{store.SourceReplay}, grown), ids...)
				fresh := a.store(phantom.Options{})
				a.poll()
				a.want("what comes after", []store.Source{store.SourceFollower}, fresh)
			})
		}
	})
}

func TestFollowerGoesBackToTheLastCommonAnchor(t *testing.T) {
	forVersions(t, func(t *testing.T, version string) {
		ctx := context.Background()
		a := newArchive(t, version)
		a.poll()
		a.store(phantom.Options{})
		a.poll()
		kept := a.store(phantom.Options{})
		a.poll()
		// A backup is taken here, then two more come, and the backup is restored.
		if err := a.server.Stop(); err != nil {
			t.Fatal(err)
		}
		storage, backup := filepath.Join(a.server.Dir, "storage"), filepath.Join(t.TempDir(), "backup")
		if err := os.CopyFS(backup, os.DirFS(storage)); err != nil {
			t.Fatal(err)
		}
		if err := a.server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		lost := a.store(phantom.Options{})
		a.poll()
		if err := a.server.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(storage); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(storage, os.DirFS(backup)); err != nil {
			t.Fatal(err)
		}
		if err := a.server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		replayed := []string{a.store(phantom.Options{}), a.store(phantom.Options{}), a.store(phantom.Options{})}
		rowBefore, err := a.follower.Marker.Store.Instance(ctx, kept)
		if err != nil {
			t.Fatal(err)
		}
		a.poll()
		a.want("after the restore", []store.Source{store.SourceReplay, store.SourceReplay, store.SourceReplay}, replayed...)
		a.want("what the restore lost", []store.Source{store.SourceFollower}, lost)
		if row, err := a.follower.Marker.Store.Instance(ctx, kept); err != nil || row.Due != rowBefore.Due {
			t.Errorf("what both databases hold was marked again: %+v, %v", row, err)
		}
	})
}

func TestWanted(t *testing.T) {
	every, some := Objects{SOPClasses: []string{"1"}}, Objects{SOPClasses: []string{"1"}, Modalities: []string{"DX"}}
	for _, tt := range []struct {
		o             Objects
		sop, modality string
		want          bool
	}{{every, "1", "", true}, {every, "2", "", false}, {every, "", "", true}, {some, "1", "DX", true}, {some, "1", "CR", false}, {some, "2", "DX", false}} {
		if got := tt.o.Wanted(tt.sop, tt.modality); got != tt.want {
			t.Errorf("%+v %q %q: %t", tt.o, tt.sop, tt.modality, got)
		}
	}
}

// finish does what the classify job does when it is through.
func (a *archive) finish(id string) {
	a.t.Helper()
	ctx := context.Background()
	inst, err := a.follower.Orthanc.Instance(ctx, id)
	if err != nil {
		a.t.Fatal(err)
	}
	row, err := a.follower.Marker.Store.Instance(ctx, id)
	if err != nil {
		a.t.Fatal(err)
	}
	err = a.follower.Marker.Store.Tx(ctx, func(tx *sql.Tx) error {
		_, err := a.follower.Marker.Store.Classified(ctx, tx, id, row.Due, store.Content{FileUUID: inst.FileUUID, MD5: "x", Model: "m"})
		return err
	})
	if err != nil {
		a.t.Fatal(err)
	}
}
