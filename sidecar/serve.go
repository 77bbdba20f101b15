package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/classifier"
	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/delivery"
	"imagingrouter/sidecar/internal/explain"
	"imagingrouter/sidecar/internal/intake"
	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/memory"
	"imagingrouter/sidecar/internal/metrics"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/pipeline"
	"imagingrouter/sidecar/internal/publish"
	"imagingrouter/sidecar/internal/store"
	"imagingrouter/sidecar/internal/web"
)

const (
	stopTimeout  = 8 * time.Second // container platforms kill after ten
	gonePause    = 5 * time.Second
	reconnectGap = 3 * time.Second
	decodeTries  = 4
)

func newServeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the router beside an Orthanc",
		Long: `Runs the router: it hears from Orthanc's hook and reads /changes, classifies what is new, writes metadata and labels, and
forwards by the rules. It starts without Orthanc and waits for it; it does not start without a model that fits its description.

SIGTERM or Ctrl-C ends it in order: what runs finishes (8 s at most) or goes back to the queue. A second signal ends it at once;
nothing is lost by that either, the next start takes up what was left.

SIGHUP, or POST /-/reload with the token, reads the configuration file again and puts its rules in force; everything else in it waits for a
restart. When anything is wrong with the file, the rules stay as they were, and log and metrics say so.`,
		Example: `  imaging-router --config /etc/imaging-router/config.yaml serve
  IMAGING_ROUTER_LOG_LEVEL=debug imaging-router serve`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			log, err := newLogger(cmd, c)
			if err != nil {
				return err
			}
			r, err := newRouter(cmd.Context(), c, log)
			if err != nil {
				return err
			}
			return errors.Join(r.run(cmd.Context()), r.close())
		},
	}
}

// router is the running product: everything that serve wires together.
type router struct {
	config   *config.Config
	log      zerolog.Logger
	store    *store.Store
	queue    *jobs.Queue
	network  *classifier.Classifier
	pipeline *pipeline.Pipeline
	follower *intake.Follower
	reloader *reloader
	web      *web.Server
	damaged  chan error // the first error that means that the database is damaged
}

// damage ends the router when an error means that the database is damaged: nothing can be done or noted any more, and a restart says what
// to do. It returns the error as it is.
func (r *router) damage(err error) error {
	if store.IsDamaged(err) {
		select {
		case r.damaged <- err:
		default:
		}
	}
	return err
}

// newOrthanc returns the client of the configured Orthanc.
func newOrthanc(c *config.Config) (*orthanc.Client, error) {
	return orthanc.New(orthanc.Options{
		URL: c.Orthanc.URL, Username: c.Orthanc.Username, Password: c.Orthanc.Password.Reveal(), Headers: c.Orthanc.Headers,
		CAFile: c.Orthanc.CAFile, Timeout: c.Orthanc.Timeout, MaxFile: int64(c.Picture.MaxFile), UserAgent: "imaging-router/" + versionText(),
	})
}

