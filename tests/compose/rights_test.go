package compose_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagingrouter/sidecar/phantom"
	"imagingrouter/tests/orthanctest"
	"imagingrouter/tests/routertest"
)

const (
	routerUser = "imaging-router"
	adminUser  = "admin"
	nurseUser  = "nurse"
	passwords  = "the-same-for-all"
	someID     = "01234567-89abcdef-01234567-89abcdef-01234567"
)

// guarded starts an Orthanc with the router's rights, after the scripts of a site. What stands further right in more wins.
func guarded(t *testing.T, version string, before []string, env []string, more ...map[string]any) *orthanctest.Server {
	t.Helper()
	extra := map[string]any{}
	for _, m := range more {
		maps.Copy(extra, m)
	}
	s := orthanctest.New(t, orthanctest.Config{
		Version: version, Name: "archive", DICOMweb: true, Extra: extra, Env: env,
		Users: map[string]string{routerUser: passwords, adminUser: passwords, nurseUser: passwords},
		Lua:   append(before, filepath.Join(repository(t), "lua", "router-rights.lua"), routertest.Hook(t)),
	})
	require.Equal(t, adminUser, s.Username)
	return s
}

// ask sends a request exactly as it is written and returns the status.
func ask(t *testing.T, s *orthanctest.Server, user, method, target, body string, headers ...string) int {
	t.Helper()
	connection, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.URL, "http://"))
	require.NoError(t, err)
	defer func() { _ = connection.Close() }() // the test is over with it
	require.NoError(t, connection.SetDeadline(time.Now().Add(30*time.Second)))
	headers = append(headers, "Host: archive", "Connection: close", "Content-Length: "+strconv.Itoa(len(body)),
		"Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+passwords)))
	_, err = fmt.Fprintf(connection, "%s %s HTTP/1.1\r\n%s\r\n\r\n%s", method, target, strings.Join(headers, "\r\n"), body)
	require.NoError(t, err)
	answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return 0 // what Orthanc takes for no HTTP at all it does not answer
	}
	require.NoError(t, err, "%s %s", method, target)
	_, _ = io.Copy(io.Discard, answer.Body) // so that Orthanc does not log an answer that nobody took
	require.NoError(t, answer.Body.Close())
	return answer.StatusCode
}

func stored(t *testing.T, s *orthanctest.Server) (instance, study string) {
	t.Helper()
	var file bytes.Buffer
	_, err := phantom.Write(&file, phantom.Options{Class: "spine", Rows: 64, Columns: 64})
	require.NoError(t, err)
	instance, err = s.Upload(t.Context(), file.Bytes())
	require.NoError(t, err)
	var parent struct{ ID string }
	require.NoError(t, s.GetJSON(t.Context(), "/instances/"+instance+"/study", &parent))
	return instance, parent.ID
}

