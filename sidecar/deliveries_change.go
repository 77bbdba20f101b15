package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/pipeline"
	"imagingrouter/sidecar/internal/store"
)

// deadLetters are the ends from which a delivery can be taken up again.
var deadLetters = []store.DeliveryState{store.DeliveryFailed, store.DeliveryExpired, store.DeliveryCancelled, store.DeliveryGone}

func newDeliveriesRetryCommand() *cobra.Command {
	var s deliverySelection
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "retry [DELIVERY ...]",
		Short: "Take up deliveries again that ended without success",
		Long: `Takes up the named deliveries, or all that the flags select (at least one flag must then be given). They go with the same
identifier as before, and give_up_after counts anew. The count is printed first; --dry-run leaves it at that.`,
		Example: `  imaging-router deliveries retry --destination spine-ai --dry-run
  imaging-router deliveries retry --destination spine-ai
  imaging-router deliveries retry 7e0c6d1a-3c57-4b5e-9b58-0f5d0d0c6a11`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !s.narrowed(cmd) {
				return errors.New("deliveries retry needs names, or --destination, --rule, --study, --reason or --state")
			}
			c, db, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = db.Close() }()
			list, err := s.choose(cmd.Context(), db, args, deadLetters, "retry")
			if err != nil {
				return err
			}
			all := len(list)
			list = slices.DeleteFunc(list, func(d store.Delivery) bool { return !slices.Contains(c.DestinationNames(), d.To()) })
			if gone := all - len(list); gone > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d left out: the configuration no longer has their destination\n", gone)
				if len(list) == 0 {
					return errors.New("there is nothing to retry")
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d deliveries\n", len(list))
			if dryRun {
				return nil
			}
			queue, err := openQueue(cmd.Context(), cmd, c, db)
			if err != nil {
				return err
			}
			return reopen(cmd.Context(), db, queue, list)
		},
	}
	s.flags(cmd, []store.DeliveryState{store.DeliveryFailed, store.DeliveryExpired})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only count")
	return cmd
}

func newDeliveriesCancelCommand() *cobra.Command {
	var s deliverySelection
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "cancel [DELIVERY|STUDY ...]",
		Short: "Give up deliveries that have not been handed over yet",
		Long: `Ends pending and held deliveries: those that are named, or all that the flags select (at least one flag must then be given). A study or
series (Orthanc's identifier) ends what rules wait for of it. What Orthanc already has is not called back. The usual way after a wrong
rule: forwarding off, correct and reload the rules, deliveries cancel, forwarding default.`,
		Example: `  imaging-router deliveries cancel --rule "everything to chest-ai" --dry-run
  imaging-router deliveries cancel --rule "everything to chest-ai"
  imaging-router deliveries cancel --state held`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !s.narrowed(cmd) {
				return errors.New("deliveries cancel needs names, or --destination, --rule, --study, --reason or --state")
			}
			_, db, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = db.Close() }()
			args, waits, err := resources(args, func(id string) (int64, error) {
				if dryRun {
					return 0, errors.New("--dry-run counts deliveries only")
				}
				return db.CancelGatherings(cmd.Context(), id, "cancelled by command")
			})
			if err != nil {
				return err
			}
			if waits > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "%d waits cancelled\n", waits)
				if len(args) == 0 {
					return nil
				}
			}
			list, err := s.choose(cmd.Context(), db, args, []store.DeliveryState{store.DeliveryPending, store.DeliveryHeld}, "cancel")
			if err != nil {
				return err
			}
			if dryRun {
				fmt.Fprintf(cmd.OutOrStdout(), "%d deliveries\n", len(list))
				return nil
			}
			cancelled := 0
			for _, d := range list {
				done, err := db.CancelDelivery(cmd.Context(), d.ID, "cancelled by command")
				if err != nil {
					return err
				}
				if done {
					cancelled++
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d deliveries cancelled, %d were no longer pending\n", cancelled, len(list)-cancelled)
			if reason, _, _, err := db.Setting(cmd.Context(), store.SettingVolumeBrake); err == nil && reason != "" {
				fmt.Fprintln(cmd.OutOrStdout(), "the volume brake still holds what comes next: imaging-router deliveries release opens it")
			}
			return nil
		},
	}
	s.flags(cmd, []store.DeliveryState{store.DeliveryPending, store.DeliveryHeld})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only count")
	return cmd
}

