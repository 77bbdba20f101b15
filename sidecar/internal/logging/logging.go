// Package logging makes the router's logger: JSON lines for machines, readable lines for a person at a terminal. It decides
// nothing about what is logged; nothing that it is given may hold patient data.
package logging

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
)

// The formats of New.
const (
	FormatAuto    = "auto" // console on a terminal, else JSON
	FormatJSON    = "json"
	FormatConsole = "console"
)

// New returns a logger that writes to w from the given level on (trace, debug, info, warn, error; "" = info).
func New(w io.Writer, level, format string) (zerolog.Logger, error) {
	if level == "" {
		level = "info"
	}
	least, err := zerolog.ParseLevel(level)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("log level %q: must be trace, debug, info, warn or error", level)
	}
	switch format {
	case FormatAuto, "":
		if IsTerminal(w) {
			w = console(w)
		}
	case FormatConsole:
		w = console(w)
	case FormatJSON:
	default:
		return zerolog.Nop(), fmt.Errorf("log format %q: must be auto, json or console", format)
	}
	return zerolog.New(w).Level(least).With().Timestamp().Logger(), nil
}

// IsTerminal says whether w is a terminal that a person looks at.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

func console(w io.Writer) io.Writer {
	// NO_COLOR is the common word for it (no-color.org).
	return zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !IsTerminal(w) || os.Getenv("NO_COLOR") != ""}
}
