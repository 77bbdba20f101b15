package lua_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagingrouter/tests/orthanctest"
)

func TestTheRouterIsTold(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		r := newRouter(t)
		s := orthancWith(t, version, []string{script(t)}, "URL="+r.URL+"/", "TOKEN="+token) // a slash too many is forgiven
		id, _ := upload(t, s, orthanctest.File{})
		first := r.waitFor(t, 1)[0]
		require.Equal(t, "POST /hooks/stored-instance", first.path)
		require.Equal(t, "Bearer "+token, first.authorization)
		require.Equal(t, "application/json", first.contentType)
		var body map[string]any
		require.NoError(t, json.Unmarshal([]byte(first.body), &body))
		require.Equal(t, map[string]any{
			"instance": id,
			"origin":   map[string]any{"RequestOrigin": "RestApi", "RemoteIp": "127.0.0.1", "Username": "test"},
		}, body, "the identifier and the origin, and no tag")

		// Over C-STORE, from a modality whose title is a number: it stays a text.
		file := filepath.Join(t.TempDir(), "a.dcm")
		require.NoError(t, os.WriteFile(file, orthanctest.File{SOPClass: orthanctest.ComputedRadiography, Modality: "CR"}.Bytes(), 0o600))
		dcmsend, err := orthanctest.Tool(version, "dcmsend")
		require.NoError(t, err)
		output, err := exec.CommandContext(t.Context(), dcmsend, "--aetitle", "0012", "127.0.0.1", strconv.Itoa(s.DicomPort), file).CombinedOutput()
		require.NoError(t, err, "%s", output)
		second := r.waitFor(t, 2)[1]
		require.NoError(t, json.Unmarshal([]byte(second.body), &body))
		require.Equal(t, "0012", body["origin"].(map[string]any)["RemoteAet"])
		require.NotContains(t, s.Log(), "imaging router: error")
		require.Zero(t, errors(s))
	})
}

func TestOnlyTheSOPClassesOfXRaysAreTold(t *testing.T) {
	const (
		processing = "1.2.840.10008.5.1.4.1.1.1.1.1"
		angio      = "1.2.840.10008.5.1.4.1.1.12.1"
		fluoro     = "1.2.840.10008.5.1.4.1.1.12.2"
		mammo      = "1.2.840.10008.5.1.4.1.1.1.2"
		report     = "1.2.840.10008.5.1.4.1.1.88.11"
	)
	all := []string{
		orthanctest.ComputedRadiography, orthanctest.DigitalXRay, processing, angio, fluoro,
		orthanctest.CT, orthanctest.SecondaryCapture, mammo, report,
	}
	xrays := all[:5]
	for name, test := range map[string]struct {
		settings []string
		want     []string
	}{
		"by default":             {nil, xrays},
		"with secondary capture": {[]string{"SECONDARY_CAPTURE=true"}, append([]string{orthanctest.SecondaryCapture}, xrays...)},
		"with a list of its own": {[]string{"SOP_CLASSES= " + orthanctest.CT + " , " + mammo}, []string{orthanctest.CT, mammo}},
	} {
		t.Run(name, func(t *testing.T) {
			orthanctest.Each(t, func(t *testing.T, version string) {
				r := newRouter(t)
				site := newSiteScript(t, "")
				s := orthancWith(t, version, []string{site.path, script(t)}, append(test.settings, "URL="+r.URL, "TOKEN="+token)...)
				var want []string
				for _, class := range all {
					id, _ := upload(t, s, orthanctest.File{SOPClass: class, Modality: "OT"})
					for _, c := range test.want {
						if c == class {
							want = append(want, id)
						}
					}
				}
				site.waitFor(t, len(all)) // every event was worked off
				var got []string
				for _, one := range r.told() {
					got = append(got, one.instance(t))
				}
				require.Equal(t, want, got)
			})
		})
	}
}

func TestTheTokenComesFromTheEnvironmentOrAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("  from-a-file\n"), 0o600))
	for name, test := range map[string]struct {
		settings []string
		want     string
		log      string
	}{
		"environment":        {[]string{"TOKEN=from-the-environment"}, "Bearer from-the-environment", ""},
		"file":               {[]string{"TOKEN_FILE=" + file}, "Bearer from-a-file", ""},
		"file wins":          {[]string{"TOKEN_FILE=" + file, "TOKEN=x"}, "Bearer from-a-file", ""},
		"neither":            {nil, "Bearer none", "no token is set"},
		"file is not there":  {[]string{"TOKEN_FILE=" + file + ".none"}, "Bearer none", "cannot be read"},
		"empty is as unset":  {[]string{"TOKEN_FILE=", "TOKEN="}, "Bearer none", "no token is set"},
		"spaces are no part": {[]string{"TOKEN= a "}, "Bearer a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			orthanctest.Each(t, func(t *testing.T, version string) {
				r := newRouter(t)
				s := orthancWith(t, version, []string{script(t)}, append(test.settings, "URL="+r.URL)...)
				upload(t, s, orthanctest.File{})
				require.Equal(t, test.want, r.waitFor(t, 1)[0].authorization)
				require.Contains(t, s.Log(), test.log)
				require.NotContains(t, s.Log(), "from-a-file")
			})
		})
	}
}

// Nobody listens. Storing goes on at its pace, one line of error is logged, and the router is told again once it is back.
func TestTheRouterIsDown(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		const count = 150
		url, _ := closedPort(t)
		site := newSiteScript(t, "")
		with := orthancWith(t, version, []string{site.path, script(t)}, "URL="+url, "TOKEN="+token)
		without := orthanctest.New(t, orthanctest.Config{Version: version, Lua: []string{newSiteScript(t, "").path}})
		var slow, usual time.Duration
		for range count { // in turns, so that a busy machine slows both
			_, took := upload(t, with, orthanctest.File{})
			slow += took
			_, took = upload(t, without, orthanctest.File{})
			usual += took
		}
		site.waitFor(t, count)
		t.Logf("%d instances: %v with a router that is down, %v without the script", count, slow, usual)
		require.Less(t, slow, usual*3/2+200*time.Millisecond)
		require.LessOrEqual(t, errors(with), 2, "an error storm")
	})
}

func TestTheRouterComesBack(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		r := newRouter(t)
		r.status.Store(http.StatusUnauthorized) // a wrong token is a failure like any other: no storm of 401
		site := newSiteScript(t, "")
		s := orthancWith(t, version, []string{site.path, script(t)}, "URL="+r.URL, "TOKEN="+token, "SILENCE=2")
		for range 5 {
			upload(t, s, orthanctest.File{})
		}
		site.waitFor(t, 5)
		require.Len(t, r.told(), 1, "it was not silent after a failure")
		r.status.Store(http.StatusAccepted)
		time.Sleep(2100 * time.Millisecond)
		for range 5 {
			upload(t, s, orthanctest.File{})
		}
		site.waitFor(t, 10)
		require.Len(t, r.told(), 6, "it stayed silent")
	})
}

func TestSilenceIsHalfAMinuteByDefault(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		url, _ := closedPort(t)
		s := orthancWith(t, version, []string{script(t)}, "URL="+url, "TOKEN="+token)
		upload(t, s, orthanctest.File{})
		require.Eventually(t, func() bool { return errors(s) > 0 }, 5*time.Second, 10*time.Millisecond)
		require.Contains(t, s.Log(), "silent for 30 s")
	})
}
