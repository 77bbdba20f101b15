package logging

import (
	"bytes"
	"encoding/json"
	"regexp"
	"testing"
)

func TestFormats(t *testing.T) {
	for format, want := range map[string]string{
		FormatJSON:    `^\{"level":"info","instance":"4165","time":"[^"]+","message":"classified"\}\n$`,
		FormatAuto:    `^\{"level":"info","instance":"4165","time":"[^"]+","message":"classified"\}\n$`, // a buffer is no terminal
		FormatConsole: `^\d\d:\d\d:\d\d INF classified instance=4165\n$`,
	} {
		var out bytes.Buffer
		log, err := New(&out, "", format)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug().Msg("unseen")
		log.Info().Str("instance", "4165").Msg("classified")
		if !regexp.MustCompile(want).Match(out.Bytes()) {
			t.Errorf("%s: %q, want %s", format, out.String(), want)
		}
	}
}

func TestLevel(t *testing.T) {
	var out bytes.Buffer
	log, err := New(&out, "debug", FormatJSON)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug().Msg("seen")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["level"] != "debug" {
		t.Errorf("%q: %v", out.String(), err)
	}
}

func TestWrongSettings(t *testing.T) {
	if _, err := New(&bytes.Buffer{}, "loud", FormatJSON); err == nil || err.Error() != `log level "loud": must be trace, debug, info, warn or error` {
		t.Errorf("level: %v", err)
	}
	if _, err := New(&bytes.Buffer{}, "info", "xml"); err == nil || err.Error() != `log format "xml": must be auto, json or console` {
		t.Errorf("format: %v", err)
	}
}
