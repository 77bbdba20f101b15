// Command inventory writes what a built program is made of: a CycloneDX bill of materials, and the licence texts of all modules in it. It
// reads the modules out of the program itself, so that nothing is listed that was not linked, and nothing linked is left out.
package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	program := flag.String("program", "bin/imaging-router", "the built program")
	version := flag.String("version", "development", "its version")
	bill := flag.String("sbom", "dist/imaging-router.cdx.json", "the bill of materials to write (CycloneDX 1.5, JSON)")
	texts := flag.String("licences", "dist/THIRD_PARTY_LICENCES.txt", "the licence texts to write")
	flag.Parse()
	if err := run(*program, *version, *bill, *texts); err != nil {
		fmt.Fprintln(os.Stderr, "inventory:", err)
		os.Exit(1)
	}
}

// component is one module of the program, with its licence.
type component struct {
	debug.Module
	licence string // SPDX identifier
	file    string // name of the licence's file
	text    string
}

func run(program, version, bill, texts string) error {
	build, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	var all []component
	var failures []error
	for _, m := range build.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c, err := describe(*m)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		all = append(all, c)
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("%s names no modules: was it built with -buildvcs and modules?", program)
	}
	slices.SortFunc(all, func(a, b component) int { return strings.Compare(a.Path, b.Path) })
	return errors.Join(writeBill(bill, version, build.GoVersion, all), writeTexts(texts, all))
}

var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[sc]e|copying)(\.(md|txt))?$`)

// describe finds a module's licence in the module cache.
func describe(m debug.Module) (component, error) {
	out, err := exec.Command("go", "mod", "download", "-json", m.Path+"@"+m.Version).Output() //nolint:gosec,noctx // names out of our own binary
	if err != nil {
		return component{}, fmt.Errorf("%s: %w", m.Path, err)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(out, &found); err != nil {
		return component{}, fmt.Errorf("%s: %w", m.Path, err)
	}
	entries, err := os.ReadDir(found.Dir)
	if err != nil {
		return component{}, fmt.Errorf("%s: %w", m.Path, err)
	}
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(found.Dir, e.Name()))
		if err != nil {
			return component{}, fmt.Errorf("%s: %w", m.Path, err)
		}
		id := identify(string(text))
		if id == "" {
			return component{}, fmt.Errorf("%s: the licence in %s is none that is known here: read it, and add it to identify", m.Path, e.Name())
		}
		return component{Module: m, licence: id, file: e.Name(), text: string(text)}, nil
	}
	return component{}, fmt.Errorf("%s: no licence file", m.Path)
}

var space = regexp.MustCompile(`[\s*#>"'“”]+`)

// identify tells the common licences apart by sentences that only they have.
func identify(text string) string {
	text = strings.ToLower(space.ReplaceAllString(text, " "))
	has := func(s string) bool { return strings.Contains(text, s) }
	redistribution := has("redistribution and use in source and binary forms")
	switch {
	case has("mozilla public license") && has("2.0"):
		return "MPL-2.0"
	case has("apache license") && has("version 2.0"):
		return "Apache-2.0"
	case redistribution && (has("endorse or promote") || has("neither the name")):
		return "BSD-3-Clause"
	case redistribution:
		return "BSD-2-Clause"
	case has("permission is hereby granted, free of charge, to any person obtaining a copy"):
		return "MIT"
	case has("permission to use, copy, modify, and/or distribute this software for any purpose"),
		has("permission to use, copy, modify, and distribute this software for any purpose"):
		return "ISC"
	default:
		return ""
	}
}

func writeBill(path, version, goVersion string, all []component) error {
	bom := cdx.NewBOM()
	bom.SpecVersion = cdx.SpecVersion1_5
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{
		Type: cdx.ComponentTypeApplication, Name: "imaging-router", Version: version,
		Licenses: &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
	}}
	components := []cdx.Component{{Type: cdx.ComponentTypeLibrary, Name: "std", Version: strings.TrimPrefix(goVersion, "go"),
		PackageURL: "pkg:golang/std@" + strings.TrimPrefix(goVersion, "go"), Licenses: &cdx.Licenses{{License: &cdx.License{ID: "BSD-3-Clause"}}}}}
	for _, c := range all {
		components = append(components, cdx.Component{
			Type: cdx.ComponentTypeLibrary, Name: c.Path, Version: c.Version, PackageURL: "pkg:golang/" + c.Path + "@" + c.Version,
			Licenses: &cdx.Licenses{{License: &cdx.License{ID: c.licence}}},
		})
	}
	bom.Components = &components
	return write(path, func(f *os.File) error { return cdx.NewBOMEncoder(f, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom) })
}

func writeTexts(path string, all []component) error {
	return write(path, func(f *os.File) error {
		fmt.Fprintf(f, "imaging-router holds these %d modules. ONNX Runtime, which it loads, is under the MIT licence; its own notices come with it.\n", len(all))
		for _, c := range all {
			if _, err := fmt.Fprintf(f, "\n%s\n%s %s (%s, %s)\n\n%s\n", strings.Repeat("=", 80), c.Path, c.Version, c.licence, c.file, strings.TrimSpace(c.text)); err != nil {
				return err
			}
		}
		return nil
	})
}

func write(path string, content func(*os.File) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(content(f), f.Close())
}