func newRouter(ctx context.Context, c *config.Config, log zerolog.Logger) (_ *router, err error) {
	r := &router{config: c, log: log, reloader: newReloader(c, log), damaged: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	for _, w := range c.Warnings {
		log.Warn().Msg(w)
	}
	if c.Server.HookToken == "" && !loopback(c.Server.Listen) {
		return nil, fmt.Errorf("server.listen is %s and server.hook_token_file is not set: without a token only a loopback address is allowed", c.Server.Listen)
	}
	shares := memory.Limit(int64(c.Memory.Limit))
	bounded := *c
	if files := config.ByteSize(shares.Files.Size()); files > 0 { // what Orthanc decodes for us is as large as it likes
		bounded.Picture.MaxFile = min(c.Picture.MaxFile, files)
	}
	client, err := newOrthanc(&bounded)
	if err != nil {
		return nil, err
	}
	var numbers *metrics.Metrics
	r.network, err = classifier.Load(c.Model.Dir, classifier.Options{Library: c.Model.ONNXRuntime, Provider: c.Model.Provider, Threads: c.Model.Threads,
		FellBack: func(from, to string, cause error) {
			log.Error().Err(cause).Str("from", from).Str("to", to).Msg("the execution provider does not work; the next one of model.provider takes its place until a restart")
			if numbers != nil {
				numbers.FellBack(from, to)
				numbers.Model(r.network.Model().ID(), r.network.Model().SHA256, to, r.network.RuntimeVersion())
			}
		}})
	if err != nil {
		return nil, err
	}
	if r.store, err = store.Open(ctx, c.Database.Path); err != nil {
		return nil, err
	}
	if err = r.store.Lock(); err != nil {
		return nil, err
	}
	began := time.Now()
	if err = r.store.Check(ctx); err != nil {
		return nil, err
	}
	if took := time.Since(began); took > time.Second {
		log.Info().Dur("took", took).Msg("the database was checked; database.keep bounds its size")
	}
	forwarding := &pipeline.Forwarding{Store: r.store, Configured: c.Forwarding.Enabled}
	gauges := &web.Gauges{Store: r.store, Forwarding: func(ctx context.Context) (bool, error) {
		s, err := forwarding.State(ctx)
		return s.On, err
	}}
	numbers = metrics.New(gauges)
	model := r.network.Model()
	numbers.Destinations(c.DestinationNames()...)
	numbers.Model(model.ID(), model.SHA256, r.network.Provider(), r.network.RuntimeVersion())
	if first, _, _ := strings.Cut(c.Model.Provider, ","); !strings.EqualFold(strings.TrimSpace(first), r.network.Provider()) {
		numbers.FellBack(strings.ToLower(strings.TrimSpace(first)), r.network.Provider()) // at the load, before there were numbers
	}

	r.reloader.metrics = numbers
	numbers.Reloaded(true, time.Now())
	r.pipeline = &pipeline.Pipeline{
		Orthanc: client, Store: r.store, Reader: newReader(c, shares.Pictures), Files: shares.Files, Classifier: r.network, Policy: c.Policy(model.Thresholds),
		Objects: intake.Objects{SOPClasses: c.Intake.AcceptedSOPClasses(), Modalities: c.Intake.Modalities},
		Publisher: &publish.Publisher{
			Orthanc: client, Store: r.store, Prefix: c.Publish.LabelPrefix, Levels: labelLevels(c), Log: log,
			Numbers: publish.Numbers{BodyPart: c.Publish.Metadata.BodyPart, Result: c.Publish.Metadata.Result, Marker: c.Publish.Metadata.Marker},
		},
		Rules: r.reloader.rules, Jobs: &delivery.Jobs{Orthanc: client, Concurrent: c.Orthanc.ConcurrentJobs}, Forwarding: forwarding, Volume: newVolume(c, r.store, log), Metrics: numbers, Log: log,
		RouteMaxAge: c.Forwarding.RouteMaxAge, GiveUpAfter: c.Forwarding.GiveUpAfter, Quiet: c.Forwarding.Quiet, Copies: c.Intake.Copies,
		GonePause: gonePause, Transcoder: c.Picture.OrthancTranscoder, DecodeTries: decodeTries, ReconnectGap: reconnectGap,
	}
	if r.pipeline.Destinations, err = destinations(c, r.pipeline); err != nil {
		return nil, err
	}
	gauges.Gates = r.pipeline.GateStates
	options := queueOptions(c, log)
	options.Damaged = func(err error) { _ = r.damage(err) }
	if r.queue, err = jobs.Open(ctx, r.store.DB(), r.pipeline, options); err != nil {
		return nil, err
	}
	marker := &intake.Marker{Store: r.store, Queue: r.queue}
	r.pipeline.Queue, r.pipeline.Marker = r.queue, marker
	if c.Intake.Follower {
		r.follower = &intake.Follower{
			Orthanc: client, Marker: marker, Objects: r.pipeline.Objects, FromBeginning: c.Intake.From == config.FromBeginning,
			PollInterval: c.Intake.PollInterval, Batch: c.Intake.Batch, Overlap: int64(c.Intake.Overlap), Metrics: numbers, Log: log,
			Failed: func(err error) { _ = r.damage(err) },
		}
	}
	r.web, err = web.Listen(web.Options{
		Listen: c.Server.Listen, TLSCertFile: c.Server.TLSCertFile, TLSKeyFile: c.Server.TLSKeyFile, Token: c.Server.HookToken.Reveal(), MetricsOpen: c.Server.MetricsOpen, Log: log, Metrics: numbers.Handler(),
		Hook:        &intake.Hook{Marker: marker, MaxBody: int64(c.Server.MaxBody), Metrics: numbers, Log: log},
		HookRefused: numbers.HookRefused,
		Explain: &explain.Explainer{
			Store: r.store, Orthanc: client, Rules: r.reloader.rules, Policy: r.pipeline.Policy, Levels: r.pipeline.Publisher.Levels,
			Forwarding: func(ctx context.Context) (string, error) {
				s, err := forwarding.State(ctx)
				return s.String(), err
			},
		},
		Reload: func() (any, error) { return r.reloader.reload() },
		Checks: []web.Check{
			{Name: "orthanc", Probe: func(ctx context.Context) error { _, err := client.System(ctx); return err }},
			{Name: "database", Probe: func(ctx context.Context) error { return r.damage(r.store.Writable(ctx)) }},
			{Name: "model", Probe: func(context.Context) error { return nil }}, // serve does not start without one
		},
	})
	if err != nil {
		return nil, fmt.Errorf("server.listen: %w", err)
	}
	return r, nil
}

// run works until ctx ends, then ends in order: no new requests, no new changes, running jobs finish or go back to the queue.
func (r *router) run(ctx context.Context) error {
	recovered, err := r.queue.Recover(ctx)
	if err != nil {
		return err
	}
	if err := r.pipeline.TakeUp(ctx); err != nil {
		return err
	}
	if err := r.queue.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	state, err := r.pipeline.Forwarding.State(ctx)
	if err != nil {
		return err
	}
	model := r.network.Model()
	r.log.Info().Str("version", versionText()).Str("listen", r.web.Addr().String()).Str("model", model.ID()).Str("provider", r.network.Provider()).
		Str("onnxruntime", r.network.RuntimeVersion()).Str("forwarding", state.String()).Int("rules", r.config.Rules.Len()).
		Bool("follower", r.follower != nil).Int64("taken_up", recovered).Msg("imaging-router started")

	background, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	group.Go(func() { r.pipeline.RunGates(background) })
	group.Go(func() { r.reloader.run(background) })
	if interval := r.config.Publish.SweepInterval; interval > 0 {
		group.Go(func() { r.pipeline.RunSweeps(background, interval, r.config.Publish.SweepAge, r.config.Database.Keep) })
	}
	if r.follower != nil {
		r.follower.Metrics.FollowerStarted(time.Now())
		group.Go(func() { r.follower.Run(background) })
	}
	served := make(chan error, 1)
	go func() { served <- r.web.Serve() }()

	var failure error
	select {
	case <-ctx.Done():
		r.log.Info().Msg("stopping: running jobs finish or go back to the queue; a second signal ends at once")
	case failure = <-served:
	case failure = <-r.damaged:
		failure = store.Damage(failure)
		r.log.Error().Err(failure).Msg("the database is damaged; the router ends")
	}
	stop()
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout+2*time.Second)
	defer cancel()
	if err := r.web.Shutdown(deadline); err != nil {
		r.log.Warn().Err(err).Msg("requests were cut off")
	}
	group.Wait()
	if err := r.queue.Stop(deadline); err != nil {
		r.log.Warn().Err(err).Msg("jobs were cut off; the next start takes them up")
	}
	if failure != nil && !errors.Is(failure, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", failure)
	}
	r.log.Info().Msg("stopped")
	return nil
}

