// Package layout names the files of a folder destination after a template. It knows which templates are safe, and writes nothing.
package layout

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Default lays files out by class and study.
const Default = "{class}/{study}/{instance}.dcm"

// Values are what the placeholders stand for.
type Values struct {
	Class                             string
	Study, Series, Instance, Delivery string    // identifiers of Orthanc's, and the delivery's
	Received                          time.Time // {date}: UTC, 2006-01-02
}

var (
	placeholder  = regexp.MustCompile(`\{[^{}]*\}`)
	placeholders = []string{"{class}", "{study}", "{series}", "{instance}", "{delivery}", "{date}"}
	plain        = regexp.MustCompile(`^[A-Za-z0-9._/-]+$`)
	word         = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// Check says what is wrong with a template: a relative path of letters, digits, dots, "-", "_" and "/" in which placeholders are
// replaced. It names {instance}, so that no file replaces another's.
func Check(template string) error {
	for _, p := range placeholder.FindAllString(template, -1) {
		if !slices.Contains(placeholders, p) {
			return fmt.Errorf("unknown placeholder %s (known: %s)", p, strings.Join(placeholders, ", "))
		}
	}
	path := placeholder.ReplaceAllString(template, "x")
	switch {
	case !strings.Contains(template, "{instance}"): // a delivery may hold several
		return errors.New("must name {instance}, or files would replace one another")
	case !plain.MatchString(path):
		return errors.New("may hold letters, digits, dots, -, _, / and placeholders only")
	case !filepath.IsLocal(path) || strings.HasSuffix(path, "/"):
		return errors.New("must be a path inside the folder that ends in a file name")
	}
	return nil
}

// Name fills a template that Check has passed; "" is Default. The result is a relative path with "/" between its parts, inside the
// folder whatever the values: one that the template asks for must be letters, digits, - and _ only. Its error names the placeholder.
func Name(template string, v Values) (string, error) {
	if template == "" {
		template = Default
	}
	values := []string{v.Class, v.Study, v.Series, v.Instance, v.Delivery, v.Received.UTC().Format(time.DateOnly)}
	pairs := make([]string, 0, 2*len(values))
	for i, value := range values {
		if strings.Contains(template, placeholders[i]) && !word.MatchString(value) { // not repeated: it came from elsewhere
			return "", fmt.Errorf("the value of %s cannot be part of a file's name", placeholders[i])
		}
		pairs = append(pairs, placeholders[i], value)
	}
	return strings.NewReplacer(pairs...).Replace(template), nil
}
