package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/store"
)

func newJobsCancelCommand() *cobra.Command {
	var destination, rule string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "cancel [DELIVERY ...]",
		Short: "Give up deliveries that have not been handed to Orthanc yet",
		Long: `Ends pending deliveries: those that are named, or all that --destination and --rule select. What Orthanc already has is not called
back. The usual way after a wrong rule: forwarding off, correct and reload the rules, jobs cancel, forwarding default.`,
		Example: `  imaging-router jobs cancel --rule "everything to chest-ai" --dry-run
  imaging-router jobs cancel --destination chest-ai`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && destination == "" && rule == "" {
				return errors.New("jobs cancel needs names, --destination or --rule")
			}
			_, db, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = db.Close() }()
			ids := args
			if len(args) == 0 {
				list, err := db.Deliveries(cmd.Context(), store.DeliveryFilter{States: []store.DeliveryState{store.DeliveryPending}, Destination: destination})
				if err != nil {
					return err
				}
				for _, d := range list {
					if rule == "" || d.Rule == rule {
						ids = append(ids, d.ID)
					}
				}
			}
			if dryRun {
				fmt.Fprintf(cmd.OutOrStdout(), "%d deliveries\n", len(ids))
				return nil
			}
			cancelled := 0
			for _, id := range ids {
				if len(args) > 0 {
					if _, err := db.Delivery(cmd.Context(), id); err != nil {
						return err
					}
				}
				done, err := db.CancelDelivery(cmd.Context(), id, "cancelled by command")
				if err != nil {
					return err
				}
				if done {
					cancelled++
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d deliveries cancelled, %d were no longer pending\n", cancelled, len(ids)-cancelled)
			return nil
		},
	}
	cmd.Flags().StringVar(&destination, "destination", "", "all pending deliveries to this destination")
	cmd.Flags().StringVar(&rule, "rule", "", "all pending deliveries that this rule caused")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only count")
	return cmd
}
