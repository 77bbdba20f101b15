package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/delivery/layout"
	"imagingrouter/sidecar/internal/memory"
	"imagingrouter/sidecar/internal/suggest"
)

func (c *Config) validate(r *report) {
	c.validateOrthanc(r)
	c.validateServer(r)
	c.validateIntake(r)
	c.validatePicture(r)
	c.validateModel(r)
	c.validateJobs(r)
	c.validateReview(r)
	c.validatePublish(r)
	c.validateDestinations(r)
	oneOf(r, "log.level", c.Log.Level, "trace", "debug", "info", "warn", "error")
	oneOf(r, "log.format", c.Log.Format, "auto", "json", "console")
	required(r, "database.path", c.Database.Path)
	notNegative(r, "database.keep", c.Database.Keep)
	if c.Database.Keep > 0 && c.Database.Keep < c.Publish.SweepAge && !r.failed("database.keep") && !r.failed("publish.sweep_age") {
		r.fail("database.keep", "must not be shorter than publish.sweep_age (%s), the age up to which labels are compared with Orthanc (got %s)", c.Publish.SweepAge, c.Database.Keep)
	}
	positive(r, "forwarding.route_max_age", c.Forwarding.RouteMaxAge)
	positive(r, "forwarding.give_up_after", c.Forwarding.GiveUpAfter)
	notNegative(r, "forwarding.quiet", c.Forwarding.Quiet)
	if n, err := strconv.Atoi(c.Forwarding.VolumeLimit); !r.failed("forwarding.volume_limit") && c.Forwarding.VolumeLimit != VolumeAuto && c.Forwarding.VolumeLimit != VolumeOff && (err != nil || n < 1) {
		r.fail("forwarding.volume_limit", "must be auto, off, or a number of deliveries in an hour (got %q)", c.Forwarding.VolumeLimit)
	}
	if c.Forwarding.Enabled && len(c.RuleList) == 0 {
		c.Warnings = append(c.Warnings, "forwarding.enabled is true and there are no rules: nothing will be forwarded")
	}
}

func (c *Config) validateOrthanc(r *report) {
	const key = "orthanc.url"
	u, err := url.Parse(c.Orthanc.URL)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		r.fail(key, "must be an address such as http://orthanc:8042")
	case holdsAccount(u):
		// The address appears in logs, so it must not carry the password; it is not repeated here for the same reason.
		r.fail(key, "must not hold a user or password: use orthanc.username and orthanc.password_file")
	case u.RawQuery != "" || u.Fragment != "":
		r.fail(key, "must not hold a query or fragment") // which may be the rest of a password with a ? or #: it is not repeated either
	}
	positive(r, "orthanc.timeout", c.Orthanc.Timeout)
	between(r, "orthanc.concurrent_jobs", c.Orthanc.ConcurrentJobs, 0, 1000)
	if c.Orthanc.PasswordFile != "" && c.Orthanc.Username == "" {
		r.fail("orthanc.password_file", "needs orthanc.username")
	}
	for name, value := range c.Orthanc.Headers {
		if !headerName.MatchString(name) {
			r.fail(join("orthanc.headers", name), "is not the name of an HTTP header")
		}
		if strings.ContainsAny(value, "\r\n") {
			r.fail(join("orthanc.headers", name), "must be one line")
		}
	}
}

// holdsAccount says whether an address carries a user or a password: also one with a slash in it, which looks like a host and a path.
func holdsAccount(u *url.URL) bool { return u.User != nil || strings.Contains(u.Path, "@") }

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