// resources calls f for those of the names that are Orthanc's identifiers, and returns the others.
func resources(names []string, f func(id string) (int64, error)) (others []string, n int64, err error) {
	for _, name := range names {
		if !orthanc.ValidID(name) {
			others = append(others, name)
			continue
		}
		done, err := f(name)
		if err != nil {
			return others, n, err
		}
		if done == 0 {
			return others, n, fmt.Errorf("no rule waits for %s", name)
		}
		n += done
	}
	return others, n, nil
}

func newDeliveriesReleaseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "release [DELIVERY|STUDY ...]",
		Short: "Let go what the volume brake holds, or a study that waits",
		Long: `Without names: opens the volume brake and lets all deliveries go that it holds; the hour begins anew. Named deliveries go alone, and the
brake stays. A study or series (Orthanc's identifier) that waits to be complete, or for a review, is decided about as it is now.`,
		Example: `  imaging-router deliveries release
  imaging-router deliveries release 6b9e29b1-5d4b8d3c-8f7a3ee1-9e5ab2b4-3c1f7a0d`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, db, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = db.Close() }()
			queue, err := openQueue(cmd.Context(), cmd, c, db)
			if err != nil {
				return err
			}
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			all := len(args) == 0
			args, waits, err := resources(args, func(id string) (int64, error) { return releaseWaits(ctx, db, queue, id) })
			if err != nil {
				return err
			}
			if waits > 0 {
				fmt.Fprintf(out, "%d waits released\n", waits)
			}
			var list []store.Delivery
			if all {
				if err := db.SetSetting(ctx, store.SettingVolumeBrake, ""); err != nil {
					return err
				}
				list, err = db.Deliveries(ctx, store.DeliveryFilter{States: []store.DeliveryState{store.DeliveryHeld}, OldestFirst: true})
			} else {
				list, err = (&deliverySelection{}).choose(ctx, db, args, []store.DeliveryState{store.DeliveryHeld}, "release")
			}
			if err != nil || !all && len(args) == 0 {
				return err
			}
			n, err := releaseDeliveries(ctx, db, queue, list)
			fmt.Fprintf(out, "%d deliveries released\n", n)
			return err
		},
	}
}

func releaseDeliveries(ctx context.Context, db *store.Store, queue *jobs.Queue, list []store.Delivery) (n int, err error) {
	for _, d := range list {
		err := db.Tx(ctx, func(tx *sql.Tx) error {
			released, err := db.ReleaseDelivery(ctx, tx, d.ID)
			if err != nil || !released {
				return err
			}
			n++
			job, err := queue.Deliver(ctx, tx, d.ID, d.To(), jobs.Priority(d.Priority), d.NotBefore)
			if err != nil {
				return err
			}
			return db.SetDeliveryJob(ctx, tx, d.ID, job)
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// releaseWaits makes what waits of a study or series decide now.
func releaseWaits(ctx context.Context, db *store.Store, queue *jobs.Queue, id string) (int64, error) {
	n, err := db.ReleaseGatherings(ctx, id)
	if err != nil || n == 0 {
		return n, err
	}
	waiting, err := db.Waiting(ctx, 0)
	if err != nil {
		return n, err
	}
	return n, db.Tx(ctx, func(tx *sql.Tx) error {
		for _, g := range waiting {
			if g.Released && g.Job != 0 {
				if err := queue.Wake(ctx, tx, g.Job); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func newDeliveriesPauseCommand(pause bool) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pause DESTINATION",
		Short: "Send nothing to a destination until it is resumed",
		Long: `Stops sending to one destination within a second and beyond a restart; the others go on. What comes for it waits, in order. What Orthanc is
sending at this moment ends. give_up_after goes on counting: what waits longer than that expires.`,
		Example: "  imaging-router deliveries pause spine-ai",
	}
	value, word := "paused", "paused"
	if !pause {
		cmd.Use, cmd.Short, cmd.Long = "resume DESTINATION", "Send to a paused destination again", "Sends to a paused destination again, the oldest first."
		cmd.Example, value, word = "  imaging-router deliveries resume spine-ai", "", "open"
	}
	cmd.Args = cobra.ExactArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, db, err := openDatabase(cmd)
		if err != nil {
			return err
		}
		defer func() { _ = db.Close() }()
		if !slices.Contains(c.DestinationNames(), args[0]) {
			return fmt.Errorf("unknown destination %q (known: %s)", args[0], strings.Join(c.DestinationNames(), ", "))
		}
		if err := db.SetSetting(cmd.Context(), pipeline.PauseSetting(args[0]), value); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], word)
		return nil
	}
	return cmd
}
