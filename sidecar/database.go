package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/store"
)

func newDatabaseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "database",
		Short: "Check the router's database file, and mend or replace a damaged one",
		Long: `The router keeps its queue and the story of each instance in one SQLite file (database.path). It checks the file at every start and does
not start with a damaged one: a disk that lost something, another program that wrote into it, a copy made while the router ran.

check   goes through the file; it may run beside the router.
repair  reads what can be read into a new file. Try this first.
reset   begins with an empty file.

repair and reset want the router stopped, and keep the damaged file beside the new one. A backup that is not damaged is better than both.`,
		Example: `  imaging-router database check
  imaging-router database repair
  imaging-router database reset --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDatabaseCheckCommand(), newDatabaseRepairCommand(), newDatabaseResetCommand())
	return cmd
}

// databaseFile returns the configuration, whose database.path must be a file that is there.
func databaseFile(cmd *cobra.Command) (*config.Config, error) {
	c, err := toolConfig(cmd)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(c.Database.Path); err != nil {
		return nil, fmt.Errorf("there is no database at database.path: %w (it comes with the first `imaging-router serve`)", err)
	}
	return c, nil
}

func newDatabaseCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "check",
		Short:   "Go through the whole file; status 1 when it is damaged",
		Example: "  imaging-router database check",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := databaseFile(cmd)
			if err != nil {
				return err
			}
			s, err := store.Open(cmd.Context(), c.Database.Path)
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			began := time.Now()
			if err := s.Check(cmd.Context()); err != nil {
				return err
			}
			info, err := os.Stat(c.Database.Path)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok, %.1f MB checked in %s\n", c.Database.Path, float64(info.Size())/1e6, time.Since(began).Round(time.Millisecond))
			return nil
		},
	}
}

func newDatabaseRepairCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "repair",
		Short: "Salvage what can be read of a damaged file into a new one",
		Long: `Reads every table of the damaged file, from the front and from the back, into a new file, which takes its place; the damaged one stays
beside it as database.path.damaged-<time>. The router must be stopped.

At the next start the router makes the jobs of all open work anew and reads Orthanc's changes from the beginning: what the file has lost is
classified and labelled again. What Orthanc received after the last change that the file knows goes where the rules send it; nothing
older is forwarded. A delivery that was lost with the file is not made up for: compare the time of the damage with
"imaging-router deliveries list". Where the table "delivery" or "delivery_item" was read in part, what was sent may be sent again when something new
comes to its study.`,
		Example: "  imaging-router database repair",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := databaseFile(cmd)
			if err != nil {
				return err
			}
			tables, aside, err := store.Salvage(cmd.Context(), c.Database.Path)
			if err := stopFirst(err); err != nil {
				return err
			}
			return showSalvage(cmd.OutOrStdout(), c, tables, aside)
		},
	}
}

func showSalvage(w io.Writer, c *config.Config, tables []store.Salvaged, aside string) error {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "TABLE\tROWS\tREAD")
	lost := false
	for _, t := range tables {
		read := "all"
		if t.Lost != nil {
			lost, read = true, "in part: "+strings.ReplaceAll(t.Lost.Error(), "\n", "; ")
		}
		fmt.Fprintf(table, "%s\t%d\t%s\n", t.Table, t.Rows, read)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nthe new file is %s, the damaged one %s\n", c.Database.Path, aside)
	if lost {
		fmt.Fprintln(w, "rows were lost; what they were about is labelled again from Orthanc's changes, and not forwarded")
	}
	return followerHint(w, c)
}

// followerHint warns where nothing would read Orthanc's changes again.
func followerHint(w io.Writer, c *config.Config) error {
	if c.Intake.Follower {
		return nil
	}
	_, err := fmt.Fprintln(w, "intake.follower is off: nothing reads Orthanc's changes again, and what was lost stays without labels until it is on")
	return err
}

func newDatabaseResetCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Begin with an empty file; the old one is kept aside",
		Long: `Moves the file aside, as database.path.damaged-<time>, and leaves an empty one in its place. The router must be stopped.

At the next start the router reads all of Orthanc's changes, classifies and labels what it finds, and forwards nothing that Orthanc has received
before that start. The switches (forwarding off, paused destinations) go over where they can be read. What is lost for good: deliveries
that were under way or waited, the stories, and which labels are the router's own: those that are there then count as a person's, and are
never taken away by the router.`,
		Example: "  imaging-router database reset --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := databaseFile(cmd)
			if err != nil {
				return err
			}
			if !yes {
				return errors.New(`nothing was done: reset forgets open deliveries, stories and which labels are the router's own ("imaging-router database reset --help"); try "imaging-router database repair" first, or say --yes`)
			}
			kept, aside, err := store.Reset(cmd.Context(), c.Database.Path)
			if err := stopFirst(err); err != nil {
				return err
			}
			if !kept {
				fmt.Fprintln(cmd.OutOrStdout(), "the switches could not be read: was forwarding off, or a destination paused? Then switch it off again before the start")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is empty, the old file is %s\nthe next start labels the archive anew and forwards nothing of it\n", c.Database.Path, aside)
			return followerHint(cmd.OutOrStdout(), c)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// stopFirst says what to do when the router works on the file.
func stopFirst(err error) error {
	if errors.Is(err, store.ErrLocked) {
		return fmt.Errorf("%w: stop it first", err)
	}
	return err
}