func TestTheRoutersAccountMayNotDoWhatItDoesNotNeed(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s := guarded(t, version, nil, nil, map[string]any{"OrthancPeers": map[string]any{"p": map[string]any{"Url": "http://127.0.0.1:9/"}}})
		instance, study := stored(t, s)
		job := "01234567-89ab-cdef-0123-456789abcdef"
		forbidden := []struct{ method, target, body string }{
			{"DELETE", "/instances/" + instance, ""},
			{"DELETE", "/series/" + someID, ""},
			{"DELETE", "/studies/" + study, ""},
			{"DELETE", "/patients/" + someID, ""},
			{"DELETE", "/changes", ""},
			{"DELETE", "/exports", ""},
			{"DELETE", "/instances/" + instance + "/attachments/dicom", ""},
			{"DELETE", "/studies/" + study + "/labels/urgent", ""},
			{"PUT", "/studies/" + study + "/labels/urgent", ""},
			{"PUT", "/studies/" + study + "/labels/bodypart", ""},
			{"PUT", "/patients/" + someID + "/labels/bodypart-spine", ""},
			{"PUT", "/studies/" + study + "/metadata/1024", "x"},
			{"PUT", "/studies/" + study + "/metadata/51100", "x"},
			{"PUT", "/studies/" + study + "/metadata/BodyPart", "x"},
			{"DELETE", "/studies/" + study + "/metadata/1024", ""},
			{"PUT", "/instances/" + instance + "/attachments/1025", "x"},
			{"POST", "/instances", "DICM"},
			{"POST", "/instances/" + instance + "/modify", "{}"},
			{"POST", "/instances/" + instance + "/anonymize", "{}"},
			{"POST", "/studies/" + study + "/modify", "{}"},
			{"POST", "/studies/" + study + "/anonymize", "{}"},
			{"POST", "/studies/" + study + "/merge", "{}"},
			{"POST", "/studies/" + study + "/split", "{}"},
			{"POST", "/studies/" + study + "/archive", "{}"},
			{"GET", "/studies/" + study + "/archive", ""},
			{"GET", "/studies/" + study + "/media", ""},
			{"POST", "/instances/" + instance + "/export", "nowhere"},
			{"POST", "/instances/" + instance + "/reconstruct", ""},
			{"GET", "/studies/" + study + "/instances-tags", ""},
			{"GET", "/instances/" + instance + "/simplified-tags", ""},
			{"GET", "/instances/" + instance + "/preview", ""},
			{"GET", "/patients", ""},
			{"GET", "/studies", ""},
			{"POST", "/tools/execute-script", "print(1)"},
			{"POST", "/tools/shutdown", ""},
			{"POST", "/tools/reset", ""},
			{"POST", "/tools/find", `{"Level": "Study", "Query": {}}`},
			{"POST", "/tools/lookup", "x"},
			{"POST", "/tools/create-dicom", "{}"},
			{"POST", "/tools/create-archive", "[]"},
			{"POST", "/tools/bulk-modify", "{}"},
			{"POST", "/tools/bulk-anonymize", "{}"},
			{"POST", "/tools/bulk-delete", "{}"},
			{"PUT", "/tools/log-level", "verbose"},
			{"PUT", "/tools/metrics", "0"},
			{"PUT", "/peers/evil", `{"Url": "http://evil/"}`},
			{"DELETE", "/peers/p", ""},
			{"GET", "/peers/p/configuration", ""},
			{"POST", "/peers/p/store-straight", "DICM"},
			{"PUT", "/modalities/evil", `["EVIL", "evil", 104]`},
			{"DELETE", "/modalities/m", ""},
			{"POST", "/modalities/m/query", "{}"},
			{"POST", "/modalities/m/move", "{}"},
			{"POST", "/modalities/m/get", "{}"},
			{"POST", "/storage-commitment/2.25.1/remove", ""}, // would delete what the modality has committed itself to keep
			{"POST", "/modalities/m/storage-commitment", "{}"},
			{"POST", "/transfers/send", "{}"}, // until IMAGING_ROUTER_SENDS_TO names transfers
			{"PUT", "/dicom-web/servers/evil", "{}"},
			{"POST", "/dicom-web/servers/s/get", "{}"},
			{"POST", "/dicom-web/studies", ""},
			{"GET", "/dicom-web/studies", ""},
			{"POST", "/jobs/" + job + "/resubmit", ""},
			{"POST", "/jobs/" + job + "/pause", ""},
			{"DELETE", "/jobs/" + job + "/archive", ""},
			{"GET", "/app/explorer.html", ""},
			{"PUT", "/instances/" + instance + "/metadata/5110/group", "x"},
			{"PROPFIND", "/webdav/", ""},
			{"GET", "/", ""},
		}
		for _, f := range forbidden {
			require.Equal(t, http.StatusForbidden, ask(t, s, routerUser, f.method, f.target, f.body), "%s %s", f.method, f.target)
		}
		// The same requests by another account are not refused for want of rights (most are wrong for other reasons; those that would
		// end this test are left out).
		for _, f := range forbidden[2:] {
			ends := f.target == "/tools/shutdown" || f.target == "/tools/reset" || strings.HasSuffix(f.target, "/execute-script") ||
				strings.HasSuffix(f.target, "/export") || f.method == "DELETE" && strings.Contains(f.target, "/attachments/") || f.target == "/studies/"+study
			if !ends {
				require.NotEqual(t, http.StatusForbidden, ask(t, s, nurseUser, f.method, f.target, f.body), "%s %s", f.method, f.target)
			}
		}
		require.Equal(t, http.StatusOK, ask(t, s, adminUser, "DELETE", "/instances/"+instance, ""))
	})
}

