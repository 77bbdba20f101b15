// Package config reads the router's one YAML file, the environment and the secret files, and refuses what is wrong with file,
// line and a suggestion. It compiles the rules, and it knows neither Orthanc's API nor the model's files.
package config

import (
	"strconv"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/rules"
)

// Config is the whole configuration. docs/configuration.md says what each key means.
type Config struct {
	Orthanc      Orthanc       `yaml:"orthanc"`
	Server       Server        `yaml:"server"`
	Database     Database      `yaml:"database"`
	Intake       Intake        `yaml:"intake"`
	Picture      Picture       `yaml:"picture"`
	Memory       Memory        `yaml:"memory"`
	Model        Model         `yaml:"model"`
	Jobs         Jobs          `yaml:"jobs"`
	Review       Review        `yaml:"review"`
	Publish      Publish       `yaml:"publish"`
	Forwarding   Forwarding    `yaml:"forwarding"`
	Destinations []Destination `yaml:"destinations"`
	RuleList     []rules.Rule  `yaml:"rules"`
	Log          Log           `yaml:"log"`

	Path     string     `yaml:"-"` // the file that was read, "" for the defaults
	Rules    *rules.Set `yaml:"-"` // RuleList, compiled
	Warnings []string   `yaml:"-"` // what works and is probably not meant, for the log
}

// Orthanc says how the archive is reached.
type Orthanc struct {
	URL          string        `yaml:"url"`
	Username     string        `yaml:"username"`
	PasswordFile string        `yaml:"password_file"`
	CAFile       string        `yaml:"ca_file"`
	Timeout      time.Duration `yaml:"timeout"`
	Headers      Headers       `yaml:"headers"`
	// ConcurrentJobs is how many jobs Orthanc works on at a time, 0 = what Orthanc says (1.13 and newer), else its default of 2.
	ConcurrentJobs int `yaml:"concurrent_jobs"`

	Password Secret `yaml:"-"` // the content of PasswordFile
}

// Server is the router's own HTTP server: the hook, health and metrics.
type Server struct {
	Listen        string   `yaml:"listen"`
	HookTokenFile string   `yaml:"hook_token_file"`
	TLSCertFile   string   `yaml:"tls_cert_file"` // with TLSKeyFile: https
	TLSKeyFile    string   `yaml:"tls_key_file"`
	MetricsOpen   bool     `yaml:"metrics_open"`
	MaxBody       ByteSize `yaml:"max_body"`

	HookToken Secret `yaml:"-"` // the content of HookTokenFile
}

// Database is the one SQLite file that holds the queue and the story of each instance.
type Database struct {
	Path string        `yaml:"path"`
	Keep time.Duration `yaml:"keep"` // 0 = for ever
}

// Intake says how the router learns of new instances and which of them it looks at.
type Intake struct {
	Follower         bool          `yaml:"follower"`
	From             string        `yaml:"from"` // FromNow or FromBeginning
	PollInterval     time.Duration `yaml:"poll_interval"`
	Batch            int           `yaml:"batch"`
	Overlap          int           `yaml:"overlap"` // changes that are read again before the cursor
	SOPClasses       []string      `yaml:"sop_classes"`
	SecondaryCapture bool          `yaml:"secondary_capture"`
	Modalities       []string      `yaml:"modalities"` // empty = any
	Copies           string        `yaml:"copies"`     // CopiesClassify, CopiesInherit or CopiesSkip
}

// The values of Intake.Copies: what becomes of an instance that Orthanc's modify or anonymise made.
const (
	CopiesClassify = "classify" // it is looked at like any other
	CopiesInherit  = "inherit"  // it has the result of the instance that it was made from, where the router knows it
	CopiesSkip     = "skip"     // it is left alone: no result, no label
)

// The values of Intake.From.
const (
	FromNow       = "now"
	FromBeginning = "beginning"
)

// SecondaryCaptureSOPClass is the SOP class that intake.secondary_capture adds (Secondary Capture Image Storage).
const SecondaryCaptureSOPClass = "1.2.840.10008.5.1.4.1.1.7"

// AcceptedSOPClasses returns SOPClasses, and Secondary Capture where the site switched it on.
func (i Intake) AcceptedSOPClasses() []string {
	classes := append([]string(nil), i.SOPClasses...)
	if i.SecondaryCapture {
		classes = append(classes, SecondaryCaptureSOPClass)
	}
	return classes
}

