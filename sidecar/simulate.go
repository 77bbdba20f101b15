package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/delivery"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/rules"
)

// simulation is what the flags of simulate choose.
type simulation struct {
	study   string
	last    int
	against string
	format  string
}

func newSimulateCommand() *cobra.Command {
	var s simulation
	cmd := &cobra.Command{
		Use:   "simulate [FILE|DIR ...] [--study ID | --last N]",
		Short: "Try rules out: what would be sent where, and why; nothing is sent",
		Long: `Goes through the rules of the configuration and says of each whether it matches, with the values that it saw, and what would be sent where.
Nothing is sent, and nothing is written.

FILE|DIR  classifies DICOM files, or pictures, without an Orthanc. How a file would arrive is not known: remote_aet, called_aet and origin
          are empty; the study is what was named of it.
--study   takes one study of Orthanc's: the results of the database, and where there is none the file itself.
--last    takes the newest N results of the database.

With --against the rules of another configuration file are gone through as well, and only what would have gone elsewhere is shown.
Rules see "now" as it was when the instance was classified, and tags and study as they are in Orthanc today. Whether forwarding is on, and
forwarding.route_max_age, are left aside: they say whether the rules are asked at all.

It shows tags as the rules see them: what it prints can be a patient's.

Exit status: 0 when everything could be decided (whether or not there are differences), 1 when something could not, 2 when the command
line was wrong.`,
		Example: `  imaging-router simulate chest.dcm
  imaging-router simulate --study 6b9e19d9-62094390-5f9ddb01-4a191ae7-9766b715
  imaging-router simulate --last 1000 --against new.yaml
  imaging-router --config new.yaml simulate --last 100 --format json`,
		Args: func(_ *cobra.Command, args []string) error { return s.check(args) },
		RunE: s.run,
	}
	cmd.Flags().StringVar(&s.study, "study", "", "Orthanc's identifier of a study")
	cmd.Flags().IntVar(&s.last, "last", 0, "the newest N results of the database")
	cmd.Flags().StringVar(&s.against, "against", "", "another configuration file, to see what its rules would change")
	cmd.Flags().StringVarP(&s.format, "format", "f", "table", "table, or json (one object a line)")
	return cmd
}

func (s *simulation) check(args []string) error {
	sources := 0
	for _, named := range []bool{len(args) > 0, s.study != "", s.last != 0} {
		if named {
			sources++
		}
	}
	switch {
	case sources != 1:
		return errors.New("simulate needs files, or --study ID, or --last N")
	case s.last < 0:
		return fmt.Errorf("--last must be greater than 0 (got %d)", s.last)
	case s.study != "" && !orthanc.ValidID(s.study):
		return errors.New("--study is not an Orthanc identifier: five groups of eight hexadecimal digits")
	case s.format != "table" && s.format != "json":
		return fmt.Errorf("unknown format %q (known: table, json)", s.format)
	}
	return nil
}

func (s *simulation) run(cmd *cobra.Command, args []string) error {
	read := loadConfig
	if len(args) > 0 {
		read = toolConfig
	}
	c, err := read(cmd)
	if err != nil {
		return err
	}
	run := &simulated{now: routesOf(c)}
	if s.against != "" {
		other, err := config.LoadWithoutSecrets(s.against)
		if err != nil {
			return err
		}
		run.then = routesOf(other)
	}
	w := &simulationWriter{out: cmd.OutOrStdout(), json: s.format == "json", against: s.against != ""}
	source := &subjects{config: c}
	defer source.close()
	each := func(sub subject) error { return w.write(run.decide(cmd.Context(), sub)) }
	switch {
	case s.study != "":
		err = source.ofStudy(cmd.Context(), s.study, each)
	case s.last > 0:
		err = source.newest(cmd.Context(), s.last, each)
	default:
		err = source.ofFiles(cmd.Context(), args, cmd.InOrStdin(), each)
	}
	if err != nil {
		return err
	}
	summary := cmd.OutOrStdout()
	if w.json {
		summary = cmd.ErrOrStderr()
	}
	fmt.Fprintln(summary, w.summary())
	if w.failed > 0 {
		return errSilent
	}
	return nil
}

// routes is one configuration's say in where something goes.
type routes struct {
	rules        *rules.Set
	destinations map[string]delivery.Destination
}

func routesOf(c *config.Config) *routes {
	r := &routes{rules: c.Rules, destinations: map[string]delivery.Destination{}}
	for _, d := range c.Destinations {
		r.destinations[d.Name] = delivery.Destination{Name: d.Name, FromUsernames: d.FromUsernames, FromAETs: d.FromAETs, FromOrigins: d.FromOrigins}
	}
	return r
}

// routed is what one configuration's rules say about one subject.
type routed struct {
	Rules    []rules.Verdict `json:"rules"`
	SendTo   []string        `json:"send_to"`
	NotBack  []string        `json:"not_sent_back_to,omitempty"` // it came from there
	decision string          // where to, and alone or with its study: for comparing
}

func (r *routes) of(ctx context.Context, s subject) (routed, error) {
	verdicts, err := r.rules.Explain(ctx, s.context)
	out := routed{Rules: verdicts, SendTo: []string{}}
	if err != nil {
		return out, err
	}
	var decision []string
	for _, v := range verdicts {
		for _, name := range v.Destinations {
			d := r.destinations[name]
			if s.instance != nil && len(d.FromUsernames)+len(d.FromAETs)+len(d.FromOrigins) > 0 {
				inst, err := s.instance(ctx)
				if err != nil {
					return out, err
				}
				if d.SentIt(inst) {
					out.NotBack = append(out.NotBack, name)
					continue
				}
			}
			out.SendTo = append(out.SendTo, name)
			decision = append(decision, name+" as "+string(v.Level))
		}
	}
	slices.Sort(decision)
	out.decision = strings.Join(decision, " ")
	slices.Sort(out.SendTo)
	out.SendTo = slices.Compact(out.SendTo) // alone and with its study
	return out, nil
}

// simulated decides about one subject after the other.
type simulated struct{ now, then *routes }

// simulationResult is what simulate says about one file or instance.
type simulationResult struct {
	File       string         `json:"file,omitempty"`
	Instance   string         `json:"instance,omitempty"`
	Study      string         `json:"study,omitempty"` // Orthanc's identifier; of files a number
	Class      bodypart.Class `json:"class,omitempty"`
	Confidence float64        `json:"confidence,omitempty"`
	Review     bool           `json:"review"`
	routed
	Against *routed `json:"against,omitempty"`
	Differs bool    `json:"differs,omitempty"`
	Error   string  `json:"error,omitempty"`
}

func (r *simulated) decide(ctx context.Context, s subject) simulationResult {
	out := simulationResult{File: s.file, Instance: s.id, Study: s.study, Class: s.context.Class, Confidence: s.context.Confidence, Review: s.context.Review}
	err := s.err
	if err == nil {
		out.routed, err = r.now.of(ctx, s)
	}
	if err == nil && r.then != nil {
		var then routed
		then, err = r.then.of(ctx, s)
		out.Against, out.Differs = &then, then.decision != out.decision
	}
	if err != nil {
		out.Error = err.Error()
		if orthanc.IsNotFound(err) {
			out.Error = "deleted in Orthanc: what the rules ask for is no longer there"
		}
	}
	return out
}
