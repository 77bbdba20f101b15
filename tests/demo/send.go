package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/suyashkumar/dicom"
	"github.com/suyashkumar/dicom/pkg/tag"

	"imagingrouter/tests/orthanctest"
)

const (
	pollEvery  = 400 * time.Millisecond
	giveUp     = 3 * time.Minute // without anything new
	settleTime = 2 * time.Second // in which something that should not happen could still happen
)

// sendAndWait sends the files and shows how they go through, until all X-rays among them and all their deliveries are at an end.
func (c *scene) sendAndWait(ctx context.Context, files []*file, s *screen) error {
	sent := make(chan error, 1)
	go func() { sent <- c.send(ctx, files) }()
	began, changed := time.Now(), time.Now()
	last, sending := "", true
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.router.ended:
			return fmt.Errorf("the router has ended: %s", c.router.lastLines())
		case <-c.archive.Ended():
			return fmt.Errorf("the archive's Orthanc has died of a file that it was sent: %s", lastLines(c.archive.Log()))
		case err := <-sent:
			if err != nil {
				return err
			}
			sending = false
			if err := c.lookUp(ctx, files); err != nil {
				return err
			}
		case <-time.After(pollEvery):
		}
		now, err := c.record(ctx, files)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%d files · ", len(files))
		if sending {
			text += "sending · "
		}
		text += fmt.Sprintf("labelled %d · other ends %d · delivered %d of %d", now.published, now.otherEnds, now.delivered, now.deliveries)
		if text != last {
			last, changed = text, time.Now()
		}
		s.progress("waiting   "+text, time.Since(began))
		stuck := time.Since(changed) > giveUp
		if !sending && now.open(files) == 0 || stuck {
			s.say("%s   %s in %.1f s", map[bool]string{false: "through", true: "stuck  "}[stuck], text, time.Since(began).Seconds())
			return pause(ctx, settleTime)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// badFile is dcmsend's word on a file that is not DICOM.
var badFile = regexp.MustCompile(`(?m)^W: bad DICOM file: (.+): ([^:\n]+), ignoring file$`)

// send sends all files in one call of dcmsend, and notes what its report says about each.
func (c *scene) send(ctx context.Context, files []*file) error {
	dcmsend, err := orthanctest.Tool(c.archive.Version, "dcmsend")
	if err != nil {
		return err
	}
	byPath := make(map[string]*file, len(files))
	for _, f := range files {
		byPath[f.path] = f
	}
	// A call takes some thousand names at most (ARG_MAX); folders of the user's may hold more.
	for batch := range slices.Chunk(files, 500) {
		// When one file makes the archive cut the association, those after it are still to be sent.
		for rest := batch; len(rest) > 0; {
			if err := c.sendBatch(ctx, dcmsend, rest, byPath); err != nil {
				return err
			}
			left := slices.DeleteFunc(slices.Clone(rest), func(f *file) bool { return f.notSent != unsent+"not sent" })
			if len(left) == len(rest) {
				break
			}
			rest = left
		}
	}
	return nil
}

// unsent is said of a file that was not offered to the archive: its turn did not come, or the two share no transfer syntax.
const unsent = "dcmsend: "

func (c *scene) sendBatch(ctx context.Context, dcmsend string, batch []*file, byPath map[string]*file) error {
	report := filepath.Join(c.dir, "dcmsend.txt")
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	arguments := []string{
		"--call", c.archive.AET, "--no-halt", "--read-file", "--no-uid-checks", "--create-report-file", report,
		"127.0.0.1", strconv.Itoa(c.archive.DicomPort),
	}
	for _, f := range batch {
		arguments = append(arguments, f.path)
		f.notSent = "left out by dcmsend"
	}
	output, failure := exec.CommandContext(ctx, dcmsend, arguments...).CombinedOutput() //nolint:gosec // the installed dcmsend
	for _, match := range badFile.FindAllSubmatch(output, -1) {
		if f := byPath[string(match[1])]; f != nil {
			f.notSent = "no DICOM file (" + string(match[2]) + ")"
		}
	}
	text, err := os.ReadFile(report)
	if errors.Is(err, os.ErrNotExist) && bytes.Contains(output, []byte("no valid files")) {
		return nil // nothing among these was DICOM
	}
	if err != nil {
		return fmt.Errorf("dcmsend: %w: %s", errors.Join(failure, err), lastLines(string(output)))
	}
	readReport(text, byPath)
	return nil
}

// readReport reads dcmsend's report: paragraphs of "key : value", one for each file.
func readReport(text []byte, byPath map[string]*file) {
	var f *file
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		key, value, found := strings.Cut(lines.Text(), " : ")
		if !found {
			continue
		}
		switch key = strings.TrimSpace(key); {
		case key == "Filename":
			f = byPath[value]
		case f == nil:
		case key == "SOP Instance":
			f.sopInstanceUID = value
		case key == "SOP Class":
			f.sopClass, f.sopClassName, _ = strings.Cut(value, " = ")
		case key == "DIMSE Status":
			switch {
			case strings.HasPrefix(value, "0x0000"):
				f.notSent = ""
			case strings.HasPrefix(value, "<"): // dcmsend's own words
				f.notSent = unsent + strings.Trim(value, "<>")
			default:
				f.notSent = "refused by the archive: " + value
			}
		}
	}
}

