// Command imaging-router classifies the X-rays of an Orthanc by body part, labels them and forwards them where they belong.
// This package wires the rooms under internal together, one file for each sub-command; it holds no logic of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit statuses of every command.
const (
	exitOK    = 0
	exitError = 1 // it did not work, or not for everything
	exitUsage = 2 // the command line was wrong
)

// commands makes the sub-commands; each stands in a file of its own.
var commands = []func() *cobra.Command{
	newServeCommand,
	newCheckCommand,
	newClassifyCommand,
	newDatabaseCommand,
	newDeliveriesCommand,
	newForwardingCommand,
	newHealthcheckCommand,
	newInitCommand,
	newJobsCommand,
	newPhantomCommand,
	newSimulateCommand,
	newUninstallCommand,
	newVersionCommand,
}

// errSilent ends a command with status 1 after it has said itself what was wrong.
var errSilent = errors.New("already reported")

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main without the exit, so that what was deferred runs.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// The first signal asks for an orderly end. After it signals have their own effect again, so the second ends us at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRootCommand()
	// Whatever goes wrong before a command runs is a mistake in the command line.
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return exitOK
	case !started:
		fmt.Fprintf(stderr, "imaging-router: %v\nRun '%s --help' for usage.\n", err, command.CommandPath())
		return exitUsage
	case !errors.Is(err, errSilent):
		fmt.Fprintf(stderr, "imaging-router: %v\n", err)
	}
	return exitError
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "imaging-router",
		Short: "Classifies the X-rays of an Orthanc by body part, labels them and forwards them",
		Long: `imaging-router stands beside an Orthanc. It looks at every X-ray that the archive receives, writes down what it shows
(abdominal, adult chest, pediatric chest, spine, others), labels the study, and forwards it where such pictures belong.`,
		Example: `  imaging-router classify chest.dcm
  imaging-router --config /etc/imaging-router/config.yaml check
  imaging-router --config /etc/imaging-router/config.yaml serve`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringP("config", "c", "", "configuration file (default: $IMAGING_ROUTER_CONFIG, else ./config.yaml, else /etc/imaging-router/config.yaml)")
	root.CompletionOptions.HiddenDefaultCmd = true
	for _, newCommand := range commands {
		root.AddCommand(newCommand())
	}
	return root
}
