package orthanc

import (
	"context"
	"errors"
	"strconv"
	"strings"
)

// The types of change that the router follows. Labels and deletions are never among the changes.
const (
	NewInstance  = "NewInstance"
	NewSeries    = "NewSeries"
	NewStudy     = "NewStudy"
	StableStudy  = "StableStudy"
	StableSeries = "StableSeries"
)

// Change is one row of Orthanc's log of changes. The row vanishes when its resource is deleted.
type Change struct {
	Seq          int64
	ChangeType   string
	ResourceType string // Patient, Study, Series, Instance
	ID           string
	Date         string // UTC, see ParseTime
}

// Changes is a page of that log.
type Changes struct {
	Changes []Change
	Done    bool  // nothing newer is there
	Last    int64 // where to go on; under a filter without a hit, the newest of the whole log
	First   int64 // 0 when the page is empty
}

// Changes returns at most limit changes whose Seq is greater than since. Types need System.ExtendedChanges (Orthanc answers 400 without).
func (c *Client) Changes(ctx context.Context, since int64, limit int, types ...string) (Changes, error) {
	query := "since=" + strconv.FormatInt(since, 10) + "&limit=" + strconv.Itoa(limit)
	if len(types) > 0 {
		query += "&type=" + strings.Join(types, ";") // Orthanc 1.12 takes "%3B" for a part of the type's name
	}
	return c.changes(ctx, query)
}

// changes asks for a page. An answer that names no changes, not even none, is somebody else's: with the zero that it would give for the newest one,
// the whole archive would count as new.
func (c *Client) changes(ctx context.Context, query string) (Changes, error) {
	var page Changes
	err := c.getJSON(ctx, "/changes", query, &page)
	if err == nil && page.Changes == nil {
		err = errors.New("orthanc: /changes: this is not an Orthanc (no Changes in the answer)")
	}
	return page, err
}

// LastChange returns the Seq of the newest change; 0 when there was none yet.
func (c *Client) LastChange(ctx context.Context) (int64, error) {
	page, err := c.changes(ctx, "last")
	return page.Last, err
}
