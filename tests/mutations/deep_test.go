package mutations

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// TestDeepSequences: a file with sixty sequences inside one another comes by C-STORE, which Orthanc survives, and a rule asks for tags, which it would
// not survive. The router must not ask, neither now nor again.
func TestDeepSequences(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		inbox := t.TempDir()
		router := routertest.New(t, routertest.Config{Version: version, Settings: routertest.Settings{
			"intake": routertest.Settings{"poll_interval": "200ms"}, "jobs": routertest.Settings{"max_attempts": 3, "backoff_max": "1s"},
			"model":        routertest.Settings{"thresholds": map[string]float64{"abdominal": 0, "adult_chest": 0, "pediatric_chest": 0, "spine": 0, "others": 0}},
			"forwarding":   routertest.Settings{"enabled": true},
			"destinations": []any{map[string]any{"name": "inbox", "folder": map[string]any{"path": inbox, "template": "{instance}.dcm"}}},
			"rules":        []any{map[string]any{"name": "all", "when": `tags["StudyDescription"] != "none"`, "to": []string{"inbox"}}},
		}})
		archive := orthanctest.New(t, orthanctest.Config{Version: version})
		router.Beside(t, archive, "")
		if err := router.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		folder := t.TempDir()
		for name, levels := range map[string]int{"deep": 60, "flat": 1} {
			f := drawn(t)[0].clone()
			f.rename(rand.New(rand.NewPCG(1, uint64(levels))), name)
			f.put(studyUID, "UI", []byte(orthanctest.NewUID()))
			inner := write(nil, binary.LittleEndian, element{0x00080050, "SH", []byte("AB"), 2})
			var e element
			for range levels {
				items := write(nil, binary.LittleEndian, element{item, "", inner, uint32(len(inner))})
				e = element{0x00081140, "SQ", items, uint32(len(items))}
				inner = write(nil, binary.LittleEndian, e)
			}
			f.put(e.tag, e.vr, e.value)
			if err := os.WriteFile(filepath.Join(folder, name+".dcm"), f.bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := archive.Store(t.Context(), folder); err != nil {
			t.Fatal(err)
		}
		var ids []string
		if err := archive.GetJSON(t.Context(), "/instances", &ids); err != nil {
			t.Fatal(err)
		}
		if err := router.Hook(t.Context(), ids...); err != nil {
			t.Fatal(err)
		}
		states := map[string]int{}
		for _, e := range ended(t, router, archive, len(ids)) {
			states[e.State]++
			t.Log(e.State, e.Reason)
		}
		if states["published"] != 1 || states["unreadable"] != len(ids)-1 {
			t.Errorf("%v", states)
		}
		for files := 0; files == 0; time.Sleep(50 * time.Millisecond) {
			found, err := filepath.Glob(filepath.Join(inbox, "*.dcm"))
			if err != nil {
				t.Fatal(err)
			}
			files = len(found)
			select {
			case <-archive.Ended():
				t.Fatal("Orthanc has died")
			case <-t.Context().Done():
				t.Fatal("nothing was delivered")
			default:
			}
		}
		select {
		case <-archive.Ended():
			t.Error("Orthanc has died")
		default:
		}
	})
}
