package orthanctest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// client opens a connection for every request: what Orthanc does with idle ones must not decide over a test.
var client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}

// Do makes a request with the server's first user. The body is nil, []byte, string, or anything else to be sent as JSON.
// Every status is an answer; only a broken connection is an error.
func (s *Server) Do(ctx context.Context, method, path string, body any) (status int, answer []byte, err error) {
	var content []byte
	switch b := body.(type) {
	case nil:
	case []byte:
		content = b
	case string:
		content = []byte(b)
	default:
		if content, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(content))
	if err != nil {
		return 0, nil, err
	}
	if s.Username != "" {
		request.SetBasicAuth(s.Username, s.Password)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }() // read only
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// GetJSON fetches a path into v.
func (s *Server) GetJSON(ctx context.Context, path string, v any) error {
	status, answer, err := s.Do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("orthanctest: GET %s: HTTP %d: %s", path, status, answer)
	}
	return json.Unmarshal(answer, v)
}

// Upload stores a DICOM file over REST and returns its Orthanc identifier.
func (s *Server) Upload(ctx context.Context, dicom []byte) (string, error) {
	status, answer, err := s.Do(ctx, http.MethodPost, "/instances", dicom)
	if err != nil {
		return "", err
	}
	if status != http.StatusOK {
		return "", fmt.Errorf("orthanctest: upload: HTTP %d: %s", status, answer)
	}
	var stored struct{ ID string }
	if err := json.Unmarshal(answer, &stored); err != nil {
		return "", fmt.Errorf("orthanctest: upload: %w", err)
	}
	return stored.ID, nil
}

// AsPeer returns the server as an entry of another Orthanc's "OrthancPeers".
func (s *Server) AsPeer() map[string]any {
	return map[string]any{"Url": s.URL + "/", "Username": s.Username, "Password": s.Password}
}

// Store sends files, or folders with all that is in them, over C-STORE with DCMTK's dcmsend. tools is the version whose dcmsend to take
// ("" is the oldest installed), or the folder that holds dcmsend. It is an error when one of them was not accepted.
func Store(ctx context.Context, tools, host string, port int, aet string, files ...string) error {
	program := filepath.Join(tools, "dcmsend")
	if !strings.ContainsRune(tools, filepath.Separator) {
		var err error
		if program, err = Tool(tools, "dcmsend"); err != nil {
			return err
		}
	}
	arguments := append([]string{"--call", aet, "--scan-directories", "--recurse", host, strconv.Itoa(port)}, files...)
	output, err := exec.CommandContext(ctx, program, arguments...).CombinedOutput() //nolint:gosec // the installed dcmsend
	if err != nil {
		return fmt.Errorf("orthanctest: dcmsend of %d files to %s:%d: %w\n%s", len(files), host, port, err, output)
	}
	return nil
}

// Store sends files over C-STORE to this server.
func (s *Server) Store(ctx context.Context, files ...string) error {
	return Store(ctx, s.Version, "127.0.0.1", s.DicomPort, s.AET, files...)
}
