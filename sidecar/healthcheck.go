package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newHealthcheckCommand() *cobra.Command {
	timeout := 3 * time.Second
	cmd := &cobra.Command{
		Use:   "healthcheck [URL]",
		Short: "Ask a running router whether it is alive (for containers)",
		Long: `Asks /-/healthy of the router at URL, by default the one on this machine at the configuration's server.listen (by https where it has
a certificate). Ends with status 0 when it answers 200, else with 1. A container's image needs no curl for its health check.`,
		Example: `  imaging-router healthcheck
  imaging-router healthcheck http://127.0.0.1:8081
  docker: HEALTHCHECK CMD ["imaging-router", "healthcheck"]`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return askHealth(cmd.Context(), args[0], nil, timeout)
			}
			c, err := toolConfig(cmd)
			if err != nil {
				return err
			}
			address := localAddress(c.Server.Listen)
			if c.Server.TLSCertFile == "" {
				return askHealth(cmd.Context(), address, nil, timeout)
			}
			trust, err := trustOnly(c.Server.TLSCertFile)
			if err != nil {
				return err
			}
			return askHealth(cmd.Context(), "https"+strings.TrimPrefix(address, "http"), trust, timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait for the answer")
	return cmd
}

// localAddress turns what a server listens on into an address that this machine can call.
func localAddress(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "http://" + listen
	}
	switch host {
	case "", "0.0.0.0", "::":
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// trustOnly trusts whoever has exactly the certificate in the file: its names are those that others call this machine by, not 127.0.0.1.
func trustOnly(file string) (*tls.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("read the certificate: %s does not begin with one", file)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection is stricter
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].Raw, block.Bytes) {
				return fmt.Errorf("the server has another certificate than %s", file)
			}
			return nil
		},
	}, nil
}

func askHealth(ctx context.Context, address string, trust *tls.Config, timeout time.Duration) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("%q is not an address such as http://127.0.0.1:8081", address)
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/-/healthy"
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", u.Redacted(), err)
	}
	// The router on this machine is asked directly, whatever proxy the environment names.
	transport := &http.Transport{Proxy: nil, TLSClientConfig: trust}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return fmt.Errorf("not healthy: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // nothing is left to do with it
	if response.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(response.Body, 500)) // what arrived is enough for a hint
		return fmt.Errorf("not healthy: %s answered %s: %s", u.Redacted(), response.Status, strings.TrimSpace(string(reason)))
	}
	return nil
}
