package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"imagingrouter/tests/orthanctest"
)

const (
	line         = "1.12" // Orthanc's
	user         = "demo" // of the archive's page and of the destinations' pages
	password     = "demo"
	routerUser   = "imaging-router"
	peerUser     = "archive" // as which the archive sends
	pagePort     = 8042      // Orthanc's usual ones, where they are free
	dicomPort    = 4242
	readyWithin  = time.Minute
	metadataPart = 5110
	metadataJSON = 5111
)

// scene is everything that runs.
type scene struct {
	repository, dir string
	archive         *orthanctest.Server
	destinations    map[string]*orthanctest.Server
	router          *process
	program         string
	config          string
	url             string // of the router
}

// raise starts the Orthancs and the router. When it fails it leaves nothing running.
func raise(ctx context.Context, repository, dir string, o options, drawn bool, s *screen) (_ *scene, err error) {
	c := &scene{repository: repository, dir: dir, destinations: map[string]*orthanctest.Server{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	if c.program, err = filepath.Abs(o.router); err != nil {
		return nil, err
	}
	if _, err := os.Stat(c.program); err != nil {
		return nil, fmt.Errorf("%w: run `make build`", err)
	}
	began := time.Now()
	port, err := orthanctest.FreePort()
	if err != nil {
		return nil, err
	}
	c.url = "http://127.0.0.1:" + strconv.Itoa(port)
	secrets, err := c.writeSecrets()
	if err != nil {
		return nil, err
	}
	if err := c.startDestinations(ctx); err != nil {
		return nil, err
	}
	if err := c.startArchive(ctx, secrets); err != nil {
		return nil, err
	}
	s.say("started   archive, %s and %s: Orthanc %s, %.1f s", chestAI, spineAI, c.archive.Version, time.Since(began).Seconds())

	began = time.Now()
	if err := c.writeConfig(port, o.model, drawn); err != nil {
		return nil, err
	}
	if err := c.startRouter(ctx); err != nil {
		return nil, err
	}
	s.say("started   the router with %s, %.1f s", o.model, time.Since(began).Seconds())
	for i, r := range rules {
		s.say("rule %d    %s: %s → %s", i+1, r.name, r.when, r.to)
	}
	s.say("          everything else, and what a person should review, stays in the archive")
	if drawn {
		s.say("          review begins below a confidence of %g here; by the model's own thresholds, which are those for real X-rays,", drawnThreshold)
		s.say("          nearly every drawing would wait for a person and nothing would be forwarded")
	}
	return c, nil
}

func (c *scene) writeSecrets() (map[string]string, error) {
	values := map[string]string{}
	for _, name := range []string{"hook_token", "orthanc_password", "peer_password"} {
		values[name] = rand.Text()
		if err := os.WriteFile(c.secretFile(name), []byte(values[name]+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (c *scene) secretFile(name string) string { return filepath.Join(c.dir, name) }

// folder makes the folder of one Orthanc.
func (c *scene) folder(name string) (string, error) {
	folder := filepath.Join(c.dir, name)
	return folder, os.MkdirAll(folder, 0o750)
}

func (c *scene) startDestinations(ctx context.Context) error {
	secretText, err := os.ReadFile(c.secretFile("peer_password"))
	if err != nil {
		return err
	}
	users := map[string]string{peerUser: strings.TrimSpace(string(secretText)), user: password}
	var group sync.WaitGroup
	var mutex sync.Mutex
	var failures []error
	for _, name := range []string{chestAI, spineAI} {
		group.Go(func() {
			folder, err := c.folder(name)
			var server *orthanctest.Server
			if err == nil {
				server, err = orthanctest.Start(ctx, orthanctest.Config{
					Version: line, Name: name, AET: strings.ToUpper(strings.ReplaceAll(name, "-", "")), Dir: folder, Users: users,
				})
			}
			mutex.Lock()
			defer mutex.Unlock()
			if err != nil {
				failures = append(failures, fmt.Errorf("start %s: %w", name, err))
				return
			}
			c.destinations[name] = server
		})
	}
	group.Wait()
	return errors.Join(failures...)
}

func (c *scene) startArchive(ctx context.Context, secrets map[string]string) error {
	folder, err := c.folder("archive")
	if err != nil {
		return err
	}
	peers := map[string]any{}
	for name, server := range c.destinations {
		peers[name] = server.AsPeer() // as the first of its users: peerUser
	}
	c.archive, err = orthanctest.Start(ctx, orthanctest.Config{
		Version: line, Name: "archive", AET: "ARCHIVE", Dir: folder, HTTPPort: ifFree(pagePort), DicomPort: ifFree(dicomPort),
		Users: map[string]string{user: password, routerUser: secrets["orthanc_password"]},
		Lua:   []string{filepath.Join(c.repository, "lua", "on-stored-instance.lua")},
		Env:   []string{"IMAGING_ROUTER_URL=" + c.url, "IMAGING_ROUTER_TOKEN_FILE=" + c.secretFile("hook_token")},
		Extra: map[string]any{"OrthancPeers": peers},
	})
	if err != nil {
		return fmt.Errorf("start the archive: %w", err)
	}
	return nil
}

// ifFree returns the port, or 0 (any other) when somebody has it.
func ifFree(port int) int {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port)) //nolint:noctx // Orthanc binds all addresses, so all must be free
	if err != nil || l.Close() != nil {
		return 0
	}
	return port
}

func (c *scene) startRouter(ctx context.Context) error {
	var err error
	if c.router, err = start(c.program, filepath.Join(c.dir, "router.log"), "serve", "--config", c.config); err != nil {
		return err
	}
	deadline := time.After(readyWithin)
	for {
		if status, _, err := get(ctx, c.url+"/-/ready"); err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.router.ended:
			return fmt.Errorf("the router did not start: %s", c.router.lastLines())
		case <-deadline:
			return fmt.Errorf("the router is not ready after %v: %s", readyWithin, c.router.lastLines())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// get asks the router.
func get(ctx context.Context, url string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }() // read only
	body, err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, body, err
}

// command runs a sub-command of the router beside the running one and returns what it prints.
func (c *scene) command(ctx context.Context, arguments ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.program, append(arguments, "--config", c.config)...) //nolint:gosec // our own program
	cmd.Env = environment()
	output, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("imaging-router %s: %w: %s", strings.Join(arguments, " "), err, exit.Stderr)
	}
	return output, err
}

// stop ends everything in order: the router first, so that it does not complain about Orthancs that went away.
func (c *scene) stop() error {
	var failure error
	if c.router != nil {
		failure = c.router.stop()
	}
	servers := []*orthanctest.Server{c.archive}
	for _, server := range c.destinations {
		servers = append(servers, server)
	}
	var group sync.WaitGroup
	failures := make([]error, len(servers))
	for i, server := range servers {
		if server != nil {
			group.Go(func() { failures[i] = server.Stop() })
		}
	}
	group.Wait()
	return errors.Join(failure, errors.Join(failures...))
}

func (c *scene) printAddresses(s *screen) {
	s.say("\nopen      %s/app/explorer.html   the archive; user %s, password %s; its page can be filtered by label", c.archive.URL, user, password)
	for _, name := range []string{chestAI, spineAI} {
		s.say("          %s/app/explorer.html   %s; the same user", c.destinations[name].URL, name)
	}
	s.say("          %s/-/ready", c.url)
	s.say("          %s/metrics", c.url)
	s.say("ask       %s jobs list --state published --config %s", c.shown(c.program), c.shown(c.config))
	if dcmsend, err := orthanctest.Tool(c.archive.Version, "dcmsend"); err == nil {
		s.say("send      %s --call %s 127.0.0.1 %d FILE", c.shown(dcmsend), c.archive.AET, c.archive.DicomPort)
	}
	s.say("\nCtrl-C stops everything and removes what was stored.")
}

// shown shortens a path for the reader.
func (c *scene) shown(path string) string {
	if here, err := os.Getwd(); err == nil {
		if relative, err := filepath.Rel(here, path); err == nil && !strings.HasPrefix(relative, "..") {
			return relative
		}
	}
	return path
}
