package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // time zones are named in configurations, and a container may have none of its own

	"imagingrouter/sidecar/internal/suggest"
)

// Schedule is the window of time in which a rule's deliveries may go. A window that ends before it begins ends on the next day, and
// belongs to the day on which it begins. The zero value is always open.
type Schedule struct {
	From string   `yaml:"from"` // "20:00"; "" is midnight
	To   string   `yaml:"to"`   // "06:00"; "" is midnight, the end of the day
	Days []string `yaml:"days"` // mon, tue, wed, thu, fri, sat, sun; none is every day
	Zone string   `yaml:"zone"` // "Europe/Berlin"; "" is the zone of the machine
}

// window is a compiled Schedule.
type window struct {
	from, to time.Duration // since midnight; to > from, beyond 24 h when it ends on the next day
	days     [7]bool       // by time.Weekday
	zone     *time.Location
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

const day = 24 * time.Hour

// compile returns the window, nil for one that is always open. fail is told what is wrong with which key.
func (s Schedule) compile(fail func(key string, item int, format string, args ...any)) *window {
	if s.From == "" && s.To == "" && len(s.Days) == 0 && s.Zone == "" {
		return nil
	}
	w := &window{zone: time.Local}
	w.from = clock(s.From, "schedule.from", fail)
	w.to = clock(s.To, "schedule.to", fail)
	if w.to <= w.from {
		w.to += day
	}
	for i, name := range s.Days {
		weekday := slices.Index(dayNames, strings.ToLower(name))
		if weekday < 0 {
			fail("schedule.days", i, "unknown day %q%s", name, suggest.DidYouMean(name, dayNames))
			continue
		}
		w.days[weekday] = true
	}
	if len(s.Days) == 0 {
		w.days = [7]bool{true, true, true, true, true, true, true}
	}
	if s.Zone != "" {
		zone, err := time.LoadLocation(s.Zone)
		if err != nil {
			fail("schedule.zone", 0, "unknown time zone %q (a name such as Europe/Berlin, America/New_York or UTC)", s.Zone)
			return w
		}
		w.zone = zone
	}
	return w
}

func clock(text, key string, fail func(key string, item int, format string, args ...any)) time.Duration {
	if text == "" {
		return 0
	}
	t, err := time.Parse("15:04", text)
	if err != nil {
		fail(key, 0, "must be a time of day such as \"20:00\" (got %q)", text)
		return 0
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
}

// opens returns t when the window is open then, else when it opens next.
func (w *window) opens(t time.Time) time.Time {
	if w == nil {
		return t
	}
	local := t.In(w.zone)
	// From yesterday, whose window may reach into today, to the same day next week.
	for offset := -1; offset <= 7; offset++ {
		from, to := w.on(local, offset)
		if !w.days[from.Weekday()] || !t.Before(to) {
			continue
		}
		if t.Before(from) {
			return from
		}
		return t
	}
	return t
}

// on returns the window of the day that is offset days after t. Hours are those of the wall clock: on the days when it is changed a
// window is an hour longer or shorter.
func (w *window) on(t time.Time, offset int) (from, to time.Time) {
	at := func(d time.Duration) time.Time {
		return time.Date(t.Year(), t.Month(), t.Day()+offset+int(d/day), int(d%day/time.Hour), int(d%time.Hour/time.Minute), 0, 0, w.zone)
	}
	return at(w.from), at(w.to)
}

// String writes the schedule as people say it: "20:00 to 06:00 on mon, tue (Europe/Berlin)".
func (s Schedule) String() string {
	orMidnight := func(t string) string {
		if t == "" {
			return "00:00"
		}
		return t
	}
	text := fmt.Sprintf("%s to %s", orMidnight(s.From), orMidnight(s.To))
	if len(s.Days) > 0 {
		text += " on " + strings.Join(s.Days, ", ")
	}
	if s.Zone != "" {
		text += " (" + s.Zone + ")"
	}
	return text
}