// Whatever a path is written like, Orthanc and the filter must see the same one, or the filter must say no.
func TestTricksWithPaths(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s := guarded(t, version, nil, nil)
		instance, study := stored(t, s)
		upper := strings.ToUpper(instance)
		encoded := ""
		for _, c := range []byte(instance) {
			encoded += fmt.Sprintf("%%%02x", c)
		}
		paths := []string{
			"//instances/" + instance, "/instances//" + instance, "/./instances/" + instance, "/system/../instances/" + instance,
			"/instances/x/../" + instance, "/instances/" + instance + "/", "/instances/" + instance + "//", "/instances/" + instance + "/file/..",
			"/instances/" + instance + "/file/../", "/instances/" + instance + "/labels/..", "/instances/" + instance + "?x=/labels/bodypart-x",
			"/instances/" + instance + "/.", "/instances/" + instance + "/metadata/5110/../..", "/instances/" + instance + "/labels/bodypart-x/../..",
			"/instances/" + encoded, "/%69nstances/" + instance, "/instances%2f" + instance, "/instances/" + instance + "%2f", "/instances/" + instance + "%00",
			"/instances/" + instance + "/labels/bodypart-%2e%2e/%2e%2e/%2e%2e", "/instances/" + instance + "/labels/%2e%2e", "/instances/" + instance + "%3f/labels/bodypart-x",
			"/instances/" + instance + ";/labels/bodypart-x", "/instances/" + instance + "#/labels/bodypart-x", "/INSTANCES/" + instance, "/instances/" + upper,
			"/instances/" + instance + "\\labels\\bodypart-x\\..\\..", "/instances/" + instance + "/%2e%2e/" + instance, "http://archive/instances/" + instance,
			"/peers/p/store/../../../instances/" + instance, "/instances/" + instance + "/labels/bodypart-x%0a",
		}
		there := func() {
			status, _, err := s.Do(t.Context(), "GET", "/instances/"+instance+"/file", nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, status)
		}
		for _, path := range paths {
			status := ask(t, s, routerUser, "DELETE", path, "")
			require.NotEqual(t, http.StatusOK, status, "DELETE %s", path)
			there()
			// Nor does another method that Orthanc takes for DELETE.
			for _, header := range []string{"X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE"} {
				for _, method := range []string{"GET", "POST", "PUT"} {
					ask(t, s, routerUser, method, path, "", header)
				}
			}
			separator := "?"
			if strings.Contains(path, "?") {
				separator = "&"
			}
			ask(t, s, routerUser, "GET", path+separator+"_method=DELETE", "")
			ask(t, s, routerUser, "POST", path+separator+"_method=DELETE", "")
			there()
		}
		// A path that is allowed for one method, with another in its query or its headers.
		for _, path := range []string{"/changes", "/instances/" + instance + "/labels"} {
			ask(t, s, routerUser, "GET", path+"?_method=DELETE", "")
			ask(t, s, routerUser, "POST", path, "", "X-HTTP-Method-Override: DELETE")
		}
		var changes struct{ Changes []any }
		require.NoError(t, s.GetJSON(t.Context(), "/changes", &changes))
		require.NotEmpty(t, changes.Changes)

		for _, path := range []string{
			"//tools/execute-script", "/tools//execute-script", "/tools/bulk-content/../execute-script", "/tools/execute-script/", "/tools/%65xecute-script",
			"/tools/execute-script?x", "/TOOLS/execute-script", "/tools/bulk-content/%2e%2e/execute-script", "/tools/bulk-content%2f..%2fexecute-script",
		} {
			require.NotEqual(t, http.StatusOK, ask(t, s, routerUser, "POST", path, "print(1)"), path)
		}
		// Names that look like another account's are no account at all.
		for _, name := range []string{"IMAGING-ROUTER", "imaging-router ", " imaging-router", "imaging-router\x00"} {
			require.Equal(t, http.StatusUnauthorized, ask(t, s, name, "DELETE", "/instances/"+instance, ""), name)
		}
		there()
		require.Equal(t, http.StatusOK, ask(t, s, routerUser, "PUT", "/studies/"+study+"/labels/bodypart-spine", ""))
		require.Equal(t, http.StatusOK, ask(t, s, routerUser, "GET", "/changes?since=0&limit=10", ""))
	})
}

