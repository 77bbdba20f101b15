package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/pipeline"
	"imagingrouter/sidecar/internal/store"
)

func newDeliveriesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deliveries",
		Short: "See what is sent where and what is not; retry, cancel, pause, release",
		Long: `Shows and directs what the router sends. It works beside a running router, which takes notice within seconds.

A delivery is one instance, series or study on its way to one destination. It is pending, submitting, sent, or at an end: delivered,
expired, cancelled, gone, failed. What has expired or failed is the dead letter: it stays, with the last answer, until it is retried
or forgotten (database.keep). "held" is what the volume brake keeps for a person.

What rules of "level: study" or "level: series" wait for is no delivery yet; status and list show it as well.`,
		Example: `  imaging-router deliveries status
  imaging-router deliveries list --destination spine-ai --state failed
  imaging-router deliveries retry --destination spine-ai
  imaging-router deliveries pause spine-ai`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDeliveriesStatusCommand(), newDeliveriesListCommand(), newDeliveriesShowCommand(), newDeliveriesRetryCommand(),
		newDeliveriesCancelCommand(), newDeliveriesReleaseCommand(), newDeliveriesPauseCommand(true), newDeliveriesPauseCommand(false))
	return cmd
}

// deliverySelection is what the flags of list, retry and cancel choose.
type deliverySelection struct {
	states      []string
	destination string
	rule        string
	reason      string
	resource    string
}

func (s *deliverySelection) flags(cmd *cobra.Command, states []store.DeliveryState) {
	defaults := make([]string, len(states))
	for i, state := range states {
		defaults[i] = string(state)
	}
	cmd.Flags().StringSliceVar(&s.states, "state", defaults, "states, comma-separated")
	cmd.Flags().StringVar(&s.destination, "destination", "", "only those to this destination")
	cmd.Flags().StringVar(&s.rule, "rule", "", "only those that this rule caused")
	cmd.Flags().StringVar(&s.reason, "reason", "", "only those whose reason or last answer contains this")
	cmd.Flags().StringVar(&s.resource, "study", "", "only those of this study, series or instance (Orthanc's identifier)")
}

// narrowed says whether the selection is anything but everything.
func (s *deliverySelection) narrowed(cmd *cobra.Command) bool {
	return s.destination != "" || s.rule != "" || s.reason != "" || s.resource != "" || cmd.Flags().Changed("state")
}

func (s *deliverySelection) filter() (store.DeliveryFilter, error) {
	f := store.DeliveryFilter{Destination: s.destination, Rule: s.rule, Reason: s.reason, ResourceID: s.resource}
	if s.resource != "" && !orthanc.ValidID(s.resource) {
		return f, errors.New("--study: not an Orthanc identifier (five groups of eight hexadecimal digits)")
	}
	for _, name := range s.states {
		state := store.DeliveryState(name)
		if !slices.Contains(store.DeliveryStates(), state) {
			return f, fmt.Errorf("unknown state %q (known: %s)", name, join(store.DeliveryStates()))
		}
		f.States = append(f.States, state)
	}
	return f, nil
}

// choose returns the named deliveries, or without names those that the flags select. known, unless empty, are the states that make sense.
func (s *deliverySelection) choose(ctx context.Context, db *store.Store, names []string, known []store.DeliveryState, verb string) ([]store.Delivery, error) {
	if len(names) > 0 {
		list := make([]store.Delivery, 0, len(names))
		for _, name := range names {
			d, err := db.Delivery(ctx, name)
			if err != nil {
				return nil, fmt.Errorf("%w (a delivery is named by its own identifier: imaging-router deliveries list)", err)
			}
			if !slices.Contains(known, d.State) {
				return nil, fmt.Errorf("delivery %s is %s: there is nothing to %s", d.ID, d.State, verb)
			}
			list = append(list, d)
		}
		return list, nil
	}
	f, err := s.filter()
	if err != nil {
		return nil, err
	}
	for _, state := range f.States {
		if !slices.Contains(known, state) {
			return nil, fmt.Errorf("what is %s cannot be %s (only %s)", state, map[string]string{"retry": "retried", "cancel": "cancelled"}[verb], join(known))
		}
	}
	f.OldestFirst = true
	return db.Deliveries(ctx, f)
}

func newDeliveriesStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show for each destination whether it is open, what waits and what failed",
		Example: "  imaging-router deliveries status",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, db, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = db.Close() }()
			return deliveriesStatus(cmd.Context(), cmd.OutOrStdout(), c, db)
		},
	}
}

func deliveriesStatus(ctx context.Context, w io.Writer, c *config.Config, db *store.Store) error {
	forwarding, err := (&pipeline.Forwarding{Store: db, Configured: c.Forwarding.Enabled}).State(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "forwarding: %s\n", forwarding)
	counts, err := db.DeliveryCounts(ctx)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "\nDESTINATION\tIS\tWAITING\tOLDEST\tHELD\tDELIVERED\tDEAD LETTER")
	for _, name := range c.DestinationNames() {
		paused, err := pipeline.PausedIn(ctx, db, name)
		if err != nil {
			return err
		}
		is := "open"
		why, since, _, err := db.Setting(ctx, pipeline.GateSetting(name))
		switch {
		case err != nil:
			return err
		case paused.On:
			is = "paused since " + clock(paused.Since)
		case why != "":
			is = "closed since " + clock(since) + ": " + why
		}
		var n = map[store.DeliveryState]int64{}
		var oldest time.Time
		for _, count := range counts {
			if count.Destination != name {
				continue
			}
			n[count.State] += count.N
			if waits := count.State == store.DeliveryPending || count.State == store.DeliverySubmitting || count.State == store.DeliverySent; waits && (oldest.IsZero() || count.Oldest.Before(oldest)) {
				oldest = count.Oldest
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%d\t%d\t%d\n", name, is, n[store.DeliveryPending]+n[store.DeliverySubmitting]+n[store.DeliverySent], age(oldest),
			n[store.DeliveryHeld], n[store.DeliveryDelivered], n[store.DeliveryFailed]+n[store.DeliveryExpired])
	}
	if err := table.Flush(); err != nil {
		return err
	}
	volume := newVolume(c, db, zerolog.Nop())
	limit, err := volume.Current(ctx)
	if err != nil {
		return err
	}
	switch reason, since, err := volume.Held(ctx); {
	case err != nil:
		return err
	case reason != "":
		fmt.Fprintf(w, "\nvolume brake: HOLDS since %s: %s\n", clock(since), reason)
	case limit == 0:
		fmt.Fprintln(w, "\nvolume brake: off")
	default:
		fmt.Fprintf(w, "\nvolume brake: open, holds beyond %d deliveries within an hour\n", limit)
	}
	waiting, err := db.Waiting(ctx, 0)
	if err != nil {
		return err
	}
	held := 0
	for _, g := range waiting {
		if g.State == store.GatheringHeld {
			held++
		}
	}
	fmt.Fprintf(w, "whole series and studies: %d wait to be complete, %d are held for a person\n", len(waiting)-held, held)
	return nil
}

func age(since time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return max(0, time.Since(since)).Round(time.Second).String()
}

