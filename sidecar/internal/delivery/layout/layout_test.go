package layout

import (
	"strings"
	"testing"
	"time"
)

func TestCheck(t *testing.T) {
	for template, want := range map[string]string{
		Default:      "",
		"{instance}": "",
		"in/{date}/{class}-{delivery}-{instance}.dcm": "",
		"{class}.dcm":            "must name {instance}",
		"{patient}/{instance}":   "unknown placeholder {patient}",
		"../{instance}.dcm":      "inside the folder",
		"a/../../{instance}.dcm": "inside the folder",
		"/abs/{instance}.dcm":    "inside the folder",
		"{instance}/":            "ends in a file name",
		"{instance} .dcm":        "may hold",
		"{instance":              "must name",
		"{{instance}}.dcm":       "may hold",
	} {
		err := Check(template)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", template, err, want)
		}
	}
}

func TestName(t *testing.T) {
	v := Values{Class: "spine", Study: "s", Series: "e", Instance: "i", Delivery: "d", Received: time.Date(2026, 1, 2, 0, 30, 0, 0, time.FixedZone("", 3600))}
	for template, want := range map[string]string{"": "spine/s/i.dcm", "{date}/{series}/{delivery}": "2026-01-01/e/d"} {
		if got, err := Name(template, v); got != want || err != nil {
			t.Errorf("%q: %q, %v", template, got, err)
		}
	}
}