func (r *router) close() error {
	var err error
	if r.store != nil {
		err = r.store.Close()
	}
	if r.network != nil {
		err = errors.Join(err, r.network.Close())
	}
	return err
}

func queueOptions(c *config.Config, log zerolog.Logger) jobs.Options {
	workers := c.Jobs.ClassifyWorkers
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	return jobs.Options{
		ClassifyWorkers: workers, PublishWorkers: c.Jobs.PublishWorkers, Destinations: inFlight(c),
		MaxAttempts: c.Jobs.MaxAttempts, BackoffMax: c.Jobs.BackoffMax, StopTimeout: stopTimeout, Logger: log,
	}
}

// inFlight returns how many deliveries to each destination run at a time.
func inFlight(c *config.Config) map[string]int {
	all := make(map[string]int, len(c.Destinations))
	for _, d := range c.Destinations {
		all[d.Name] = d.MaxInFlight
		if d.MaxInFlight == 0 {
			all[d.Name] = c.Jobs.DeliverWorkers
		}
	}
	return all
}

func newVolume(c *config.Config, s *store.Store, log zerolog.Logger) *pipeline.Volume {
	limit, auto := c.Forwarding.Volume()
	return &pipeline.Volume{Store: s, Limit: limit, Auto: auto, Log: log}
}

