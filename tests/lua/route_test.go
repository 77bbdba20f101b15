package lua_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// routing is an archive with lua/route-by-bodypart.lua, a peer behind a counting proxy, and a modality.
type routing struct {
	*testing.T
	archive, peer, modality *orthanctest.Server
	proxy                   *routertest.Proxy
	site                    string // file into which a site's own callbacks write
}

// newRouting starts them. The archive has a site's own script before ours.
func newRouting(t *testing.T, version, routes string, settings ...string) *routing {
	t.Helper()
	folder, err := orthanctest.Repository()
	require.NoError(t, err)
	w := &routing{T: t, site: filepath.Join(t.TempDir(), "seen.txt")}
	w.peer = orthanctest.New(t, orthanctest.Config{Version: version, Name: "peer", AET: "PEER"})
	w.modality = orthanctest.New(t, orthanctest.Config{Version: version, Name: "modality", AET: "MODALITY"})
	w.proxy = routertest.NewProxy(t, w.peer.URL)
	script := filepath.Join(t.TempDir(), "site.lua")
	require.NoError(t, os.WriteFile(script, []byte(`
local function note(what, id)
  local file = io.open('`+w.site+`', 'a')
  file:write(what .. ' ' .. id .. '\n')
  file:close()
end
function OnStableStudy(id, tags, metadata) note('study', id) error('the site made a mistake') end
function OnUpdatedInstance(id) note('updated', id) end`), 0o600))
	env := []string{"IMAGING_ROUTER_ROUTES=" + routes}
	for _, setting := range settings {
		env = append(env, "IMAGING_ROUTER_"+setting)
	}
	w.archive = orthanctest.New(t, orthanctest.Config{
		Version: version, Name: "archive", Env: env, Lua: []string{script, filepath.Join(folder, "lua", "route-by-bodypart.lua")},
		Users: map[string]string{"test": "test", "chest-ai": "chest"},
		Extra: map[string]any{
			"StableAge":       1,
			"OrthancPeers":    map[string]any{"ai": map[string]any{"Url": w.proxy.URL + "/", "Username": w.peer.Username, "Password": w.peer.Password}},
			"DicomModalities": map[string]any{"pacs": []any{"MODALITY", "127.0.0.1", w.modality.DicomPort}},
		},
	})
	w.archive.Username, w.archive.Password = "test", "test"
	return w
}

// result writes what the router writes, in its order.
func (w *routing) result(id, class string, review bool) {
	w.Helper()
	w.put(id, "5111", fmt.Sprintf(`{"class":%q,"confidence":0.99,"review":%t}`, class, review))
	w.put(id, "5110", class)
}

func (w *routing) put(id, number, value string) {
	w.Helper()
	status, answer, err := w.archive.Do(w.Context(), http.MethodPut, "/instances/"+id+"/metadata/"+number, []byte(value))
	require.NoError(w, err)
	require.Equal(w, http.StatusOK, status, "%s", answer)
}

// stable waits until the archive has called the callbacks of a study, ours among them: the site's comes after ours.
func (w *routing) stable(studies int) {
	w.Helper()
	require.Eventually(w, func() bool { return strings.Count(w.seen(), "study ") >= studies }, 30*time.Second, 20*time.Millisecond)
}

func (w *routing) seen() string {
	text, err := os.ReadFile(w.site)
	if err != nil {
		return ""
	}
	return string(text)
}

// memory is to where the script says that it has sent an instance.
func (w *routing) memory(id string) string {
	w.Helper()
	status, answer, err := w.archive.Do(w.Context(), http.MethodGet, "/instances/"+id+"/metadata/5114", nil)
	require.NoError(w, err)
	if status != http.StatusOK {
		return ""
	}
	return string(answer)
}

// arrived counts the instances of a server.
func arrived(t *testing.T, s *orthanctest.Server) int {
	t.Helper()
	var all []string
	require.NoError(t, s.GetJSON(t.Context(), "/instances", &all))
	return len(all)
}

// jobs counts the archive's jobs by type, and fails the test for one that failed.
func (w *routing) jobs() map[string]int {
	w.Helper()
	var all []struct{ Type, State, ErrorDetails string }
	require.NoError(w, w.archive.GetJSON(w.Context(), "/jobs?expand", &all))
	n := map[string]int{}
	for _, j := range all {
		require.NotEqual(w, "Failure", j.State, "%s: %s", j.Type, j.ErrorDetails)
		n[j.Type]++
	}
	return n
}

func (w *routing) goes(id, where string) {
	w.Helper()
	require.Eventually(w, func() bool { return w.memory(id) == where }, 30*time.Second, 20*time.Millisecond, "it went to %q, want %q\n%s", w.memory(id), where, w.archive.Log())
}