// Picture bounds what the decoding of one instance may take.
type Picture struct {
	// Programs: "" = look in PATH, "-" = off.
	GDCMConv          string        `yaml:"gdcmconv"`
	DCMDJPEG          string        `yaml:"dcmdjpeg"`
	DCMDJPLS          string        `yaml:"dcmdjpls"`
	OPJDecompress     string        `yaml:"opj_decompress"`
	ChildTimeout      time.Duration `yaml:"child_timeout"`
	ChildMemory       ByteSize      `yaml:"child_memory"`
	MaxFile           ByteSize      `yaml:"max_file"`
	MaxPixels         int64         `yaml:"max_pixels"`
	OrthancTranscoder bool          `yaml:"orthanc_transcoder"`
}

// Memory bounds the process.
type Memory struct {
	Limit ByteSize `yaml:"limit"` // of the whole process without its decoders; 0 = none
}

// Model names the network and what runs it.
type Model struct {
	Dir         string                     `yaml:"dir"`
	ONNXRuntime string                     `yaml:"onnxruntime"` // "" = search
	Provider    string                     `yaml:"provider"`
	Threads     int                        `yaml:"threads"` // 0 = all cores
	Thresholds  map[bodypart.Class]float64 `yaml:"thresholds"`
}

// Jobs holds the workers of the queue and how often they try.
type Jobs struct {
	ClassifyWorkers int           `yaml:"classify_workers"` // 0 = one for each core
	PublishWorkers  int           `yaml:"publish_workers"`
	DeliverWorkers  int           `yaml:"deliver_workers"` // for each destination
	MaxAttempts     int           `yaml:"max_attempts"`
	BackoffMax      time.Duration `yaml:"backoff_max"`
}

// Review holds the limits of age.
type Review struct {
	ChildUpToYears float64   `yaml:"child_up_to_years"`
	AmbiguousYears []float64 `yaml:"ambiguous_years"` // [from, to], empty = off
}

// Publish says what is written to Orthanc.
type Publish struct {
	LabelPrefix   string        `yaml:"label_prefix"`
	LabelLevels   []string      `yaml:"label_levels"` // LevelStudy, LevelSeries, LevelInstance
	Metadata      Metadata      `yaml:"metadata"`
	SweepInterval time.Duration `yaml:"sweep_interval"`
	SweepAge      time.Duration `yaml:"sweep_age"`
}

// The values of Publish.LabelLevels.
const (
	LevelStudy    = "study"
	LevelSeries   = "series"
	LevelInstance = "instance"
)

// Metadata holds the numbers of our metadata in Orthanc.
type Metadata struct {
	BodyPart int `yaml:"body_part"`
	Result   int `yaml:"result"`
	Marker   int `yaml:"marker"`
}

// Forwarding is the main switch; off means labels only.
type Forwarding struct {
	Enabled     bool          `yaml:"enabled"`
	RouteMaxAge time.Duration `yaml:"route_max_age"`
	GiveUpAfter time.Duration `yaml:"give_up_after"`
	Quiet       time.Duration `yaml:"quiet"`        // a series or study is not complete while something came within it
	VolumeLimit string        `yaml:"volume_limit"` // deliveries in an hour: VolumeAuto, VolumeOff or a number
}

// The words of Forwarding.VolumeLimit.
const (
	VolumeAuto = "auto" // ten times the median hour
	VolumeOff  = "off"
)

// Volume returns the volume limit: how many deliveries may come into being within an hour, 0 = no limit; auto says that it is to be
// worked out from the past.
func (f Forwarding) Volume() (limit int, auto bool) {
	n, err := strconv.Atoi(f.VolumeLimit)
	if err != nil {
		n = 0
	}
	return n, f.VolumeLimit == VolumeAuto
}

// Destination is a place that rules can name. It has exactly one of Peer, Transfers, Modality, DICOMweb, Webhook and Folder.
type Destination struct {
	Name              string        `yaml:"name"`
	Peer              string        `yaml:"peer"`
	Transfers         string        `yaml:"transfers"` // a peer, by the transfers accelerator
	Modality          string        `yaml:"modality"`
	StorageCommitment bool          `yaml:"storage_commitment"`
	DICOMweb          string        `yaml:"dicomweb"`
	Webhook           Webhook       `yaml:"webhook"`
	Folder            Folder        `yaml:"folder"`
	FromUsernames     []string      `yaml:"from_usernames"`
	FromAETs          []string      `yaml:"from_aets"`
	FromOrigins       []string      `yaml:"from_origins"`
	Timeout           time.Duration `yaml:"timeout"`

	TransferSyntax string        `yaml:"transfer_syntax"` // "" = as stored
	MaxInFlight    int           `yaml:"max_in_flight"`   // 0 = jobs.deliver_workers
	MostPerMinute  int           `yaml:"most_per_minute"` // attempts; 0 = no limit
	Resend         string        `yaml:"resend"`          // ResendNever, ResendChanged or ResendAlways
	Alternate      string        `yaml:"alternate"`       // the destination that takes over
	AlternateAfter time.Duration `yaml:"alternate_after"`
	CircuitBreaker Breaker       `yaml:"circuit_breaker"`
}

