package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/rules"
)

// TestInvalid holds each testdata/invalid-*.yaml against the exact text of its error, in the .txt beside it.
func TestInvalid(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid-*.yaml")
	if err != nil || len(files) < 13 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			want, err := os.ReadFile(strings.TrimSuffix(path, ".yaml") + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			c, err := Load(path)
			if err == nil {
				t.Fatalf("was accepted:\n%s", c)
			}
			got := strings.ReplaceAll(err.Error(), "testdata/invalid", "invalid") + "\n"
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load("testdata/absent.yaml")
	if err == nil || err.Error() != "read configuration: open testdata/absent.yaml: no such file or directory" {
		t.Errorf("got %v", err)
	}
}

func TestEmptyFilesAreTheDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "orthanc:\n", "rules:\ndestinations:\nmodel:\n  # dir: x\n"} {
		c, err := parse("c.yaml", []byte(text), nil, true)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		want := Default()
		want.Path, want.Rules = "c.yaml", c.Rules
		if !reflect.DeepEqual(c, want) {
			t.Errorf("%q: got\n%s", text, c)
		}
		if c.Rules.Len() != 0 || c.Forwarding.Enabled {
			t.Errorf("%q forwards something", text)
		}
	}
}

const everything = `
orthanc:
  url: https://orthanc:8042
  username: router
  password_file: PASSWORD
  timeout: 5s
  headers: {X-Api-Key: letmein}
server: {listen: "127.0.0.1:9000", hook_token_file: TOKEN, metrics_open: true, max_body: 64KiB}
database: {path: /data/router.db, keep: 0s}
intake: {follower: false, from: beginning, batch: 1_000, sop_classes: [], secondary_capture: true, modalities: [DX], copies: inherit}
picture: {child_memory: 1GiB, max_file: 100000000}
model: {dir: models/x, provider: cuda, thresholds: {spine: 0.75, others: 1}}
review: {child_up_to_years: 15, ambiguous_years: []}
forwarding: {enabled: true, quiet: 0s, volume_limit: 2000}
destinations:
  - &first {name: chest-ai, peer: chest, from_usernames: [chest-user], from_aets: [CHEST]}
  - name: spine-ai
    timeout: 1h30m
    resend: never
    alternate: chest-ai
    alternate_after: 5m
    max_in_flight: 3
    most_per_minute: 30
    transfer_syntax: 1.2.840.10008.1.2.4.50
    from_origins: [Plugins]
    circuit_breaker: {failures: 0}
rules:
  - name: chest
    when: >-
      class == "adult_chest" &&
      confidence >= 0.9
    to: [chest-ai]
  - {name: everything, when: true, to: [spine-ai], copies: true}
  - {name: whole, when: true, to: [spine-ai], level: study, wait_at_most: 90s, on_timeout: hold, on_review: skip}
log: {level: debug, format: json}
`

