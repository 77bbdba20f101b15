package setup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"imagingrouter/sidecar/internal/config"
)

// The names under which the router registers its metadata in Orthanc's UserMetadata.
const (
	nameBodyPart = "BodyPart"
	nameResult   = "BodyPartResult"
	nameMarker   = "BodyPartMarker"
)

// What the router needs of Orthanc's jobs: two at a time (the default) are held up by one dead destination, and of the last ten only
// (the default) would their end be known.
const (
	concurrentJobs  = 8
	jobsHistorySize = 1000
)

// Options are what the user says.
type Options struct {
	Dir          string // absolute: where the files go
	PasswordFile string // absolute, or empty
	CAFile       string // absolute, or empty
	RouterURL    string // by which Orthanc reaches the router; empty to guess
	HookPath     string // by which Orthanc reads the hook; empty for the file in Dir
	TokenPath    string // by which the hook reads the token; empty for the file in Dir
}

// Plan is what follows from what was seen.
type Plan struct {
	Archive   Archive
	Options   Options
	Numbers   config.Metadata
	Names     map[string]int // to be registered, besides what is there
	RouterURL string
	Listen    string
	Findings  []Finding
}

// Finding is one thing that the user should know.
type Finding struct {
	Word    string // ok, note or warn
	Subject string
	Text    string
}

// NewPlan decides. An error says that the options make no sense.
func NewPlan(a Archive, o Options) (*Plan, error) {
	p := &Plan{Archive: a, Options: o}
	if err := p.addresses(); err != nil {
		return nil, err
	}
	if p.Options.HookPath == "" {
		p.Options.HookPath = o.Dir + "/" + HookFile
	}
	if p.Options.TokenPath == "" {
		p.Options.TokenPath = o.Dir + "/" + TokenFile
	}
	p.found("ok", "orthanc", "%s at %s%s", a.System.Version, a.URL, named(a.System.Name))
	p.account()
	p.metadata()
	p.jobs()
	p.storage()
	p.plugins()
	p.lua()
	p.neighbours()
	return p, nil
}

func named(name string) string {
	if name == "" {
		return ""
	}
	return " (" + name + ")"
}

func (p *Plan) found(word, subject, format string, args ...any) {
	p.Findings = append(p.Findings, Finding{word, subject, fmt.Sprintf(format, args...)})
}