func TestSettingsOfTheRights(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		env := []string{"IMAGING_ROUTER_ACCOUNT=" + nurseUser, "IMAGING_ROUTER_LABEL_PREFIX=a.b-", "IMAGING_ROUTER_METADATA=6000 6001", "IMAGING_ROUTER_SENDS_TO=peers,transfers"}
		s := guarded(t, version, nil, env)
		_, study := stored(t, s)
		for _, tt := range []struct {
			user, method, path string
			refused            bool
		}{
			{nurseUser, "DELETE", "/studies/" + someID, true},
			{routerUser, "DELETE", "/studies/" + someID, false},
			{nurseUser, "PUT", "/studies/" + study + "/metadata/6001", false},
			{nurseUser, "PUT", "/studies/" + study + "/metadata/5110", true},
			{nurseUser, "PUT", "/studies/" + study + "/labels/bodypart-spine", true},
			{nurseUser, "PUT", "/studies/" + study + "/labels/axb-spine", true},
			{nurseUser, "PUT", "/studies/" + study + "/labels/a.b-spine", false},
			{nurseUser, "POST", "/peers/x/store", false},
			{nurseUser, "POST", "/modalities/x/store", true},
			{nurseUser, "POST", "/dicom-web/servers/x/stow", true},
			{nurseUser, "GET", "/storage-commitment/2.25.1", true},
			{nurseUser, "POST", "/transfers/send", false},
			{nurseUser, "GET", "/transfers/peers", false},
		} {
			status := ask(t, s, tt.user, tt.method, tt.path, "x")
			require.Equal(t, tt.refused, status == http.StatusForbidden, "%s %s by %s: HTTP %d", tt.method, tt.path, tt.user, status)
		}
	})
}

func TestAnEarlierFilterIsAskedAsWell(t *testing.T) {
	site := filepath.Join(t.TempDir(), "site.lua")
	require.NoError(t, os.WriteFile(site, []byte(`
function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  return username ~= 'nurse' and uri ~= '/plugins' and headers['x-test'] ~= 'no'
end`), 0o600))
	orthanctest.Each(t, func(t *testing.T, version string) {
		s := guarded(t, version, []string{site}, nil)
		require.Equal(t, http.StatusForbidden, ask(t, s, nurseUser, "GET", "/system", ""))
		require.Equal(t, http.StatusForbidden, ask(t, s, routerUser, "GET", "/plugins", ""))
		require.Equal(t, http.StatusForbidden, ask(t, s, routerUser, "GET", "/system", "", "X-Test: no"))
		require.Equal(t, http.StatusForbidden, ask(t, s, routerUser, "DELETE", "/changes", ""))
		require.Equal(t, http.StatusOK, ask(t, s, routerUser, "GET", "/system", ""))
		require.Equal(t, http.StatusOK, ask(t, s, adminUser, "DELETE", "/changes", ""))
	})
}
