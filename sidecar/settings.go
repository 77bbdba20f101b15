package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/logging"
	"imagingrouter/sidecar/internal/memory"
	"imagingrouter/sidecar/internal/picture"
)

// configPath returns the configuration file that a command uses, or "" where there is none.
func configPath(cmd *cobra.Command) string {
	if flag := cmd.Flag("config"); flag != nil && flag.Value.String() != "" {
		return flag.Value.String()
	}
	if named := os.Getenv(config.EnvFile); named != "" {
		return named
	}
	for _, path := range []string{"config.yaml", "/etc/imaging-router/config.yaml"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// loadConfig reads the configuration for a command that needs a file, secrets included.
func loadConfig(cmd *cobra.Command) (*config.Config, error) {
	path := configPath(cmd)
	if path == "" {
		return nil, errors.New("there is no configuration: name a file with --config or " + config.EnvFile +
			", or make ./config.yaml or /etc/imaging-router/config.yaml (sidecar/config.example.yaml is one to begin with)")
	}
	return config.Load(path)
}

// toolConfig reads the configuration for a command that also works without one, and leaves the secrets alone.
func toolConfig(cmd *cobra.Command) (*config.Config, error) {
	if path := configPath(cmd); path != "" {
		return config.LoadWithoutSecrets(path)
	}
	return config.FromEnvironment()
}

// newLogger returns the logger of a long-running command. It writes to standard error, as standard output is for results.
func newLogger(cmd *cobra.Command, c *config.Config) (zerolog.Logger, error) {
	log, err := logging.New(cmd.ErrOrStderr(), c.Log.Level, c.Log.Format)
	if err != nil {
		return log, fmt.Errorf("start logging: %w", err)
	}
	return log, nil
}

// newReader returns the reader of pictures with the configuration's limits. memory is what all its pictures may hold together, nil for no bound.
func newReader(c *config.Config, memory *memory.Budget) *picture.Reader {
	return picture.NewReader(picture.Options{
		Reserve:       memory.Take,
		GDCMConv:      c.Picture.GDCMConv,
		DCMDJPEG:      c.Picture.DCMDJPEG,
		DCMDJPLS:      c.Picture.DCMDJPLS,
		OPJDecompress: c.Picture.OPJDecompress,
		ChildTimeout:  c.Picture.ChildTimeout,
		ChildMemory:   int64(c.Picture.ChildMemory),
		MaxPixels:     c.Picture.MaxPixels,
	})
}