// lookUp asks the archive under which identifiers it holds the files.
func (c *scene) lookUp(ctx context.Context, files []*file) error {
	for _, f := range files {
		if f.notSent != "" {
			continue
		}
		uid := f.sopInstanceUID
		if own := datasetUID(f.path); own != "" {
			uid = own
		}
		_, answer, err := c.archive.Do(ctx, "POST", "/tools/lookup", uid)
		if err != nil {
			return err
		}
		var found []struct{ ID, Type string }
		if err := json.Unmarshal(answer, &found); err != nil {
			return fmt.Errorf("look up a file in the archive: %w: %s", err, answer)
		}
		for _, resource := range found {
			if resource.Type == "Instance" {
				f.id = resource.ID
			}
		}
	}
	return nil
}

// datasetUID reads the SOP Instance UID (0008,0018) of a file's data set, "" where that cannot be read. dcmsend reports the one of the
// file's header; in some files the two differ, and Orthanc goes by the data set.
func datasetUID(path string) (uid string) {
	r, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() {
		_ = r.Close()         // read only
		if recover() != nil { // the parser on a broken file: dcmsend's word must do
			uid = ""
		}
	}()
	size, err := r.Stat()
	if err != nil {
		return ""
	}
	parser, err := dicom.NewParser(r, size.Size(), nil)
	if err != nil {
		return ""
	}
	for {
		element, err := parser.Next()
		if err != nil || element.Tag.Compare(tag.SOPInstanceUID) > 0 {
			return ""
		}
		if element.Tag == tag.SOPInstanceUID {
			if values, ok := element.Value.GetValue().([]string); ok && len(values) == 1 {
				return strings.TrimRight(values[0], " \x00")
			}
			return ""
		}
	}
}

// tally counts the router's record.
type tally struct{ published, otherEnds, deliveries, delivered, openDeliveries int }

// open returns how many X-rays and deliveries are not at an end.
func (t tally) open(files []*file) int {
	n := t.openDeliveries
	for _, f := range files {
		if f.xray() && f.id != "" && !ended(f.state) {
			n++
		}
	}
	return n
}

func ended(state string) bool { return state != "" && state != "due" && state != "classified" }

const allStates = "due,classified,published,skipped,undecodable,unreadable,gone,failed,pending,submitting,sent,delivered,expired"

// record reads the router's own record of all instances and deliveries, through its command.
func (c *scene) record(ctx context.Context, files []*file) (tally, error) {
	output, err := c.command(ctx, "jobs", "list", "--json", "--limit", "0", "--state", allStates)
	if err != nil {
		return tally{}, err
	}
	byID := make(map[string][]*file, len(files)) // a user may have the same instance twice
	for _, f := range files {
		if f.id != "" {
			byID[f.id] = append(byID[f.id], f)
		}
	}
	var t tally
	lines := bufio.NewScanner(bytes.NewReader(output))
	for lines.Scan() {
		var row struct {
			Kind, Instance, State, Reason string
			LastError                     string    `json:"last_error"`
			FinishedAt                    time.Time `json:"finished_at"`
		}
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			return t, fmt.Errorf("jobs list: %w: %s", err, lines.Bytes())
		}
		if row.Kind == "delivery" {
			t.deliveries++
			switch row.State {
			case "delivered":
				t.delivered++
			case "pending", "submitting", "sent":
				t.openDeliveries++
			}
			continue
		}
		switch {
		case row.State == "published":
			t.published++
		case ended(row.State):
			t.otherEnds++
		}
		for _, f := range byID[row.Instance] {
			f.state, f.reason = row.State, row.Reason
			if f.reason == "" {
				f.reason = row.LastError
			}
			// The first time counts: whoever touches the record later did not label it.
			if row.State == "published" && f.done.IsZero() {
				f.done = row.FinishedAt
			}
		}
	}
	return t, lines.Err()
}
