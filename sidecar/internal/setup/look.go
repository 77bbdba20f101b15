// Package setup looks at a running Orthanc and writes what the router and that Orthanc need to work together: the router's configuration,
// the hook with its settings, and the lines for Orthanc's own configuration. It changes nothing in Orthanc.
package setup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"imagingrouter/sidecar/internal/orthanc"
)

// Archive is what is known of an Orthanc.
type Archive struct {
	URL        string
	Username   string
	System     orthanc.System
	Storage    orthanc.Storage
	Plugins    map[string]string // name to version
	Peers      map[string]orthanc.Peer
	Modalities map[string]orthanc.Modality
	Lua        *Lua     // nil when it was not asked, or could not be
	LuaRefused bool     // it was asked, and ExecuteLuaEnabled is off
	Hidden     []string // what this account may not look at
}

// Lua is what Orthanc's own Lua says about its configuration.
type Lua struct {
	HookDefined     bool     // an OnStoredInstance exists, ours or another
	Scripts         []string // LuaScripts
	ConcurrentJobs  int      // 0: not set
	JobsHistorySize int      // 0: not set
}

// luaQuestion prints four values of the configuration and nothing else of it: passwords stand there too.
const luaQuestion = `local c = GetOrthancConfiguration()
print(DumpJson({ hook = OnStoredInstance ~= nil, scripts = c["LuaScripts"], jobs = c["ConcurrentJobs"], history = c["JobsHistorySize"] }, true))`

// pagePlugin stands among the plugins and is none: the part of Orthanc's page that plugins extend.
const pagePlugin = "explorer.js"

// Look asks an Orthanc what it is. With askLua it also runs a script of two lines inside it, which reads four values of the configuration:
// over REST alone nobody can know which Lua scripts are loaded.
func Look(ctx context.Context, c *orthanc.Client, askLua bool) (Archive, error) {
	var a Archive
	var err error
	if a.System, err = c.System(ctx); err != nil {
		return a, explain(err)
	}
	if !a.System.AtLeast(1, 12, 0) {
		return a, fmt.Errorf("this is Orthanc %s, which has no labels: the router needs 1.12 or newer", a.System.Version)
	}
	if !a.System.HasLabels {
		return a, fmt.Errorf("the database of this Orthanc %s (%s) cannot store labels: use SQLite, or a database plugin with labels (PostgreSQL 5.0, MySQL 5.0 or newer)",
			a.System.Version, a.System.DatabaseBackend)
	}
	if a.Storage, err = c.Storage(ctx); err != nil {
		return a, err
	}
	a.Peers, err = c.Peers(ctx)
	if a.seen("peers", &err) != nil {
		return a, fmt.Errorf("list Orthanc's peers: %w", err)
	}
	a.Modalities, err = c.Modalities(ctx)
	if a.seen("modalities", &err) != nil {
		return a, fmt.Errorf("list Orthanc's modalities: %w", err)
	}
	names, err := c.Plugins(ctx)
	if a.seen("plugins", &err) != nil {
		return a, fmt.Errorf("list Orthanc's plugins: %w", err)
	}
	a.Plugins = make(map[string]string, len(names))
	for _, name := range names {
		if name == pagePlugin {
			continue
		}
		if a.Plugins[name], err = c.PluginVersion(ctx, name); err != nil && !orthanc.IsNotFound(err) && !orthanc.IsDenied(err) {
			return a, fmt.Errorf("ask plugin %s for its version: %w", name, err)
		}
	}
	if askLua {
		if err := a.askLua(ctx, c); err != nil {
			return a, err
		}
	}
	return a, nil
}

// seen turns a refusal into a note: an account that may do only what the router needs does not see everything.
func (a *Archive) seen(what string, err *error) error {
	if orthanc.IsDenied(*err) {
		a.Hidden = append(a.Hidden, what)
		*err = nil
	}
	return *err
}

func (a *Archive) askLua(ctx context.Context, c *orthanc.Client) error {
	text, err := c.RunLua(ctx, luaQuestion)
	if orthanc.IsDenied(err) {
		a.LuaRefused = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask Orthanc's Lua: %w", err)
	}
	var said struct {
		Hook          bool            `json:"hook"`
		Scripts       json.RawMessage `json:"scripts"` // Lua writes an empty list as {}
		Jobs, History json.Number
	}
	if err := json.Unmarshal([]byte(text), &said); err != nil {
		return fmt.Errorf("ask Orthanc's Lua: its answer is not the JSON that was expected: %w", err)
	}
	a.Lua = &Lua{HookDefined: said.Hook, ConcurrentJobs: whole(said.Jobs), JobsHistorySize: whole(said.History)}
	if json.Unmarshal(said.Scripts, &a.Lua.Scripts) != nil {
		a.Lua.Scripts = nil
	}
	return nil
}

func whole(n json.Number) int {
	f, err := n.Float64()
	if err != nil {
		return 0
	}
	return int(f)
}

// explain says of the first request's error what to look at.
func explain(err error) error {
	var answer *orthanc.Error
	switch {
	case orthanc.IsDenied(err):
		return fmt.Errorf("the account is refused: compare --username and the file of --password-file with Orthanc's RegisteredUsers: %w", err)
	case orthanc.IsUnreachable(err):
		return fmt.Errorf("no answer: is Orthanc running, and is this the address by which this machine reaches it? %w", err)
	case errors.As(err, &answer):
		return fmt.Errorf("there is no Orthanc at this address (or a proxy wants another path): %w", err)
	default:
		return fmt.Errorf("this address does not answer like an Orthanc: %w", err)
	}
}

// sorted returns the keys of a map in order.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// userMetadata returns the names that the site has registered, without those that Orthanc adds for each number.
func (a Archive) userMetadata() map[string]int {
	names := make(map[string]int, len(a.System.UserMetadata))
	for name, number := range a.System.UserMetadata {
		if name != strconv.Itoa(number) {
			names[name] = number
		}
	}
	return names
}

// GDCMDangerous says whether this Orthanc dies from decoding JPEG 2000: 1.12 with the GDCM plugin does.
func (a Archive) GDCMDangerous() bool {
	for name := range a.Plugins {
		if strings.EqualFold(name, "gdcm") {
			return !a.System.AtLeast(1, 13, 0)
		}
	}
	return false
}