// destinations makes what the configuration names. p says of an error whose fault it was, and hears when a gate closes.
func destinations(c *config.Config, p *pipeline.Pipeline) (map[string]delivery.Destination, error) {
	all := make(map[string]delivery.Destination, len(c.Destinations))
	for _, d := range c.Destinations {
		kind, err := destinationKind(d)
		if err != nil {
			return nil, fmt.Errorf("destination %s: %w", d.Name, err)
		}
		all[d.Name] = delivery.Destination{
			Name: d.Name, Kind: kind, FromUsernames: d.FromUsernames, FromAETs: d.FromAETs, FromOrigins: d.FromOrigins, Timeout: d.Timeout,
			Resend: store.Resend(d.Resend), TransferSyntax: d.TransferSyntax, Alternate: d.Alternate, AlternateAfter: d.AlternateAfter,
			Gate: delivery.NewGate(d.Name, delivery.GateOptions{
				Failures: d.CircuitBreaker.Failures, Pause: d.CircuitBreaker.Pause, MostPerMinute: d.MostPerMinute,
				Excused: p.Excused(kind), Changed: p.GateChanged,
			}),
		}
	}
	return all, nil
}

// destinationKind makes what the configuration names; it has exactly one of them.
func destinationKind(d config.Destination) (delivery.Kind, error) {
	switch {
	case d.Transfers != "":
		return delivery.Transfers{Name: d.Transfers}, nil
	case d.Modality != "":
		return delivery.Modality{Name: d.Modality, Commit: d.StorageCommitment}, nil
	case d.DICOMweb != "":
		return delivery.DICOMweb{Name: d.DICOMweb}, nil
	case d.Webhook.URL != "":
		return delivery.NewWebhook(d.Webhook.URL, d.Webhook.Secret.Reveal(), d.Webhook.CAFile)
	case d.Folder.Path != "":
		return delivery.Folder{Path: d.Folder.Path, Template: d.Folder.Template}, nil
	default:
		return delivery.Peer{Name: d.Peer}, nil
	}
}

func labelLevels(c *config.Config) []orthanc.Level {
	names := map[string]orthanc.Level{config.LevelStudy: orthanc.LevelStudy, config.LevelSeries: orthanc.LevelSeries, config.LevelInstance: orthanc.LevelInstance}
	levels := make([]orthanc.Level, 0, len(names))
	for _, l := range c.Publish.LabelLevels {
		levels = append(levels, names[l])
	}
	return levels
}

func loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}