func newDeliveriesListCommand() *cobra.Command {
	var s deliverySelection
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List open and failed deliveries, and what rules still wait for; newest first",
		Example: `  imaging-router deliveries list
  imaging-router deliveries list --destination chest-ai --state failed,expired --json
  imaging-router deliveries list --study 6b9e29b1-5d4b8d3c-8f7a3ee1-9e5ab2b4-3c1f7a0d --state delivered`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, db, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = db.Close() }()
			f, err := s.filter()
			if err != nil {
				return err
			}
			f.Limit = limit
			deliveries, err := db.Deliveries(cmd.Context(), f)
			if err != nil {
				return err
			}
			var waiting []store.Gathering
			if !s.narrowed(cmd) {
				if waiting, err = db.Waiting(cmd.Context(), limit); err != nil {
					return err
				}
			}
			if asJSON {
				return writeDeliveriesJSON(cmd.OutOrStdout(), waiting, deliveries)
			}
			return writeDeliveries(cmd.OutOrStdout(), waiting, deliveries)
		},
	}
	s.flags(cmd, append(store.OpenDeliveries(), store.DeliveryFailed, store.DeliveryExpired))
	cmd.Flags().IntVar(&limit, "limit", 100, "most rows; 0 = all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return cmd
}

func writeDeliveries(w io.Writer, waiting []store.Gathering, deliveries []store.Delivery) error {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	if len(waiting) > 0 {
		fmt.Fprintln(table, "WAITS FOR\tRULE\tIS\tSINCE\tWHY")
	}
	for _, g := range waiting {
		fmt.Fprintf(table, "%s %s\t%s\t%s\t%s\t%s\n", g.Level.One(), g.ResourceID, g.Rule, g.State, clock(g.OpenedAt), orDefault(g.Reason, "not looked at yet"))
	}
	if len(waiting) > 0 && len(deliveries) > 0 {
		fmt.Fprintln(table)
	}
	if len(deliveries) > 0 {
		fmt.Fprintln(table, "DELIVERY\tOF\tTO\tSTATE\tCREATED\tATTEMPTS\tREASON")
	}
	for _, d := range deliveries {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", d.ID, d.Subject(), route(d), d.State, clock(d.CreatedAt), d.Attempts, orDefault(d.Reason, d.LastError))
	}
	if len(waiting)+len(deliveries) == 0 {
		fmt.Fprintln(table, "none")
	}
	return table.Flush()
}

// route names a delivery's destination, and its alternate where it goes there.
func route(d store.Delivery) string {
	if d.Via == "" {
		return d.Destination
	}
	return d.Via + " instead of " + d.Destination
}

func writeDeliveriesJSON(w io.Writer, waiting []store.Gathering, deliveries []store.Delivery) error {
	encoder := json.NewEncoder(w)
	for _, g := range waiting {
		if err := encoder.Encode(map[string]any{
			"kind": "waiting", "level": g.Level.One(), "resource": g.ResourceID, "study": g.StudyID, "rule": g.Rule, "state": g.State, "reason": g.Reason,
			"since": stamp(g.OpenedAt), "changed_at": stamp(g.ChangedAt),
		}); err != nil {
			return err
		}
	}
	for _, d := range deliveries {
		if err := encoder.Encode(deliveryJSON(d)); err != nil {
			return err
		}
	}
	return nil
}

func newDeliveriesShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show DELIVERY",
		Short:   "Tell what one delivery holds and how it stands",
		Example: "  imaging-router deliveries show 7e0c6d1a-3c57-4b5e-9b58-0f5d0d0c6a11",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, db, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = db.Close() }()
			d, err := db.Delivery(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			items, err := db.Items(cmd.Context(), d.ID)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintf(table, "delivery\t%s\nof\t%s\nto\t%s\nrule\t%s\nstate\t%s %s\n", d.ID, d.Subject(), route(d), d.Rule, d.State, d.Reason)
			fmt.Fprintf(table, "created\t%s\nattempts\t%d, the last at %s\nfinished\t%s\n", clock(d.CreatedAt), d.Attempts, clock(d.SubmittedAt), clock(d.FinishedAt))
			fmt.Fprintf(table, "last answer\t%s\nOrthanc's job\t%s\n", orDefault(d.LastError, "-"), orDefault(d.OrthancJob, "-"))
			for _, item := range items {
				fmt.Fprintf(table, "instance\t%s\t%s\n", item.InstanceID, item.Dropped)
			}
			return table.Flush()
		},
	}
}
