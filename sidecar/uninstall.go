package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/setup"
	"imagingrouter/sidecar/internal/store"
)

func newUninstallCommand() *cobra.Command {
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take the router's labels and metadata out of Orthanc again, and nobody else's",
		Long: `Removes from Orthanc what this router has written there:

  labels     those that its own ledger says it wrote. The same word set by a person, on this study or another, stays.
  metadata   BodyPart and BodyPartResult of the instances that it classified, and its markers on studies and series. A value that
             somebody has changed since stays.

It counts first, and asks before it removes. It needs the router's database and configuration, and a router that is stopped; an
interrupted run is finished by running it again. Pictures, studies and everything else in Orthanc are not touched.`,
		Example: `  imaging-router --config /etc/imaging-router/config.yaml uninstall --dry-run
  docker compose run --rm imaging-router uninstall --yes --config /etc/imaging-router/config.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			_, s, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			if err := s.Lock(); errors.Is(err, store.ErrLocked) {
				return errors.New("the router is running and would write again what is removed: stop it first (systemctl stop imaging-router, or docker compose stop imaging-router)")
			} else if err != nil {
				return err
			}
			return uninstall(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), c, s, dryRun, yes)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only count")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func uninstall(ctx context.Context, stdin io.Reader, w io.Writer, c *config.Config, s *store.Store, dryRun, yes bool) error {
	client, err := newOrthanc(c)
	if err != nil {
		return err
	}
	r := &setup.Remover{Orthanc: client, Store: s, Numbers: c.Publish.Metadata, DryRun: true}
	found, err := r.Run(ctx)
	if err != nil {
		return fmt.Errorf("count: %w", err)
	}
	fmt.Fprintf(w, "In Orthanc at %s, this router wrote:\n%s", c.Orthanc.URL, describe(found))
	switch {
	case dryRun:
		return nil
	case !found.Nothing() && !yes:
		fmt.Fprint(w, "Remove it? Type yes: ")
		answer, err := bufio.NewReader(stdin).ReadString('\n')
		if strings.TrimSpace(answer) != "yes" {
			return errors.Join(errors.New("nothing was removed"), notEOF(err))
		}
	}
	last := time.Now()
	r.DryRun, r.Progress = false, func(done, total int) {
		if time.Since(last) > time.Second || done == total {
			last = time.Now()
			fmt.Fprintf(w, "%d of %d\n", done, total)
		}
	}
	removed, err := r.Run(ctx)
	if err != nil {
		return fmt.Errorf("interrupted after %d labels and %d metadata; run it again to finish: %w",
			removed.Labels, removed.BodyParts+removed.Results+removed.Markers, err)
	}
	fmt.Fprintf(w, "Removed:\n%s\n%s", describe(removed), whatStays(c))
	return nil
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func describe(r setup.Removed) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %6d labels, on %d studies, series and instances\n", r.Labels, r.Labelled)
	fmt.Fprintf(&b, "  %6d metadata BodyPart and %d BodyPartResult, on instances\n", r.BodyParts, r.Results)
	fmt.Fprintf(&b, "  %6d markers, on studies, series and instances\n", r.Markers)
	if r.Theirs > 0 {
		fmt.Fprintf(&b, "  %6d labels or values there were set or changed by somebody else since: they stay\n", r.Theirs)
	}
	if r.Gone > 0 {
		fmt.Fprintf(&b, "  %6d studies, series and instances are no longer in Orthanc\n", r.Gone)
	}
	return b.String()
}

func whatStays(c *config.Config) string {
	return fmt.Sprintf(`What stays, for you to remove:
  Orthanc's configuration   the hook in LuaScripts, IMAGING_ROUTER_… in its environment, BodyPart, BodyPartResult and BodyPartMarker
                            (%d, %d, %d) in UserMetadata, the router's account in RegisteredUsers
  what was forwarded        is at its destinations
  the router's database     %s, with -wal, -shm and .lock beside it
  the router's files        %s, and the secrets that it names
`, c.Publish.Metadata.BodyPart, c.Publish.Metadata.Result, c.Publish.Metadata.Marker, c.Database.Path, c.Path)
}
