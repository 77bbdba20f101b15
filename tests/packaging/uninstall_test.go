package packaging

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

// breaking stands before an Orthanc and, when told so, lets only so many more DELETEs through.
func breaking(t *testing.T, target string) (address string, deletes *atomic.Int64) {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = &http.Transport{DisableKeepAlives: true}
	deletes = &atomic.Int64{}
	deletes.Store(1 << 40)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete && deletes.Add(-1) < 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, deletes
}

// statement runs one statement on the router's database.
func statement(t *testing.T, r *routertest.Router, text string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", r.Database())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), text, args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// Everything that the router wrote goes, over an interruption, and nothing that somebody else wrote.
func TestUninstall(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		for _, revisions := range []bool{false, true} {
			t.Run(map[bool]string{false: "plain", true: "CheckRevisions"}[revisions], func(t *testing.T) { uninstall(t, version, revisions) })
		}
	})
}

func uninstall(t *testing.T, version string, revisions bool) {
	t.Helper()
	archive := orthanctest.New(t, orthanctest.Config{Version: version, Extra: map[string]any{
		"UserMetadata":   map[string]int{"BodyPart": 5110, "Site": 3000}, // the other numbers without a name
		"CheckRevisions": revisions,
	}})
	front, deletes := breaking(t, archive.URL)
	r := routertest.New(t, routertest.Config{Version: version, Settings: routertest.Settings{
		"intake":  routertest.Settings{"modalities": []string{"DX"}, "poll_interval": "200ms", "from": "beginning"},
		"publish": routertest.Settings{"label_levels": []string{"study", "series", "instance"}},
	}})
	r.Beside(t, archive, front)
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	plain := upload(t, archive, phantom.Options{Class: "spine", Window: true})
	corrected := upload(t, archive, phantom.Options{Class: "adult_chest", Window: true, Seed: 2})
	forgotten := upload(t, archive, phantom.Options{Class: "abdominal", Window: true, Seed: 3})
	unwanted := upload(t, archive, phantom.Options{Class: "spine", SOPClass: phantom.CR, Seed: 4})
	eventually(t, "the X-rays are labelled", func() error { return labelled(t, archive, plain.study, corrected.study, forgotten.study) })
	eventually(t, "nothing is left to do", func() error {
		n, err := r.Query(t.Context(), "SELECT count(*) FROM instance WHERE state = 'published'")
		if err == nil && n != 3 {
			err = fmt.Errorf("%d are published", n)
		}
		return err
	})

	// What people and other programs wrote.
	label := labels(t, archive, "/studies/"+plain.study)[0]
	for _, path := range []string{"/studies/" + unwanted.study, "/series/" + unwanted.series} {
		put(t, archive, path+"/labels/"+label, "")
	}
	put(t, archive, "/studies/"+plain.study+"/labels/teaching", "")
	for _, path := range []string{"/studies/" + plain.study, "/instances/" + plain.instance} {
		put(t, archive, path+"/metadata/3000", "the site's")
	}
	put(t, archive, "/instances/"+unwanted.instance+"/metadata/5110", "hip")
	put(t, archive, "/instances/"+unwanted.instance+"/metadata/5111", `{"class":"spine"}`)
	theirs := "shoulder"
	if revisions { // changed as a person's program has to
		change(t, archive, "/instances/"+corrected.instance+"/metadata/5110", theirs)
	} else {
		put(t, archive, "/instances/"+corrected.instance+"/metadata/5110", theirs)
	}

	command := func(want int, says string, arguments ...string) string {
		t.Helper()
		stdout, stderr, status, err := r.Run(t.Context(), append([]string{"uninstall"}, arguments...)...)
		if err != nil || status != want || !strings.Contains(stdout+stderr, says) {
			t.Fatalf("uninstall %v: %v, status %d, not %q:\n%s%s", arguments, err, status, says, stdout, stderr)
		}
		return stdout
	}
	command(1, "stop it first", "--yes")
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	// The story of one is older than database.keep; its labels stand in the ledger for ever.
	for _, table := range []string{"event", "result", "delivery_item"} {
		statement(t, r, "DELETE FROM "+table+" WHERE instance_id = ?", forgotten.instance)
	}
	statement(t, r, "DELETE FROM instance WHERE id = ?", forgotten.instance)

	counted := command(0, "9 labels, on 9 studies, series and instances", "--dry-run")
	for _, want := range []string{"2 metadata BodyPart and 3 BodyPartResult", "9 markers", "1 labels or values there were set or changed by somebody else"} {
		if !strings.Contains(counted, want) {
			t.Errorf("it does not count %q:\n%s", want, counted)
		}
	}
	command(1, "nothing was removed")
	if err := labelled(t, archive, plain.study, corrected.study, forgotten.study); err != nil {
		t.Fatalf("counting removed something: %v", err)
	}
	for _, n := range []int64{1, 4, 9, 20} { // Orthanc goes away again and again
		deletes.Store(n)
		if n < 20 {
			command(1, "run it again to finish", "--yes")
		}
	}
	deletes.Store(1 << 40)
	command(0, "What stays, for you to remove", "--yes")
	command(0, " 0 labels, on 0 studies", "--dry-run")

	for name, x := range map[string]stored{"plain": plain, "corrected": corrected, "forgotten": forgotten} {
		for _, path := range []string{"/studies/" + x.study, "/series/" + x.series, "/instances/" + x.instance} {
			wantLabels, wantMetadata := []string{}, map[string]string{}
			if name == "plain" && path == "/studies/"+x.study {
				wantLabels = []string{"teaching"}
			}
			if name == "plain" && path != "/series/"+x.series {
				wantMetadata["3000"] = "the site's"
			}
			if name == "corrected" && path == "/instances/"+x.instance {
				wantMetadata["5110"] = theirs
			}
			if got := labels(t, archive, path); !slices.Equal(got, wantLabels) {
				t.Errorf("%s %s has labels %v, want %v", name, path, got, wantLabels)
			}
			if got := user(t, archive, path); len(got) != len(wantMetadata) || got["3000"] != wantMetadata["3000"] || got["5110"] != wantMetadata["5110"] {
				t.Errorf("%s %s has metadata %v, want %v", name, path, got, wantMetadata)
			}
		}
	}
	for _, path := range []string{"/studies/" + unwanted.study, "/series/" + unwanted.series} {
		if got := labels(t, archive, path); !slices.Equal(got, []string{label}) {
			t.Errorf("a person's label on %s is gone: %v", path, got)
		}
	}
	if got := user(t, archive, "/instances/"+unwanted.instance); got["5110"] != "hip" || got["5111"] != `{"class":"spine"}` {
		t.Errorf("somebody's metadata is gone: %v", got)
	}
}

// change overwrites a metadata of an Orthanc that checks revisions.
func change(t *testing.T, s *orthanctest.Server, path, value string) {
	t.Helper()
	request := func(method, body, etag string) string {
		q, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.SetBasicAuth(s.Username, s.Password)
		if etag != "" {
			q.Header.Set("If-Match", etag)
		}
		answer, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		if err := answer.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: HTTP %d", method, path, answer.StatusCode)
		}
		return answer.Header.Get("ETag")
	}
	request(http.MethodPut, value, request(http.MethodGet, "", ""))
}