// What has a result when its study becomes stable goes then, what gets one later goes later, once each; review, other classes, copies and
// what has no result go nowhere.
func TestRoutesByBodyPart(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newRouting(t, version, "spine=peer:ai,modality:pacs; adult_chest=peer:ai")
		study := orthanctest.NewUID()
		spine, _ := upload(t, w.archive, orthanctest.File{StudyUID: study})
		unsure, _ := upload(t, w.archive, orthanctest.File{StudyUID: study})
		hand, _ := upload(t, w.archive, orthanctest.File{StudyUID: study})
		late, _ := upload(t, w.archive, orthanctest.File{StudyUID: study})
		never, _ := upload(t, w.archive, orthanctest.File{StudyUID: study})
		w.result(spine, "spine", false)
		w.result(unsure, "spine", true)
		w.result(hand, "others", false)
		require.Empty(t, w.memory(spine), "it did not wait for the study")
		w.stable(1)
		w.goes(spine, "peer:ai,modality:pacs")
		require.Empty(t, w.memory(late))
		w.result(late, "adult_chest", false)
		w.goes(late, "peer:ai")

		// A person has looked: the result is written anew without review.
		w.result(unsure, "spine", false)
		w.goes(unsure, "peer:ai,modality:pacs")
		require.Eventually(t, func() bool { return arrived(t, w.peer) == 3 && arrived(t, w.modality) == 2 }, 30*time.Second, 20*time.Millisecond)

		// Written again, after a restart as well: nothing is sent again.
		w.result(spine, "spine", false)
		w.result(late, "adult_chest", false)
		require.NoError(t, w.archive.Restart(t.Context()))
		w.result(spine, "spine", false)
		last, _ := upload(t, w.archive, orthanctest.File{})
		w.stable(2)
		w.result(last, "adult_chest", false)
		w.goes(last, "peer:ai") // events come in their order: all before it have been worked off
		require.Eventually(t, func() bool { return arrived(t, w.peer) == 4 }, 30*time.Second, 20*time.Millisecond)
		for sop, n := range w.proxy.Passed() {
			require.Equal(t, 1, n, sop)
		}
		require.Equal(t, 2, w.jobs()["DicomModalityStore"])
		require.Equal(t, 2, arrived(t, w.modality))
		require.Empty(t, w.memory(hand)+w.memory(never))

		// The site's own callbacks were called all the while, and its mistakes are its own.
		require.Contains(t, w.seen(), "updated "+late)
		require.Contains(t, w.archive.Log(), "the site made a mistake")
		require.NotContains(t, w.archive.Log(), "error in route-by-bodypart.lua")
	})
}

// Mistakes in the table are told at the start, an unknown peer when it is needed; the rest goes. What came from a destination stays.
func TestRoutesWithMistakesAndReturns(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newRouting(t, version, "spine=peer:ai,peer:nowhere,ftp:x,peer:../system; chest=peer:ai;nonsense", "LEVEL=instance", "SENDERS=peer:ai=chest-ai")
		for _, line := range []string{`"chest" is not a class`, `"ftp:x" is not peer:NAME or modality:NAME`, `"peer:../system" is not`, "left out: nonsense", "1 classes have destinations"} {
			require.Contains(t, w.archive.Log(), line)
		}
		spine, _ := upload(t, w.archive, orthanctest.File{})
		w.result(spine, "spine", false)
		w.goes(spine, "peer:ai") // at once, without waiting for the study
		require.Contains(t, w.archive.Log(), "could not be handed over for peer:nowhere")
		w.put(spine, "3000", "something else") // another change is another try
		require.Eventually(t, func() bool { return strings.Count(w.archive.Log(), "could not be handed over for peer:nowhere") >= 2 }, 30*time.Second, 20*time.Millisecond)

		w.archive.Username, w.archive.Password = "chest-ai", "chest" // the peer's account here
		returned, _ := upload(t, w.archive, orthanctest.File{})
		w.archive.Username, w.archive.Password = "test", "test"
		w.result(returned, "spine", false)
		ct, _ := upload(t, w.archive, orthanctest.File{})
		w.put(ct, "5110", "spine") // without a result it is not the router's
		var parent, modified struct{ ID string }
		require.NoError(t, w.archive.GetJSON(t.Context(), "/instances/"+spine+"/study", &parent))
		status, answer, err := w.archive.Do(t.Context(), http.MethodPost, "/studies/"+parent.ID+"/modify", map[string]any{"Replace": map[string]string{"InstitutionName": "elsewhere"}})
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, "%s", answer)
		require.NoError(t, json.Unmarshal(answer, &modified))
		var copies []struct{ ID string }
		require.NoError(t, w.archive.GetJSON(t.Context(), "/studies/"+modified.ID+"/instances", &copies))
		require.Len(t, copies, 1)
		w.result(copies[0].ID, "spine", false)
		last, _ := upload(t, w.archive, orthanctest.File{})
		w.result(last, "spine", false)
		w.goes(last, "peer:ai")
		require.Empty(t, w.memory(copies[0].ID), "a copy was sent")
		require.Eventually(t, func() bool { return arrived(t, w.peer) == 2 }, 30*time.Second, 20*time.Millisecond)
		require.Empty(t, w.memory(returned)+w.memory(ct))
		for sop, n := range w.proxy.Passed() {
			require.Equal(t, 1, n, sop)
		}
	})
}

// By the series: an X-ray goes when its series is stable. A series of another modality is not looked into.
func TestRoutesBySeries(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		w := newRouting(t, version, "spine=peer:ai", "LEVEL=series", "MODALITIES=DX")
		spine, _ := upload(t, w.archive, orthanctest.File{})
		ct, _ := upload(t, w.archive, orthanctest.File{SOPClass: orthanctest.CT, Modality: "CT"})
		w.result(spine, "spine", false)
		w.result(ct, "spine", false)
		require.Empty(t, w.memory(spine), "it did not wait for the series")
		w.goes(spine, "peer:ai")
		w.stable(2)
		require.Empty(t, w.memory(ct))
	})
}
