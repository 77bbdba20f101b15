package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/setup"
)

// initFlags are what init is told.
type initFlags struct {
	url, username, passwordFile, caFile string
	out, router, hookPath, tokenPath    string
	askLua, force                       bool
}

func newInitCommand() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init --orthanc URL",
		Short: "Look at a running Orthanc and write what the router and it need",
		Long: `Looks at a running Orthanc (version, labels, plugins, UserMetadata, peers, modalities, jobs) and writes into a folder:

  config.yaml               the router's configuration: this Orthanc, its peers as destinations, forwarding off
  hook_token                the secret that Orthanc's hook and the router share (mode 0600; one that is there stays)
  on-stored-instance.lua    the hook, with the router's address and the token's file in it
  orthanc-additions.json    what to add to Orthanc's configuration, together with what is there already
  orthanc-compose.yml       the same for the image orthancteam/orthanc

Nothing is changed in Orthanc: the last lines printed say what to do, and "imaging-router check" proves it afterwards.

Which Lua scripts an Orthanc has loaded cannot be known over REST. Where its ExecuteLuaEnabled is on, --ask-lua runs a script of two
lines inside Orthanc that reads four values of its configuration, and the printed lines then hold your scripts as well.`,
		Example: `  imaging-router init --orthanc http://localhost:8042 --username imaging-router --password-file /etc/imaging-router/orthanc_password
  imaging-router init --orthanc http://localhost:8042 --hook-path /etc/orthanc/on-stored-instance.lua --token-path /etc/orthanc/imaging-router-token
  imaging-router init --orthanc http://orthanc:8042 --router http://imaging-router:8081 --out setup`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runInit(cmd.Context(), cmd.OutOrStdout(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.url, "orthanc", "", "address of Orthanc's REST API, as the router will reach it (required)")
	flags.StringVar(&f.username, "username", "", "account in Orthanc's RegisteredUsers; empty = none")
	flags.StringVar(&f.passwordFile, "password-file", "", "file with its password, one line; the configuration will name it")
	flags.StringVar(&f.caFile, "ca-file", "", "PEM file with the authority of Orthanc's certificate")
	flags.StringVar(&f.router, "router", "", "address by which Orthanc reaches the router (default: guessed, port 8081)")
	flags.StringVar(&f.hookPath, "hook-path", "", "where Orthanc will find the hook (default: where it is written)")
	flags.StringVar(&f.tokenPath, "token-path", "", "where the hook will find its token, readable by Orthanc's user alone (default: where it is written)")
	flags.StringVar(&f.out, "out", ".", "folder to write into")
	flags.BoolVar(&f.askLua, "ask-lua", false, "run a read-only script in Orthanc to learn its LuaScripts (needs ExecuteLuaEnabled)")
	flags.BoolVar(&f.force, "force", false, "replace files that are there, keeping the old ones as .old (never the token)")
	if err := cmd.MarkFlagRequired("orthanc"); err != nil {
		panic(err) // the flag's name above
	}
	return cmd
}

func runInit(ctx context.Context, w io.Writer, f initFlags) error {
	o := setup.Options{RouterURL: f.router, HookPath: f.hookPath, TokenPath: f.tokenPath}
	for _, p := range []struct {
		from string
		into *string
	}{{f.out, &o.Dir}, {f.passwordFile, &o.PasswordFile}, {f.caFile, &o.CAFile}} {
		if p.from == "" {
			continue
		}
		path, err := filepath.Abs(p.from)
		if err != nil {
			return err
		}
		*p.into = path
	}
	password, err := readPassword(f.username, o.PasswordFile)
	if err != nil {
		return err
	}
	client, err := orthanc.New(orthanc.Options{
		URL: f.url, Username: f.username, Password: password, CAFile: o.CAFile, Timeout: 10 * time.Second, UserAgent: "imaging-router/" + versionText(),
	})
	if err != nil {
		return fmt.Errorf("--orthanc: %w", err)
	}
	archive, err := setup.Look(ctx, client, f.askLua)
	if err != nil {
		return fmt.Errorf("look at %s: %w", f.url, err)
	}
	archive.URL, archive.Username = strings.TrimRight(f.url, "/"), f.username
	plan, err := setup.NewPlan(archive, o)
	if err != nil {
		return err
	}
	for _, finding := range plan.Findings {
		fmt.Fprintf(w, "%-5s  %-14s  %s\n", finding.Word, finding.Subject, finding.Text)
	}
	written, err := plan.Write(f.force)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "\nWritten:")
	for _, path := range written {
		fmt.Fprintln(w, "  "+path)
	}
	return nextSteps(w, plan)
}

func readPassword(username, path string) (string, error) {
	if path == "" {
		if username != "" {
			return "", errors.New("--username needs --password-file: passwords on a command line are seen by everybody on the machine")
		}
		return "", nil
	}
	if username == "" {
		return "", errors.New("--password-file needs --username")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("--password-file: %w", err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" || strings.ContainsAny(password, "\r\n") {
		return "", fmt.Errorf("--password-file: %s must hold one line", path)
	}
	return password, nil
}

func nextSteps(w io.Writer, p *setup.Plan) error {
	additions, err := p.JSON()
	if err != nil {
		return err
	}
	compose, err := p.Compose()
	if err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(p.Options.Dir, name) }
	fmt.Fprint(w, "\nWhat to do now:\n\n1. The user that Orthanc runs as must read hook and token, and nobody else the token.")
	if copies := p.Copies(); len(copies) > 0 {
		fmt.Fprint(w, "\n     "+strings.Join(copies, "\n     ")+"\n")
	} else {
		fmt.Fprintln(w, " Where Orthanc is another user than the\n   router, say with --hook-path and --token-path where copies for it will lie.")
	}
	fmt.Fprintf(w, `
2. Add to Orthanc's configuration. Each key replaces what stands there under the same name; LuaScripts of your own that are
   not named here go before the hook.

   a) orthanc.json (%s):

%s
   b) or, for the image orthancteam/orthanc (%s):

%s
3. Restart Orthanc, start the router, and prove it:
     imaging-router --config %s serve
     imaging-router --config %s check
`, at(setup.JSONFile), indent(additions), at(setup.ComposeFile), indent(compose), at(setup.ConfigFile), at(setup.ConfigFile))
	return nil
}

func indent(text string) string {
	return "     " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n     ") + "\n"
}
