package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/pipeline"
	"imagingrouter/sidecar/internal/store"
)

func newForwardingCommand() *cobra.Command {
	words := []string{"on", "off", "default", "status"}
	return &cobra.Command{
		Use:       "forwarding on|off|default|status",
		Short:     "The emergency brake: stop or resume forwarding without a restart",
		ValidArgs: words,
		Long: `Switches forwarding off or on for the running router, within a second and beyond a restart. Classification and labels go on.

off      nothing more is handed to Orthanc for sending. Where the configuration says forwarding.enabled, deliveries still come into
         being and wait; after "on" they go, except those of instances that have become older than forwarding.route_max_age.
on       forwards, also where the configuration says pilot mode.
default  goes back to what the configuration says (forwarding.enabled).
status   shows how the switch stands.`,
		Example: `  imaging-router forwarding off
  docker compose exec imaging-router imaging-router forwarding status`,
		Args: cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, s, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			if args[0] != "status" {
				value := args[0]
				if value == "default" {
					value = ""
				}
				if err := s.SetSetting(cmd.Context(), pipeline.ForwardingSetting, value); err != nil {
					return err
				}
			}
			state, err := (&pipeline.Forwarding{Store: s, Configured: c.Forwarding.Enabled}).State(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "forwarding: %s\n", state)
			return nil
		},
	}
}

// openDatabase opens the router's database for a command that looks or marks beside a running router.
func openDatabase(cmd *cobra.Command) (*config.Config, *store.Store, error) {
	c, err := toolConfig(cmd)
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(c.Database.Path); err != nil {
		return nil, nil, fmt.Errorf("there is no database yet at database.path: %w (it comes with the first `imaging-router serve`)", err)
	}
	s, err := store.Open(cmd.Context(), c.Database.Path)
	return c, s, err
}

// openQueue returns a queue that only inserts, for commands.
func openQueue(ctx context.Context, cmd *cobra.Command, c *config.Config, s *store.Store) (*jobs.Queue, error) {
	log, err := newLogger(cmd, c)
	if err != nil {
		return nil, err
	}
	return jobs.Open(ctx, s.DB(), nil, queueOptions(c, log))
}

// lastHook returns when the router last heard from Orthanc's hook.
func lastHook(c *config.Config) (at time.Time, heard bool, err error) {
	if _, err := os.Stat(c.Database.Path); err != nil {
		return at, false, fmt.Errorf("there is no database yet at database.path: %w", err)
	}
	s, err := store.Open(context.Background(), c.Database.Path)
	if err != nil {
		return at, false, err
	}
	defer func() { _ = s.Close() }()
	_, at, heard, err = s.Setting(context.Background(), store.SettingHookHeard)
	return at, heard, err
}
