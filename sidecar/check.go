package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/classifier"
	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/picture"
	"imagingrouter/sidecar/internal/pipeline"
	"imagingrouter/sidecar/internal/store"
)

func newCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Prove the configuration against the model, Orthanc, its peers and the hook",
		Long: `Goes through everything that must fit together and says of each whether it does, and how to mend it: the configuration, the model and
ONNX Runtime, the decoders for compressed pictures, Orthanc (version, account, labels, registered metadata, jobs), the destinations'
peers as Orthanc reaches them, the hook as the running router answers it. Nothing is changed and nothing is sent.

Exit status: 0 when nothing is wrong (warnings allowed), 1 otherwise.`,
		Example: `  imaging-router --config /etc/imaging-router/config.yaml check
  docker compose exec imaging-router imaging-router check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := &checks{out: cmd.OutOrStdout()}
			c, err := loadConfig(cmd)
			if err != nil {
				r.wrong("configuration", err.Error(), "correct the file; docs/configuration.md describes every key")
				return errSilent
			}
			r.ok("configuration", c.Path)
			for _, w := range c.Warnings {
				r.warn("configuration", w, "")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			r.model(c)
			r.decoders(ctx, c)
			r.orthanc(ctx, c)
			r.hook(ctx, c)
			if r.failed {
				return errSilent
			}
			return nil
		},
	}
}

// checks writes one line for each finding.
type checks struct {
	out    io.Writer
	failed bool
}

func (r *checks) line(word, subject, text, mend string) {
	fmt.Fprintf(r.out, "%-5s  %-14s  %s\n", word, subject, strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", 23)))
	if mend != "" {
		fmt.Fprintf(r.out, "%-5s  %-14s  → %s\n", "", "", mend)
	}
}

func (r *checks) ok(subject, text string)         { r.line("ok", subject, text, "") }
func (r *checks) warn(subject, text, mend string) { r.line("warn", subject, text, mend) }
func (r *checks) wrong(subject, text, mend string) {
	r.failed = true
	r.line("WRONG", subject, text, mend)
}

func (r *checks) model(c *config.Config) {
	network, err := classifier.Load(c.Model.Dir, classifier.Options{Library: c.Model.ONNXRuntime, Provider: c.Model.Provider, Threads: c.Model.Threads,
		FellBack: func(from, to string, cause error) {
			r.warn("model", fmt.Sprintf("provider %s does not work, %s takes its place: %v", from, to, cause), "")
		}})
	if err != nil {
		r.wrong("model", err.Error(), "")
		return
	}
	defer func() { _ = network.Close() }()
	r.ok("model", fmt.Sprintf("%s, %d px, ONNX Runtime %s (%s)", network.Model().ID(), network.Model().Input.Size, network.RuntimeVersion(), network.Provider()))
}

// decoders names the programs that decode compressed pictures, and what none of them does.
func (r *checks) decoders(ctx context.Context, c *config.Config) {
	found := newReader(c, nil).Decoders(ctx)
	installs := map[string]string{}
	for _, d := range found {
		installs[d.Name] = fmt.Sprintf("install %s (Debian: apt install %s), or name it in %s", d.Name, d.Package, d.Key)
		switch {
		case d.Off:
			installs[d.Name] = fmt.Sprintf("remove %s: %q", d.Key, "-")
			r.warn("decoder", d.Name+" is switched off", installs[d.Name])
		case d.Path == "":
			r.warn("decoder", d.Err.Error(), installs[d.Name])
		case d.Err != nil:
			r.wrong("decoder", d.Err.Error(), installs[d.Name])
		default:
			r.ok("decoder", d.Path+" "+d.Version)
		}
	}
	for _, g := range picture.Gaps(found) {
		text := fmt.Sprintf("nothing decodes %s: such pictures end as undecodable", g.Name)
		if len(g.Programs) == 1 { // the newest one, which few archives hold
			r.warn("decoder", text, installs[g.Programs[0]])
			continue
		}
		r.wrong("decoder", text, installs[g.Programs[0]])
	}
}

func (r *checks) orthanc(ctx context.Context, c *config.Config) {
	client, err := newOrthanc(c)
	if err != nil {
		r.wrong("orthanc", err.Error(), "")
		return
	}
	system, err := client.System(ctx)
	switch {
	case orthanc.IsDenied(err):
		r.wrong("orthanc", "Orthanc refuses the account: "+err.Error(), "compare orthanc.username and orthanc.password_file with Orthanc's RegisteredUsers")
		return
	case err != nil:
		r.wrong("orthanc", err.Error(), "is Orthanc running, and is orthanc.url what this machine reaches it by?")
		return
	}
	if !system.AtLeast(1, 12, 0) {
		r.wrong("orthanc", "version "+system.Version+" has no labels", "use Orthanc 1.12 or newer")
		return
	}
	r.ok("orthanc", fmt.Sprintf("%s at %s", system.Version, c.Orthanc.URL))
	if !system.HasLabels {
		r.wrong("labels", "Orthanc's database cannot store labels", "use SQLite, or a database plugin with labels (PostgreSQL 5.0, MySQL 5.0 or newer)")
	} else {
		r.ok("labels", "prefix "+c.Publish.LabelPrefix+", on "+strings.Join(c.Publish.LabelLevels, " and "))
	}
	r.metadata(c, system)
	r.jobs(c, system)
	if last, err := client.LastChange(ctx); err != nil {
		r.wrong("changes", err.Error(), "the router's account must be allowed to GET /changes")
	} else {
		r.ok("changes", fmt.Sprintf("readable, the last is %d", last))
	}
	r.destinations(ctx, c, client)
}

// jobs compares how many jobs Orthanc works on at a time with what the router takes for granted.
func (r *checks) jobs(c *config.Config, system orthanc.System) {
	const mend = "set ConcurrentJobs to 8 and JobsHistorySize to 1000 in Orthanc's configuration"
	says, configured := system.ConcurrentJobs, c.Orthanc.ConcurrentJobs
	switch {
	case len(c.Destinations) == 0:
	case says > 0 && configured > says:
		r.wrong("jobs", fmt.Sprintf("orthanc.concurrent_jobs is %d, and Orthanc works on %d jobs at a time: the router would take all of them", configured, says), "remove orthanc.concurrent_jobs: this Orthanc says it itself")
	case says > 0 && says <= 2:
		r.warn("jobs", fmt.Sprintf("Orthanc works on %d jobs at a time (ConcurrentJobs), of which the router takes %d: one hanging destination can hold all sending", says, max(1, says-1)), mend)
	case says == 0 && configured == 0:
		r.warn("jobs", "this Orthanc does not say on how many jobs it works at a time (ConcurrentJobs); the router takes its default, 2, for granted and sends one thing at a time, to whatever destination", mend+", and orthanc.concurrent_jobs to 8 here")
	default:
		r.ok("jobs", fmt.Sprintf("Orthanc works on %d at a time, of which the router takes at most %d", max(says, configured), max(1, max(says, configured)-1)))
	}
}

func (r *checks) metadata(c *config.Config, system orthanc.System) {
	wanted := []struct {
		name   string
		number int
	}{{"BodyPart", c.Publish.Metadata.BodyPart}, {"BodyPartResult", c.Publish.Metadata.Result}, {"BodyPartMarker", c.Publish.Metadata.Marker}}
	var lines []string
	for _, w := range wanted {
		if system.UserMetadata[w.name] != w.number {
			lines = append(lines, fmt.Sprintf("%q: %d", w.name, w.number))
		}
		for name, number := range system.UserMetadata {
			if number == w.number && name != w.name && name != strconv.Itoa(number) {
				r.warn("metadata", fmt.Sprintf("number %d is registered as %q in Orthanc: another program may write it", number, name), "choose other numbers under publish.metadata")
			}
		}
	}
	if len(lines) == 0 {
		r.ok("metadata", "BodyPart, BodyPartResult and BodyPartMarker are registered")
		return
	}
	r.warn("metadata", "not registered by name; the router writes by number, people and Lua scripts want the names",
		fmt.Sprintf("add to Orthanc's configuration: \"UserMetadata\": {%s}", strings.Join(lines, ", ")))
}

func (r *checks) destinations(ctx context.Context, c *config.Config, client *orthanc.Client) {
	if len(c.Destinations) == 0 {
		r.ok("destinations", "none: labels only")
		return
	}
	for _, d := range c.Destinations {
		kind, err := destinationKind(d)
		if err != nil {
			r.wrong("destination", d.Name+": "+err.Error(), "")
			continue
		}
		found, err := kind.Check(ctx, client)
		if err != nil {
			r.wrong("destination", fmt.Sprintf("%s (%s): %v", d.Name, kind, err), "check its name, address, account and certificate there, and that it runs")
			continue
		}
		r.ok("destination", fmt.Sprintf("%s (%s): %s", d.Name, kind, found))
		r.timeout(ctx, d, client)
	}
	r.traffic(ctx, c)
	if !c.Forwarding.Enabled {
		r.warn("forwarding", "off by configuration (pilot mode): labels only", "set forwarding.enabled: true when the labels have convinced you")
	} else {
		r.ok("forwarding", fmt.Sprintf("on by configuration, %d rules", c.Rules.Len()))
	}
}

// hook asks the running router the way Orthanc's Lua hook does, with a body that marks nothing: the router's own 400 proves the token,
// 401 its lack.
func (r *checks) hook(ctx context.Context, c *config.Config) {
	_, port, err := net.SplitHostPort(c.Server.Listen)
	if err != nil {
		r.wrong("hook", err.Error(), "")
		return
	}
	address := localAddress(c.Server.Listen)
	// The router on this machine is asked directly, whatever proxy the environment names.
	transport := &http.Transport{Proxy: nil}
	defer transport.CloseIdleConnections()
	if c.Server.TLSCertFile != "" {
		address = "https" + strings.TrimPrefix(address, "http")
		if transport.TLSClientConfig, err = trustOnly(c.Server.TLSCertFile); err != nil {
			r.wrong("hook", err.Error(), "name the router's certificate in server.tls_cert_file")
			return
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/hooks/stored-instance", strings.NewReader("{}"))
	if err != nil {
		r.wrong("hook", err.Error(), "")
		return
	}
	request.Header.Set("Authorization", "Bearer "+c.Server.HookToken.Reveal())
	response, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(request)
	if err != nil {
		r.warn("hook", "no router answers on port "+port+": "+errors.Unwrap(err).Error(), "start `imaging-router serve`, then check again")
		return
	}
	defer func() { _ = response.Body.Close() }()
	var body struct {
		Error string `json:"error"`
	}
	known := json.NewDecoder(io.LimitReader(response.Body, 4096)).Decode(&body) == nil
	switch {
	case response.StatusCode == http.StatusBadRequest && known && strings.Contains(body.Error, `"instance"`):
		r.ok("hook", "the running router answers and takes this configuration's token")
	case response.StatusCode == http.StatusUnauthorized:
		r.wrong("hook", "the running router refuses this configuration's token", "restart it after a change of server.hook_token_file, and give Orthanc's Lua hook the same file")
	default:
		r.wrong("hook", fmt.Sprintf("something else answers on port %s: HTTP %d", port, response.StatusCode), "choose another port under server.listen")
	}
	r.hookHeard(c)
}

// hookHeard says whether Orthanc's hook was ever heard: the one proof that the Lua script is installed and has the right token.
func (r *checks) hookHeard(c *config.Config) {
	at, heard, err := lastHook(c)
	switch {
	case err != nil:
		r.warn("hook in Orthanc", err.Error(), "")
	case heard:
		r.ok("hook in Orthanc", "last heard "+clock(at))
	default:
		r.warn("hook in Orthanc", "never heard: the follower of /changes will do, about a second slower",
			"add lua/on-stored-instance.lua to Orthanc's LuaScripts with IMAGING_ROUTER_URL and the token, and send one X-ray")
	}
}

// longTimeout is how long a destination that hangs may hold one of Orthanc's jobs before check says a word.
const longTimeout = 60

// timeout warns of a peer or modality that may hang for long: Orthanc cannot end a job that hangs in a call before that call's own time-out.
func (r *checks) timeout(ctx context.Context, d config.Destination, client *orthanc.Client) {
	var seconds int
	var where string
	switch {
	case d.Peer != "" || d.Transfers != "":
		peers, err := client.Peers(ctx)
		if err != nil {
			return // Check has just asked the same, and it was well
		}
		seconds, where = peers[d.Peer+d.Transfers].Timeout, "OrthancPeers"
	case d.Modality != "":
		modalities, err := client.Modalities(ctx)
		if err != nil {
			return
		}
		seconds, where = modalities[d.Modality].Timeout, "DicomModalities"
	default:
		return
	}
	if seconds > longTimeout {
		r.warn("destination", fmt.Sprintf("%s: Orthanc waits up to %d s for it (Timeout), and a job that hangs in a call is not ended before", d.Name, seconds), "set its Timeout in "+where+" to 30 or less")
	}
}

// traffic says what a person has paused, and what waits for one.
func (r *checks) traffic(ctx context.Context, c *config.Config) {
	if _, err := os.Stat(c.Database.Path); err != nil {
		return // there is no database before the first start
	}
	s, err := store.Open(ctx, c.Database.Path)
	if err != nil {
		r.warn("deliveries", err.Error(), "")
		return
	}
	defer func() { _ = s.Close() }()
	for _, name := range c.DestinationNames() {
		if paused, err := pipeline.PausedIn(ctx, s, name); err == nil && paused.On {
			r.warn("deliveries", fmt.Sprintf("%s is paused since %s", name, clock(paused.Since)), "imaging-router deliveries resume "+name)
		}
	}
	if reason, since, err := newVolume(c, s, zerolog.Nop()).Held(ctx); err == nil && reason != "" {
		r.wrong("deliveries", fmt.Sprintf("since %s: %s", clock(since), reason), "find out why there are so many (imaging-router deliveries list --state held), cancel what should not go, then imaging-router deliveries release")
	}
	waiting, err := s.Waiting(ctx, 0)
	if err != nil {
		r.warn("deliveries", err.Error(), "")
		return
	}
	held := 0
	for _, g := range waiting {
		if g.State == store.GatheringHeld {
			held++
		}
	}
	if held > 0 {
		r.warn("deliveries", fmt.Sprintf("%d series or studies are held for a person", held), "imaging-router deliveries list says which and why")
	}
}