// addresses guesses by which address Orthanc reaches the router, and where the router then must listen.
func (p *Plan) addresses() error {
	archive, err := url.Parse(p.Archive.URL)
	if err != nil {
		return fmt.Errorf("the address of Orthanc: %w", err)
	}
	p.RouterURL = strings.TrimRight(p.Options.RouterURL, "/")
	if p.RouterURL == "" {
		p.RouterURL = "http://127.0.0.1:8081"
		if !loopback(archive.Hostname()) {
			p.RouterURL = "http://imaging-router:8081"
			p.found("warn", "hook", "Orthanc is on another machine or in a container: the hook calls %s. If it reaches the router by another address, say so with --router", p.RouterURL)
		}
	}
	router, err := url.Parse(p.RouterURL)
	if err != nil || router.Host == "" || router.Scheme != "http" && router.Scheme != "https" || router.Path != "" || router.User != nil || router.RawQuery != "" {
		return fmt.Errorf("--router must look like http://host:8081 (got %q)", p.RouterURL)
	}
	port := router.Port()
	if port == "" {
		port = "8081" // a proxy stands before it
	}
	p.Listen = ":" + port
	if loopback(router.Hostname()) {
		p.Listen = "127.0.0.1:" + port
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (p *Plan) account() {
	if p.Archive.Username == "" {
		p.found("warn", "account", "Orthanc answered without a name and password: whoever reaches it can read and delete everything (AuthenticationEnabled, RegisteredUsers)")
		return
	}
	p.found("ok", "account", "%s is let in", p.Archive.Username)
	if len(p.Archive.Hidden) > 0 {
		p.found("note", "account", "%s may not look at Orthanc's %s: they are left out here. An administrator's account sees more",
			p.Archive.Username, strings.Join(p.Archive.Hidden, ", "))
	}
}

// metadata chooses three numbers that nobody else has, and names for them.
func (p *Plan) metadata() {
	registered := p.Archive.userMetadata()
	owner := make(map[int]string, len(registered))
	for _, name := range sorted(registered) {
		owner[registered[name]] = name
	}
	d := config.Default().Publish.Metadata
	wanted := []struct {
		name  string
		into  *int
		start int
	}{{nameBodyPart, &p.Numbers.BodyPart, d.BodyPart}, {nameResult, &p.Numbers.Result, d.Result}, {nameMarker, &p.Numbers.Marker, d.Marker}}

	shift := 0
	free := func(shift int) bool {
		for _, w := range wanted {
			if name, taken := owner[w.start+shift]; taken && name != w.name {
				return false
			}
		}
		return true
	}
	for !free(shift) { // the next block of ten; a site has a handful of them
		shift += 10
	}
	p.Names = map[string]int{}
	for _, w := range wanted {
		*w.into = w.start + shift
		if name, taken := owner[w.start]; taken && name != w.name {
			p.found("warn", "metadata", "number %d is %q in this Orthanc: the router takes %d for %s instead", w.start, name, *w.into, w.name)
		}
		name := w.name
		if number, known := registered[name]; known && number != *w.into {
			name = "ImagingRouter" + w.name
			p.found("warn", "metadata", "%s is registered as %d: that may be another program's, so it stays, and the router's is called %s", w.name, number, name)
		}
		if registered[name] != *w.into {
			p.Names[name] = *w.into
		}
	}
	switch {
	case len(p.Names) == 0:
		p.found("ok", "metadata", "registered already: %s", list(registered))
	case len(registered) > 0:
		p.found("ok", "metadata", "registered by this site and kept: %s", list(registered))
	}
}

func list(numbers map[string]int) string {
	words := make([]string, 0, len(numbers))
	for _, name := range sorted(numbers) {
		words = append(words, fmt.Sprintf("%s %d", name, numbers[name]))
	}
	return strings.Join(words, ", ")
}

// knownJobs returns what is known of ConcurrentJobs and JobsHistorySize; 0 where nothing is.
func (p *Plan) knownJobs() (concurrent, history int) {
	concurrent = p.Archive.System.ConcurrentJobs
	if l := p.Archive.Lua; l != nil {
		concurrent, history = max(concurrent, l.ConcurrentJobs), l.JobsHistorySize
	}
	return concurrent, history
}

func (p *Plan) jobs() {
	concurrent, history := p.knownJobs()
	switch {
	case concurrent == 0:
		p.found("note", "jobs", "this Orthanc does not say its ConcurrentJobs; %d is proposed, leave yours where it is larger", concurrentJobs)
	case concurrent < concurrentJobs:
		p.found("note", "jobs", "ConcurrentJobs is %d: one hanging destination could hold all sending, so %d is proposed", concurrent, concurrentJobs)
	}
	if history == 0 {
		p.found("note", "jobs", "Orthanc does not say its JobsHistorySize; %d is proposed, leave yours where it is larger", jobsHistorySize)
	}
}

func (p *Plan) storage() {
	s := p.Archive.System
	p.found("note", "storage", "OverwriteInstances is %s%s", s.OverwriteInstances, map[bool]string{
		true: ": a corrected X-ray that is sent again under the same UID is thrown away by Orthanc",
	}[s.OverwriteInstances == "Never"])
	if md5 := p.Archive.Storage.StoreMD5ForAttachments; md5 != nil && !*md5 {
		p.found("warn", "storage", "StoreMD5ForAttachments is off: the router then cannot know by the sum that a file is the one it has seen")
	}
	if m := p.Archive.Storage; m.MaximumStorageMode == "Recycle" && (m.MaximumStorageSize > 0 || m.MaximumPatientCount > 0) {
		p.found("note", "storage", "Orthanc deletes the oldest patients by itself when it is full; the router notes their pictures as gone")
	}
	if s.ReadOnly {
		p.found("warn", "storage", "Orthanc is read-only: metadata and labels cannot be written")
	}
}

func (p *Plan) plugins() {
	names := make([]string, 0, len(p.Archive.Plugins))
	for _, name := range sorted(p.Archive.Plugins) {
		names = append(names, strings.TrimSpace(name+" "+p.Archive.Plugins[name]))
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	if !slices.Contains(p.Archive.Hidden, "plugins") {
		p.found("ok", "plugins", "%s", strings.Join(names, ", "))
	}
	if p.Archive.GDCMDangerous() {
		p.found("warn", "plugins", "the GDCM plugin in Orthanc before 1.13 is known to end the whole server on some JPEG 2000 pictures. "+
			"The router decodes on its own side; leave picture.orthanc_transcoder off, and think of updating Orthanc")
	}
	if _, there := p.Archive.Plugins["orthanc-explorer-2"]; there {
		p.found("note", "plugins", `Orthanc Explorer 2 shows and filters the study's labels; "OrthancExplorer2": {"UiOptions": {"EnableMultiLabelsSearch": true}} lets people combine them`)
	}
}

func (p *Plan) lua() {
	switch l := p.Archive.Lua; {
	case p.Archive.LuaRefused:
		p.found("note", "lua", "Orthanc runs no scripts from outside (ExecuteLuaEnabled is off, as it should be), so its LuaScripts cannot be known: keep those that you have")
	case l == nil:
		p.found("note", "lua", "which LuaScripts are loaded cannot be known over REST: keep those that you have, and put the hook last")
	default:
		p.found("warn", "lua", "Orthanc runs scripts from outside (ExecuteLuaEnabled): whoever has an account can run programs on that machine")
		if l.HookDefined {
			p.found("ok", "lua", "an OnStoredInstance is there already; the router's hook, loaded last, calls it")
		}
	}
}

func (p *Plan) neighbours() {
	peers := make([]string, 0, len(p.Archive.Peers))
	for _, name := range sorted(p.Archive.Peers) {
		peers = append(peers, name+" ("+p.Archive.Peers[name].URL+")")
	}
	switch {
	case slices.Contains(p.Archive.Hidden, "peers"): // said already
	case len(peers) == 0:
		p.found("note", "destinations", "Orthanc has no peers (OrthancPeers): the router can label, and has nowhere to forward to")
	default:
		p.found("ok", "destinations", "peers: %s", strings.Join(peers, ", "))
	}
	if names := sorted(p.Archive.Modalities); len(names) > 0 {
		p.found("note", "destinations", "modalities that Orthanc knows: %s. Only peers are filled in as destinations; docs/configuration.md tells of other kinds", strings.Join(names, ", "))
	}
}

// Additions returns the lines for Orthanc's configuration: top-level keys with their whole new value, what is there included.
func (p *Plan) Additions() map[string]any {
	concurrent, history := p.knownJobs()
	add := map[string]any{"LuaScripts": p.scripts(p.Options.HookPath)}
	if len(p.Names) > 0 {
		add["UserMetadata"] = p.allMetadata()
	}
	if concurrent < concurrentJobs {
		add["ConcurrentJobs"] = concurrentJobs
	}
	if history < jobsHistorySize {
		add["JobsHistorySize"] = jobsHistorySize
	}
	if md5 := p.Archive.Storage.StoreMD5ForAttachments; md5 != nil && !*md5 {
		add[keyMD5] = true
	}
	return add
}

func (p *Plan) scripts(hook string) []string {
	var scripts []string
	if p.Archive.Lua != nil {
		scripts = slices.DeleteFunc(slices.Clone(p.Archive.Lua.Scripts), func(s string) bool { return s == hook })
	}
	return append(scripts, hook)
}

func (p *Plan) allMetadata() map[string]int {
	all := p.Archive.userMetadata()
	maps.Copy(all, p.Names)
	return all
}

// encode writes JSON for people: indented, and with < and > as they are.
func encode(v any, indent string) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimRight(b.String(), "\n"), nil
}