// write puts a file into a new folder and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func loadEverything(t *testing.T) *Config {
	t.Helper()
	password, token := write(t, "password", "hunter2 hunter2\n"), write(t, "token", "0123456789abcdef\r\n")
	c, err := Load(write(t, "config.yaml", strings.NewReplacer("PASSWORD", password, "TOKEN", token).Replace(everything)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoad(t *testing.T) {
	c := loadEverything(t)
	for name, check := range map[string]bool{
		"password":       c.Orthanc.Password.Reveal() == "hunter2 hunter2",
		"token":          c.Server.HookToken.Reveal() == "0123456789abcdef",
		"header":         c.Orthanc.Headers["X-Api-Key"] == "letmein",
		"size":           c.Server.MaxBody == 64<<10 && c.Picture.ChildMemory == 1<<30 && c.Picture.MaxFile == 100_000_000,
		"duration":       c.Orthanc.Timeout == 5*time.Second && c.Database.Keep == 0,
		"number":         c.Intake.Batch == 1000,
		"untouched":      c.Intake.Overlap == 200 && c.Picture.ChildTimeout == 20*time.Second,
		"classes":        slices.Equal(c.Intake.AcceptedSOPClasses(), []string{SecondaryCaptureSOPClass}),
		"peer":           c.Destinations[0].Peer == "chest" && c.Destinations[1].Peer == "spine-ai",
		"timeouts":       c.Destinations[0].Timeout == 10*time.Minute && c.Destinations[1].Timeout == 90*time.Minute,
		"origins":        slices.Equal(c.Destinations[0].FromAETs, []string{"CHEST"}) && slices.Equal(c.Destinations[0].FromUsernames, []string{"chest-user"}),
		"copies":         c.Intake.Copies == CopiesInherit && c.RuleList[1].Copies && !c.RuleList[0].Copies,
		"whole":          c.RuleList[2].Level == rules.LevelStudy && c.Rules.Wholes()[0].WaitAtMost == 90*time.Second && c.RuleList[2].OnTimeout == rules.TimeoutHold,
		"traffic":        c.Destinations[1].MaxInFlight == 3 && c.Destinations[1].MostPerMinute == 30 && c.Destinations[1].TransferSyntax == "1.2.840.10008.1.2.4.50",
		"resend":         c.Destinations[0].Resend == ResendChanged && c.Destinations[1].Resend == ResendNever,
		"alternate":      c.Destinations[1].Alternate == "chest-ai" && c.Destinations[1].AlternateAfter == 5*time.Minute && c.Destinations[0].AlternateAfter == 15*time.Minute,
		"breaker":        c.Destinations[0].CircuitBreaker == Breaker{3, 30 * time.Second} && c.Destinations[1].CircuitBreaker == Breaker{0, 30 * time.Second},
		"thresholds":     c.Model.Thresholds[bodypart.Spine] == 0.75 && c.Model.Thresholds[bodypart.Others] == 1,
		"no warnings":    len(c.Warnings) == 0,
		"forwarding":     c.Forwarding.Enabled && c.Forwarding.Quiet == 0 && c.Forwarding.VolumeLimit == "2000" && c.Forwarding.RouteMaxAge == 24*time.Hour,
		"log":            c.Log == Log{Level: "debug", Format: "json"},
		"names in order": slices.Equal(c.DestinationNames(), []string{"chest-ai", "spine-ai"}),
	} {
		if !check {
			t.Errorf("%s is wrong:\n%s", name, c)
		}
	}
	got, err := c.Rules.Evaluate(t.Context(), rules.Context{Class: bodypart.AdultChest, Confidence: 0.95})
	want := []rules.Match{{Rule: "chest", Destinations: []string{"chest-ai"}}, {Rule: "everything", Destinations: []string{"spine-ai"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("rules: %v", got)
	}
}

func TestPolicy(t *testing.T) {
	c := loadEverything(t)
	p := c.Policy(map[bodypart.Class]float64{bodypart.Spine: 0.5, bodypart.Abdominal: 0.6})
	want := map[bodypart.Class]float64{bodypart.Spine: 0.75, bodypart.Others: 1, bodypart.Abdominal: 0.6}
	if !reflect.DeepEqual(p.Thresholds, want) || p.ChildUpTo != 15 {
		t.Errorf("%+v", p)
	}
	for age := range 100 {
		_, reasons := p.Decide(bodypart.Prediction{Class: bodypart.AdultChest, Confidence: 1}, bodypart.Evidence{AgeYears: float64(age), AgeKnown: true})
		if slices.Contains(reasons, bodypart.ReasonAgeAmbiguous) {
			t.Errorf("age %d is ambiguous, although ambiguous_years is []", age)
		}
	}
	if d := Default().Policy(nil); d.AmbiguousMin != 13 || d.AmbiguousMax != 17 || d.ChildUpTo != 12 {
		t.Errorf("default: %+v", d)
	}
}

func TestSecretsStayHidden(t *testing.T) {
	c := loadEverything(t)
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"YAML": c.String(), "%v": fmt.Sprintf("%v", *c), "%+v": fmt.Sprintf("%+v", *c), "%#v": fmt.Sprintf("%#v", *c), "JSON": string(encoded),
		"section": fmt.Sprintf("%+v %#v", c.Orthanc, c.Server), "%q": fmt.Sprintf("%q %s %x", c.Orthanc.Password, c.Server.HookToken, c.Server.HookToken),
	} {
		for _, secret := range []string{"hunter2", "0123456789abcdef", "letmein", "30313233"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows a secret: %s", name, text)
			}
		}
	}
	if got := fmt.Sprintf("%v,%v", c.Orthanc.Password, Secret("")); got != "<secret>," {
		t.Errorf("got %q", got)
	}
}

// TestDumpIsAConfiguration: what the program prints as its configuration must be one, and the same.
func TestDumpIsAConfiguration(t *testing.T) {
	c := loadEverything(t)
	dump, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := parse(c.Path, []byte(strings.Replace(string(dump), hidden, "letmein", 1)), nil, true)
	if err != nil {
		t.Fatalf("%v\n%s", err, dump)
	}
	again.Rules = c.Rules
	if again.Intake.Modalities == nil || !reflect.DeepEqual(again.String(), c.String()) {
		t.Errorf("got\n%s\nwant\n%s", again, c)
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]ByteSize{
		"512MiB": 512 << 20, "2GiB": 2 << 30, "1.5 KiB": 1536, "64KiB": 64 << 10, "100kB": 100_000, "3MB": 3_000_000, "1GB": 1e9, "7": 7, "7B": 7, "0": 0,
	} {
		got, err := ParseByteSize(text)
		if err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
		again, err := ParseByteSize(got.String())
		if err != nil || again != got {
			t.Errorf("%q prints as %q", text, got)
		}
	}
	for _, text := range []string{"", "MiB", "1TiB", "0.3B", "NaN", "1e30GiB", "5 apples"} {
		if got, err := ParseByteSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

func TestVolume(t *testing.T) {
	for text, want := range map[string]struct {
		limit int
		auto  bool
	}{VolumeAuto: {0, true}, VolumeOff: {0, false}, "250": {250, false}} {
		if limit, auto := (Forwarding{VolumeLimit: text}).Volume(); limit != want.limit || auto != want.auto {
			t.Errorf("%q: %d, %t; want %+v", text, limit, auto, want)
		}
	}
	if _, auto := Default().Forwarding.Volume(); !auto {
		t.Error("without a word the limit is not worked out")
	}
}
