package rules

import (
	"testing"
	"time"
)

func TestScheduleOpens(t *testing.T) {
	const zone = "Europe/Berlin" // UTC+1 in winter, UTC+2 from 29 March 2026, 02:00
	night := Schedule{From: "20:00", To: "06:00", Zone: zone}
	work := Schedule{From: "08:00", To: "17:30", Days: []string{"mon", "Tue", "wed", "thu", "fri"}, Zone: zone}
	for name, tc := range map[string]struct {
		schedule Schedule
		at, want string // local time of Berlin
	}{
		"before the night":          {night, "2026-11-23T19:59:59", "2026-11-23T20:00:00"},
		"as it begins":              {night, "2026-11-23T20:00:00", "2026-11-23T20:00:00"},
		"after midnight":            {night, "2026-11-24T03:00:00", "2026-11-24T03:00:00"},
		"as it ends":                {night, "2026-11-24T06:00:00", "2026-11-24T20:00:00"},
		"in the hours of work":      {work, "2026-11-23T12:00:00", "2026-11-23T12:00:00"},
		"monday before work":        {work, "2026-11-23T07:00:00", "2026-11-23T08:00:00"},
		"friday evening":            {work, "2026-11-27T17:30:00", "2026-11-30T08:00:00"},
		"sunday":                    {work, "2026-11-29T10:00:00", "2026-11-30T08:00:00"},
		"the night of one day":      {Schedule{From: "22:00", To: "02:00", Days: []string{"sat"}, Zone: zone}, "2026-11-29T01:00:00", "2026-11-29T01:00:00"},
		"and not of the day before": {Schedule{From: "22:00", To: "02:00", Days: []string{"sat"}, Zone: zone}, "2026-11-28T01:00:00", "2026-11-28T22:00:00"},
		"a week later":              {Schedule{From: "10:00", To: "11:00", Days: []string{"mon"}, Zone: zone}, "2026-11-23T11:00:00", "2026-11-30T10:00:00"},
		"whole days":                {Schedule{Days: []string{"sat", "sun"}, Zone: zone}, "2026-11-23T11:00:00", "2026-11-28T00:00:00"},
		"to the end of the day":     {Schedule{From: "20:00", Zone: zone}, "2026-11-23T23:59:00", "2026-11-23T23:59:00"},
		"the clock goes forward":    {Schedule{From: "08:00", To: "09:00", Zone: zone}, "2026-03-28T20:00:00", "2026-03-29T08:00:00"},
		"always":                    {Schedule{}, "2026-11-23T11:00:00", "2026-11-23T11:00:00"},
	} {
		t.Run(name, func(t *testing.T) {
			set := compile(t, Rule{Name: "r", When: "true", To: []string{"pacs"}, Schedule: tc.schedule})
			at, want := berlin(t, zone, tc.at), berlin(t, zone, tc.want)
			if got := set.Opens("r", at); !got.Equal(want) {
				t.Errorf("at %s it opens %s, want %s", at, got, want)
			}
			c := result("spine", 1, false)
			c.Now = at.UTC()
			if m := evaluate(t, set, c)[0]; want.Equal(at) != m.NotBefore.IsZero() || !m.NotBefore.IsZero() && !m.NotBefore.Equal(want) {
				t.Errorf("the match waits until %s", m.NotBefore)
			}
			if got := set.Opens("another", at); !got.Equal(at) {
				t.Errorf("a rule that does not exist waits until %s", got)
			}
		})
	}
}

func berlin(t *testing.T, zone, text string) time.Time {
	t.Helper()
	place, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.ParseInLocation("2006-01-02T15:04:05", text, place)
	if err != nil {
		t.Fatal(err)
	}
	return at
}