// The values of Destination.Resend: what becomes of an instance that the destination had before.
const (
	ResendNever   = "never"
	ResendChanged = "changed"
	ResendAlways  = "always"
)

// Breaker says when a destination is left alone, and for how long.
type Breaker struct {
	Failures int           `yaml:"failures"` // different deliveries that failed with no success between them; 0 = never
	Pause    time.Duration `yaml:"pause"`    // until one delivery tries it again
}

// Webhook is an HTTP address that takes results as JSON.
type Webhook struct {
	URL        string `yaml:"url"`
	SecretFile string `yaml:"secret_file"`
	CAFile     string `yaml:"ca_file"`

	Secret Secret `yaml:"-"` // the content of SecretFile
}

// Folder is a folder that takes DICOM files.
type Folder struct {
	Path     string `yaml:"path"`
	Template string `yaml:"template"`
}

// Log says how much is written and how.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Default returns the configuration of an empty file. It has no destination and no rule, and forwards nothing.
func Default() *Config {
	return &Config{
		Orthanc:  Orthanc{URL: "http://localhost:8042", Timeout: 30 * time.Second},
		Server:   Server{Listen: ":8081", MaxBody: 1 << 20},
		Database: Database{Path: "/var/lib/imaging-router/router.db", Keep: 8760 * time.Hour},
		Intake: Intake{
			Follower:     true,
			From:         FromNow,
			PollInterval: time.Second,
			Batch:        500,
			Overlap:      200,
			Copies:       CopiesClassify,
			SOPClasses: []string{
				"1.2.840.10008.5.1.4.1.1.1",     // Computed Radiography
				"1.2.840.10008.5.1.4.1.1.1.1",   // Digital X-Ray, for presentation
				"1.2.840.10008.5.1.4.1.1.1.1.1", // Digital X-Ray, for processing
				"1.2.840.10008.5.1.4.1.1.12.1",  // X-Ray Angiographic
				"1.2.840.10008.5.1.4.1.1.12.2",  // X-Ray Radiofluoroscopic
			},
		},
		Picture: Picture{ChildTimeout: 20 * time.Second, ChildMemory: 2 << 30, MaxFile: 512 << 20, MaxPixels: 100_000_000},
		Memory:  Memory{Limit: 2 << 30},
		Model:   Model{Dir: "models/mobilenet-v1-160", Provider: "cpu"},
		Jobs:    Jobs{PublishWorkers: 4, DeliverWorkers: 1, MaxAttempts: 20, BackoffMax: 10 * time.Minute},
		Review:  Review{ChildUpToYears: 12, AmbiguousYears: []float64{13, 17}},
		Publish: Publish{
			LabelPrefix:   "bodypart-",
			LabelLevels:   []string{LevelStudy, LevelSeries},
			Metadata:      Metadata{BodyPart: 5110, Result: 5111, Marker: 5113},
			SweepInterval: time.Hour,
			SweepAge:      720 * time.Hour,
		},
		Forwarding: Forwarding{RouteMaxAge: 24 * time.Hour, GiveUpAfter: 72 * time.Hour, Quiet: 10 * time.Second, VolumeLimit: VolumeAuto},
		Log:        Log{Level: "info", Format: "auto"},
	}
}

// setDefaults is called before an entry of the list is read.
func (d *Destination) setDefaults() {
	*d = Destination{
		Timeout: 10 * time.Minute, Resend: ResendChanged, AlternateAfter: 15 * time.Minute,
		CircuitBreaker: Breaker{Failures: 3, Pause: 30 * time.Second},
	}
}

// DestinationNames returns the names that rules can use.
func (c *Config) DestinationNames() []string {
	names := make([]string, 0, len(c.Destinations))
	for _, d := range c.Destinations {
		names = append(names, d.Name)
	}
	return names
}

// Policy joins the limits of the configuration with the thresholds of the model; the configuration's thresholds win.
func (c *Config) Policy(model map[bodypart.Class]float64) bodypart.Policy {
	p := bodypart.Policy{Thresholds: map[bodypart.Class]float64{}, ChildUpTo: c.Review.ChildUpToYears, AmbiguousMin: 1, AmbiguousMax: 0}
	for class, t := range model {
		p.Thresholds[class] = t
	}
	for class, t := range c.Model.Thresholds {
		p.Thresholds[class] = t
	}
	if len(c.Review.AmbiguousYears) == 2 {
		p.AmbiguousMin, p.AmbiguousMax = c.Review.AmbiguousYears[0], c.Review.AmbiguousYears[1]
	}
	return p
}
