package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/classifier"
)

// version is set by the build: -ldflags "-X main.version=1.0.0".
var version = ""

// versionText names this build: the version, and the commit where the build knows it.
func versionText() string {
	text := version
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return orDefault(text, "development")
	}
	if text == "" && build.Main.Version != "(devel)" {
		text = build.Main.Version
	}
	settings := map[string]string{}
	for _, s := range build.Settings {
		settings[s.Key] = s.Value
	}
	text = orDefault(text, "development")
	if commit := settings["vcs.revision"]; commit != "" {
		text += " (commit " + commit[:min(12, len(commit))]
		if settings["vcs.modified"] == "true" {
			text += ", changed"
		}
		text += ")"
	}
	return text
}

func orDefault(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of the router, ONNX Runtime and the model",
		Example: "  imaging-router version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := toolConfig(cmd)
			if err != nil {
				return err
			}
			// What is absent is said and is no failure: people ask for versions when something is wrong.
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "imaging-router  %s, %s, %s/%s\n", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			if number, path, err := classifier.Runtime(c.Model.ONNXRuntime); err != nil {
				fmt.Fprintf(out, "ONNX Runtime    none: %v\n", err)
			} else {
				fmt.Fprintf(out, "ONNX Runtime    %s (%s)\n", number, path)
			}
			dir := classifier.FindDir(c.Model.Dir)
			if model, err := classifier.ReadModel(dir); err != nil {
				fmt.Fprintf(out, "model           none: %v\n", err)
			} else {
				fmt.Fprintf(out, "model           %s (%s)\n", model.ID(), dir)
			}
			return nil
		},
	}
}
