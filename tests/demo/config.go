package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"imagingrouter/tests/orthanctest"
)

// The destinations.
const (
	chestAI = "chest-ai"
	spineAI = "spine-ai"
)

// rule is one rule of the demo, twice: as the router reads it, and as the demo checks it.
type rule struct {
	name, when, to string
	matches        func(result) bool
}

const (
	sure           = 0.5
	drawnThreshold = 0.5 // for drawings, see raise
)

var rules = []rule{
	{"chests", fmt.Sprintf(`(class == "adult_chest" || class == "pediatric_chest") && confidence >= %g`, sure), chestAI, func(r result) bool {
		return (r.Class == "adult_chest" || r.Class == "pediatric_chest") && r.Confidence >= sure
	}},
	{"spines", fmt.Sprintf(`class == "spine" && confidence >= %g`, sure), spineAI, func(r result) bool {
		return r.Class == "spine" && r.Confidence >= sure
	}},
}

// wanted returns where the rules send a result. What is under review goes nowhere.
func wanted(r result) []string {
	var to []string
	for _, rule := range rules {
		if !r.Review && rule.matches(r) {
			to = append(to, rule.to)
		}
	}
	return to
}

// xrays are the SOP classes that the demo's router looks at (the defaults, named so that the demo knows what to wait for).
var xrays = map[string]bool{
	"1.2.840.10008.5.1.4.1.1.1":     true, // Computed Radiography
	"1.2.840.10008.5.1.4.1.1.1.1":   true, // Digital X-Ray, for presentation
	"1.2.840.10008.5.1.4.1.1.1.1.1": true, // Digital X-Ray, for processing
	"1.2.840.10008.5.1.4.1.1.12.1":  true, // X-Ray Angiographic
	"1.2.840.10008.5.1.4.1.1.12.2":  true, // X-Ray Radiofluoroscopic
}

// writeConfig writes the router's configuration.
func (c *scene) writeConfig(port int, model string, drawn bool) error {
	model, err := filepath.Abs(model)
	if err != nil {
		return err
	}
	decoder := "" // the system's
	if _, err := exec.LookPath("gdcmconv"); err != nil {
		if decoder, err = orthanctest.Tool(c.archive.Version, "gdcmconv"); err != nil {
			return err
		}
	}
	sop := make([]string, 0, len(xrays))
	for uid := range xrays {
		sop = append(sop, uid)
	}
	slices.Sort(sop)
	q := strconv.Quote
	var b strings.Builder
	fmt.Fprintf(&b, "orthanc:\n  url: %s\n  username: %s\n  password_file: %s\n  concurrent_jobs: 8\n", c.archive.URL, routerUser, q(c.secretFile("orthanc_password")))
	fmt.Fprintf(&b, "server:\n  listen: 127.0.0.1:%d\n  hook_token_file: %s\n  metrics_open: true\n", port, q(c.secretFile("hook_token")))
	fmt.Fprintf(&b, "database:\n  path: %s\n", q(filepath.Join(c.dir, "router.db")))
	fmt.Fprintf(&b, "intake:\n  sop_classes: [%s]\n", strings.Join(sop, ", "))
	fmt.Fprintf(&b, "picture:\n  gdcmconv: %s\nmodel:\n  dir: %s\n", q(decoder), q(model))
	if drawn {
		b.WriteString("  thresholds:\n")
		for _, class := range classes {
			fmt.Fprintf(&b, "    %s: %g\n", class.name, drawnThreshold)
		}
	}
	fmt.Fprintf(&b, "publish:\n  metadata: {body_part: %d, result: %d}\n", metadataPart, metadataJSON)
	b.WriteString("forwarding:\n  enabled: true\ndestinations:\n")
	for _, name := range []string{chestAI, spineAI} {
		fmt.Fprintf(&b, "  - {name: %s, peer: %s}\n", name, name)
	}
	b.WriteString("rules:\n")
	for _, r := range rules {
		fmt.Fprintf(&b, "  - name: %s\n    when: %s\n    to: [%s]\n", r.name, r.when, r.to)
	}
	b.WriteString("log:\n  format: json\n")
	c.config = filepath.Join(c.dir, "config.yaml")
	return os.WriteFile(c.config, []byte(b.String()), 0o600)
}
