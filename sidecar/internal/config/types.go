package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Secret is a text that prints as <secret> everywhere: fmt, JSON, YAML and logs. Reveal returns it.
type Secret string

const hidden = "<secret>"

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String hides the secret; an empty one prints as nothing, so that "is it set?" can be read off.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText hides the secret from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Headers are HTTP headers that are sent with every request. Their values often are credentials and print as <secret>.
type Headers map[string]string

func (h Headers) hide() map[string]string {
	safe := make(map[string]string, len(h))
	for name := range h {
		safe[name] = hidden
	}
	return safe
}

// String names the headers without their values.
func (h Headers) String() string { return fmt.Sprint(h.hide()) }

// GoString names the headers without their values.
func (h Headers) GoString() string { return fmt.Sprintf("%#v", h.hide()) }

// MarshalYAML hides the values.
func (h Headers) MarshalYAML() (any, error) { return h.hide(), nil }

// MarshalJSON hides the values.
func (h Headers) MarshalJSON() ([]byte, error) { return yaml.MarshalWithOptions(h.hide(), yaml.JSON()) }

// ByteSize is a number of bytes, written as 512MiB, 2GiB, 64KiB, 100kB or a plain number of bytes.
type ByteSize int64

var byteUnits = []struct {
	name string
	size float64
}{
	{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// ParseByteSize reads a size such as "512MiB".
func ParseByteSize(s string) (ByteSize, error) {
	number, factor := strings.TrimSpace(s), 1.0
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, factor = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(n) || math.Abs(n*factor) > 1<<62 || n*factor != math.Trunc(n*factor) {
		return 0, fmt.Errorf("must be a size such as 64KiB, 512MiB or 2GiB (got %q)", s)
	}
	return ByteSize(n * factor), nil
}

// String writes the size in the largest unit that divides it.
func (b ByteSize) String() string {
	for _, u := range byteUnits[:3] {
		if size := ByteSize(u.size); b != 0 && b%size == 0 {
			return strconv.FormatInt(int64(b/size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText writes the size as ParseByteSize reads it.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// formatDuration writes 8760h for what time.Duration writes as 8760h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// YAML returns the configuration in the form of its file, with defaults filled in. Secrets are not in it: passwords and
// tokens are files, whose names are shown, and the values of headers are hidden.
func (c *Config) YAML() ([]byte, error) {
	return yaml.MarshalWithOptions(c, yaml.CustomMarshaler(func(d time.Duration) ([]byte, error) {
		return []byte(formatDuration(d)), nil
	}))
}

// String is YAML for logs and messages.
func (c *Config) String() string {
	text, err := c.YAML()
	if err != nil {
		return fmt.Sprintf("configuration %s: %v", c.Path, err)
	}
	return string(text)
}