func (c *Config) validateServer(r *report) {
	if _, port, err := net.SplitHostPort(c.Server.Listen); err != nil || !isPort(port) {
		r.fail("server.listen", "must be an address such as :8081 or 127.0.0.1:8081 (got %q)", c.Server.Listen)
	}
	positive(r, "server.max_body", c.Server.MaxBody)
	switch {
	case c.Server.TLSCertFile != "" && c.Server.TLSKeyFile == "":
		r.fail("server.tls_cert_file", "needs server.tls_key_file")
	case c.Server.TLSKeyFile != "" && c.Server.TLSCertFile == "":
		r.fail("server.tls_key_file", "needs server.tls_cert_file")
	}
	if c.Server.HookToken != "" && len(c.Server.HookToken) < 16 {
		c.Warnings = append(c.Warnings, "server.hook_token_file holds fewer than 16 characters: make one with `openssl rand -hex 32`")
	}
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

var uid = regexp.MustCompile(`^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+$`)

func (c *Config) validateIntake(r *report) {
	oneOf(r, "intake.from", c.Intake.From, FromNow, FromBeginning)
	oneOf(r, "intake.copies", c.Intake.Copies, CopiesClassify, CopiesInherit, CopiesSkip)
	positive(r, "intake.poll_interval", c.Intake.PollInterval)
	between(r, "intake.batch", c.Intake.Batch, 1, 10_000)
	between(r, "intake.overlap", c.Intake.Overlap, 0, 100_000)
	for i, s := range c.Intake.SOPClasses {
		if len(s) > 64 || !uid.MatchString(s) {
			r.fail(fmt.Sprintf("intake.sop_classes[%d]", i), "must be a UID such as 1.2.840.10008.5.1.4.1.1.1 (got %q)", s)
		}
	}
	if len(c.Intake.AcceptedSOPClasses()) == 0 {
		r.fail("intake.sop_classes", "must not be empty: nothing would be classified")
	}
	for i, m := range c.Intake.Modalities {
		if !modality.MatchString(m) {
			r.fail(fmt.Sprintf("intake.modalities[%d]", i), "must be a modality such as DX or CR (got %q)", m)
		}
	}
}

var modality = regexp.MustCompile(`^[A-Z0-9_]{1,16}$`)

func (c *Config) validatePicture(r *report) {
	positive(r, "picture.child_timeout", c.Picture.ChildTimeout)
	positive(r, "picture.max_file", c.Picture.MaxFile)
	positive(r, "picture.max_pixels", c.Picture.MaxPixels)
	if least := ByteSize(memory.Least); c.Memory.Limit != 0 && c.Memory.Limit < least {
		r.fail("memory.limit", "must be at least %s, or 0 for none (got %s)", least, c.Memory.Limit)
	}
	if least := ByteSize(64 << 20); c.Picture.ChildMemory < least {
		r.fail("picture.child_memory", "must be at least %s (got %s)", least, c.Picture.ChildMemory)
	}
}

func (c *Config) validateModel(r *report) {
	required(r, "model.dir", c.Model.Dir)
	required(r, "model.provider", c.Model.Provider)
	between(r, "model.threads", c.Model.Threads, 0, 1024)
	classes := make([]string, 0, 5)
	for _, class := range bodypart.Classes() {
		classes = append(classes, string(class))
	}
	for class, t := range c.Model.Thresholds {
		key := join("model.thresholds", string(class))
		if !slices.Contains(classes, string(class)) {
			r.fail(key, "unknown class%s", suggest.DidYouMean(string(class), classes))
		}
		if !(t >= 0 && t <= 1) && !r.failed(key) {
			r.fail(key, "must be between 0 and 1 (got %g)", t)
		}
	}
}

func (c *Config) validateJobs(r *report) {
	between(r, "jobs.classify_workers", c.Jobs.ClassifyWorkers, 0, 1024)
	between(r, "jobs.publish_workers", c.Jobs.PublishWorkers, 1, 256)
	between(r, "jobs.deliver_workers", c.Jobs.DeliverWorkers, 1, 256)
	between(r, "jobs.max_attempts", c.Jobs.MaxAttempts, 1, 1000)
	positive(r, "jobs.backoff_max", c.Jobs.BackoffMax)
}

func (c *Config) validateReview(r *report) {
	if limit := c.Review.ChildUpToYears; !(limit >= 0 && limit <= 150) {
		r.fail("review.child_up_to_years", "must be between 0 and 150 (got %g)", limit)
	}
	const key = "review.ambiguous_years"
	switch years := c.Review.AmbiguousYears; {
	case len(years) == 0, r.failed(key):
	case len(years) != 2:
		r.fail(key, "must be two ages such as [13, 17], or [] to switch it off (got %d)", len(years))
	case !(years[0] >= 0 && years[1] <= 150 && years[0] <= years[1]):
		r.fail(key, "must be two ages in order, between 0 and 150 (got %g and %g)", years[0], years[1])
	}
}

var (
	labelText       = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	destinationName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
)

func (c *Config) validatePublish(r *report) {
	const prefix = "publish.label_prefix"
	longest := len(bodypart.ReviewLabel(""))
	for _, class := range bodypart.Classes() {
		longest = max(longest, len(class.Label("")))
	}
	switch {
	case !labelText.MatchString(c.Publish.LabelPrefix):
		r.fail(prefix, "must be made of letters, digits, - and _ (got %q)", c.Publish.LabelPrefix)
	case len(c.Publish.LabelPrefix)+longest > 64:
		r.fail(prefix, "is too long: Orthanc's labels end at 64 characters, so the prefix at %d (got %d)", 64-longest, len(c.Publish.LabelPrefix))
	}
	for i, level := range c.Publish.LabelLevels {
		oneOf(r, fmt.Sprintf("publish.label_levels[%d]", i), level, LevelStudy, LevelSeries, LevelInstance)
	}
	seen := map[int]string{}
	for _, m := range []struct {
		key    string
		number int
	}{
		{"publish.metadata.body_part", c.Publish.Metadata.BodyPart},
		{"publish.metadata.result", c.Publish.Metadata.Result},
		{"publish.metadata.marker", c.Publish.Metadata.Marker},
	} {
		between(r, m.key, m.number, 1024, 65535)
		if other, taken := seen[m.number]; taken {
			r.fail(m.key, "must differ from %s (both are %d)", other, m.number)
		}
		seen[m.number] = m.key
	}
	positive(r, "publish.sweep_interval", c.Publish.SweepInterval)
	positive(r, "publish.sweep_age", c.Publish.SweepAge)
}

func (c *Config) validateDestinations(r *report) {
	seen := map[string]int{}
	for i := range c.Destinations {
		d := &c.Destinations[i]
		at := fmt.Sprintf("destinations[%d]", i)
		first, taken := seen[d.Name]
		switch {
		case r.failed(at + ".name"):
		case d.Name == "":
			r.fail(at, "needs a name")
		case !destinationName.MatchString(d.Name):
			r.fail(at+".name", "must be made of letters, digits, dots, - and _ (got %q)", d.Name)
		case taken:
			r.fail(at+".name", "the name %q is already taken by destinations[%d]", d.Name, first)
		default:
			seen[d.Name] = i
		}
		d.validateKind(r, at)
		d.validateTraffic(r, at)
	}
	c.validateAlternates(r)
}

// validateTraffic checks how much is sent, and what happens when the destination does not take it.
func (d *Destination) validateTraffic(r *report, at string) {
	positive(r, at+".timeout", d.Timeout)
	positive(r, at+".alternate_after", d.AlternateAfter)
	positive(r, at+".circuit_breaker.pause", d.CircuitBreaker.Pause)
	between(r, at+".circuit_breaker.failures", d.CircuitBreaker.Failures, 0, 1000)
	between(r, at+".max_in_flight", d.MaxInFlight, 0, 256)
	between(r, at+".most_per_minute", d.MostPerMinute, 0, 1_000_000)
	oneOf(r, at+".resend", d.Resend, ResendNever, ResendChanged, ResendAlways)
	for i, origin := range d.FromOrigins {
		oneOf(r, fmt.Sprintf("%s.from_origins[%d]", at, i), origin, "DicomProtocol", "RestApi", "Plugins", "Lua", "WebDav")
	}
	switch {
	case d.TransferSyntax == "" || r.failed(at+".transfer_syntax"):
	case len(d.TransferSyntax) > 64 || !uid.MatchString(d.TransferSyntax):
		r.fail(at+".transfer_syntax", "must be the UID of a transfer syntax, such as 1.2.840.10008.1.2.1 (got %q)", d.TransferSyntax)
	case d.Modality != "":
		r.fail(at+".transfer_syntax", "cannot be chosen for a modality: Orthanc and the modality agree on one (AllowTranscode and TranscodeDicomProtocol in Orthanc's configuration)")
	case d.DICOMweb != "" || d.Transfers != "":
		r.fail(at+".transfer_syntax", "cannot be chosen here: Orthanc's plugin sends the file as it is stored")
	case d.Webhook != (Webhook{}):
		r.fail(at+".transfer_syntax", "is of no use to a webhook, which is sent no picture")
	}
}

// validateAlternates sees to it that an alternate is another destination, and that none stands in for itself in a circle.
func (c *Config) validateAlternates(r *report) {
	names := c.DestinationNames()
	next := map[string]string{}
	for _, d := range c.Destinations {
		next[d.Name] = d.Alternate
	}
	for i, d := range c.Destinations {
		key := fmt.Sprintf("destinations[%d].alternate", i)
		switch {
		case d.Alternate == "" || r.failed(key):
		case d.Alternate == d.Name:
			r.fail(key, "must be another destination than the one that it stands in for")
		case !slices.Contains(names, d.Alternate):
			r.fail(key, "unknown destination %q%s", d.Alternate, suggest.DidYouMean(d.Alternate, names))
		case next[d.Alternate] == d.Name:
			r.fail(key, "%s and %s cannot stand in for one another", d.Name, d.Alternate)
		}
	}
}

// validateKind sees to it that a destination is of one kind; without any it is the peer of its own name.
func (d *Destination) validateKind(r *report, at string) {
	var kinds []string
	for _, k := range []struct {
		key string
		set bool
	}{
		{"peer", d.Peer != ""}, {"transfers", d.Transfers != ""}, {"modality", d.Modality != ""}, {"dicomweb", d.DICOMweb != ""},
		{"webhook", d.Webhook != (Webhook{})}, {"folder", d.Folder != (Folder{})},
	} {
		if k.set {
			kinds = append(kinds, k.key)
		}
	}
	switch {
	case len(kinds) > 1:
		r.fail(at, "is of one kind, not of several (%s): make a destination of each", strings.Join(kinds, " and "))
	case len(kinds) == 0:
		d.Peer = d.Name
	}
	if d.StorageCommitment && d.Modality == "" {
		r.fail(at+".storage_commitment", "is something that only a modality can be asked for")
	}
	if d.Webhook != (Webhook{}) {
		// The address may hold a key: it is not repeated.
		switch u, err := url.Parse(d.Webhook.URL); {
		case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
			r.fail(at+".webhook.url", "must begin with http:// or https://, and name a host")
		case holdsAccount(u):
			r.fail(at+".webhook.url", "must not hold a user or password: use webhook.secret_file, with which requests are signed")
		}
	}
	if d.Folder != (Folder{}) {
		if !filepath.IsAbs(d.Folder.Path) {
			r.fail(at+".folder.path", "must be an absolute path (got %q)", d.Folder.Path)
		}
		if d.Folder.Template != "" {
			if err := layout.Check(d.Folder.Template); err != nil {
				r.fail(at+".folder.template", "%v", err)
			}
		}
	}
}

// The checks below leave a value alone that could not even be read, so that each fault is told once.

func positive[T time.Duration | ByteSize | int64](r *report, key string, v T) {
	if v <= 0 && !r.failed(key) {
		r.fail(key, "must be greater than 0 (got %v)", v)
	}
}

func notNegative(r *report, key string, v time.Duration) {
	if v < 0 && !r.failed(key) {
		r.fail(key, "must not be negative (got %v)", v)
	}
}

func between(r *report, key string, v, least, most int) {
	if (v < least || v > most) && !r.failed(key) {
		r.fail(key, "must be between %d and %d (got %d)", least, most, v)
	}
}

func required(r *report, key, v string) {
	if strings.TrimSpace(v) == "" && !r.failed(key) {
		r.fail(key, "must not be empty")
	}
}

func oneOf(r *report, key, v string, known ...string) {
	if !slices.Contains(known, v) && !r.failed(key) {
		r.fail(key, "must be one of %s (got %q)", strings.Join(known, ", "), v)
	}
}
