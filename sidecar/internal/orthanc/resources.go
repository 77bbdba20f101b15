package orthanc

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Level is a level of the DICOM hierarchy, as it stands in Orthanc's URLs.
type Level string

// The levels on which the router reads and writes.
const (
	LevelInstance Level = "instances"
	LevelSeries   Level = "series"
	LevelStudy    Level = "studies"
)

// bulk is how many resources one request asks for: few enough that Orthanc's one database lock is held for milliseconds.
const bulk = 500

// Instance is one stored DICOM file as Orthanc's index knows it.
type Instance struct {
	ID           string
	ParentSeries string
	ParentStudy  string
	// MainDicomTags are the instance level's (SOPInstanceUID, InstanceNumber, …): no names and no dates of birth, but UIDs.
	MainDicomTags map[string]string
	// Metadata by name: SopClassUid, TransferSyntax, ReceptionDate, Origin, HttpUsername, RemoteAET, CalledAET, ModifiedFrom, AnonymizedFrom …
	Metadata map[string]string
	Labels   []string
	FileSize int64
	FileUUID string // of the stored file; an overwrite gives a new one
}

// IsCopy says whether Orthanc's modify or anonymise made the instance, and IsCopyOf of which one.
func (i Instance) IsCopy() bool { return i.IsCopyOf() != "" }

// IsCopyOf returns the identifier of the instance that this one was made from by modify or anonymise; "" when it is no copy.
func (i Instance) IsCopyOf() string {
	if from := i.Metadata["ModifiedFrom"]; from != "" {
		return from
	}
	return i.Metadata["AnonymizedFrom"]
}

// ReceivedAt returns when Orthanc stored the instance, to the second. Orthanc writes ReceptionDate in UTC.
func ReceivedAt(i Instance) (time.Time, error) {
	t, err := ParseTime(i.Metadata["ReceptionDate"])
	if err != nil {
		return t, fmt.Errorf("metadata ReceptionDate of instance %s: %w", i.ID, err)
	}
	return t, nil
}

// Series is one series.
type Series struct {
	ID          string
	ParentStudy string
	Modality    string
	Instances   []string
	Labels      []string
	Metadata    map[string]string
	Stable      bool // nothing came for Orthanc's StableAge
}

// Study is one study. Its DICOM tags are left out: they are the patient's.
type Study struct {
	ID       string
	Series   []string
	Labels   []string
	Metadata map[string]string
	Stable   bool // nothing came for Orthanc's StableAge
}

type bulkAnswer struct {
	ID            string
	ParentSeries  string
	ParentStudy   string
	Instances     []string
	Series        []string
	Labels        []string
	MainDicomTags tags
	Metadata      map[string]string
	FileSize      int64
	FileUUID      string `json:"FileUuid"`
	IsStable      bool
}

// check holds every identifier against its form: they become parts of addresses, of files' names and of the log.
func (b bulkAnswer) check() error {
	if err := checkID("the answer's resource", b.ID); err != nil {
		return err
	}
	for _, id := range slices.Concat([]string{b.ParentSeries, b.ParentStudy}, b.Instances, b.Series) {
		if id != "" { // each level has only some of them
			if err := checkID("a relative of "+b.ID, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// tags are main DICOM tags of one level that are texts. A sequence can be a main tag too, and is left out: Request Attributes
// Sequence (0040,0275) is one by default, and every X-ray that was ordered through a worklist has it.
type tags map[string]string

// UnmarshalJSON reads an object and leaves out what is no string.
func (t *tags) UnmarshalJSON(text []byte) error {
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	*t = make(tags, len(all))
	for name, value := range all {
		if s, ok := value.(string); ok {
			(*t)[name] = s
		}
	}
	return nil
}

// Instance returns one instance with its metadata. An error for which IsNotFound holds says that it is not (or no longer) there.
func (c *Client) Instance(ctx context.Context, id string) (Instance, error) {
	return one[Instance](LevelInstance, id)(c.Instances(ctx, []string{id}))
}

// Instances returns those of the instances that are there, with their metadata, in no particular order.
// It takes two requests for every 500 of them.
func (c *Client) Instances(ctx context.Context, ids []string) ([]Instance, error) {
	answers, err := c.bulkContent(ctx, "Instance", ids)
	if err != nil {
		return nil, err
	}
	parents := make([]string, 0, 1)
	seen := map[string]bool{}
	for _, a := range answers {
		if !seen[a.ParentSeries] {
			seen[a.ParentSeries] = true
			parents = append(parents, a.ParentSeries)
		}
	}
	series, err := c.bulkContent(ctx, "Series", parents)
	if err != nil {
		return nil, err
	}
	study := make(map[string]string, len(series))
	for _, s := range series {
		study[s.ID] = s.ParentStudy
	}
	instances := make([]Instance, 0, len(answers))
	for _, a := range answers {
		if study[a.ParentSeries] == "" {
			continue // deleted between the two requests
		}
		instances = append(instances, Instance{
			ID: a.ID, ParentSeries: a.ParentSeries, ParentStudy: study[a.ParentSeries],
			MainDicomTags: a.MainDicomTags, Metadata: a.Metadata, Labels: a.Labels, FileSize: a.FileSize, FileUUID: a.FileUUID,
		})
	}
	return instances, nil
}

// Series returns one series.
func (c *Client) Series(ctx context.Context, id string) (Series, error) {
	return one[Series](LevelSeries, id)(c.SeriesMany(ctx, []string{id}))
}

// SeriesMany returns those of the series that are there, in no particular order.
func (c *Client) SeriesMany(ctx context.Context, ids []string) ([]Series, error) {
	answers, err := c.bulkContent(ctx, "Series", ids)
	series := make([]Series, 0, len(answers))
	for _, a := range answers {
		series = append(series, Series{
			ID: a.ID, ParentStudy: a.ParentStudy, Modality: a.MainDicomTags["Modality"],
			Instances: a.Instances, Labels: a.Labels, Metadata: a.Metadata, Stable: a.IsStable,
		})
	}
	return series, err
}

// Study returns one study.
func (c *Client) Study(ctx context.Context, id string) (Study, error) {
	return one[Study](LevelStudy, id)(c.Studies(ctx, []string{id}))
}

// Studies returns those of the studies that are there, in no particular order.
func (c *Client) Studies(ctx context.Context, ids []string) ([]Study, error) {
	answers, err := c.bulkContent(ctx, "Study", ids)
	studies := make([]Study, 0, len(answers))
	for _, a := range answers {
		studies = append(studies, Study{ID: a.ID, Series: a.Series, Labels: a.Labels, Metadata: a.Metadata, Stable: a.IsStable})
	}
	return studies, err
}

// Contents is what a series or a study holds.
type Contents struct {
	StudyID   string
	Instances []string
	Stable    bool // nothing came for Orthanc's StableAge, or Orthanc was restarted since: it keeps that in memory
}

// Contents returns what a series or study holds, in one request or two. An error for which IsNotFound holds says that it is not there.
func (c *Client) Contents(ctx context.Context, level Level, id string) (Contents, error) {
	if level == LevelSeries {
		s, err := c.Series(ctx, id)
		return Contents{StudyID: s.ParentStudy, Instances: s.Instances, Stable: s.Stable}, err
	}
	study, err := c.Study(ctx, id)
	if err != nil {
		return Contents{}, err
	}
	series, err := c.SeriesMany(ctx, study.Series)
	out := Contents{StudyID: id, Stable: study.Stable}
	for _, s := range series {
		out.Instances = append(out.Instances, s.Instances...)
	}
	return out, err
}

// one takes the single element of a bulk answer; an empty one becomes the 404 that a request for the resource itself would be.
func one[T any](level Level, id string) func([]T, error) (T, error) {
	return func(all []T, err error) (T, error) {
		var zero T
		if err != nil {
			return zero, err
		}
		if len(all) == 0 {
			return zero, &Error{Method: http.MethodGet, Path: "/" + string(level) + "/" + id, Status: http.StatusNotFound}
		}
		return all[0], nil
	}
}

// bulkContent asks for many resources at once. Orthanc leaves out those that it does not have.
func (c *Client) bulkContent(ctx context.Context, level string, ids []string) ([]bulkAnswer, error) {
	for _, id := range ids {
		if err := checkID("a resource of level "+level, id); err != nil {
			return nil, err
		}
	}
	var all []bulkAnswer
	for len(ids) > 0 {
		n := min(bulk, len(ids))
		a, err := c.do(ctx, call{
			method: http.MethodPost, path: "/tools/bulk-content", repeat: true, // it only reads
			body: map[string]any{"Resources": ids[:n], "Level": level, "Metadata": true},
		})
		if err != nil {
			return nil, err
		}
		var some []bulkAnswer
		if err := a.decode("/tools/bulk-content", &some); err != nil {
			return nil, err
		}
		for _, b := range some {
			if err := b.check(); err != nil {
				return nil, fmt.Errorf("orthanc: /tools/bulk-content: %w", err)
			}
		}
		all = append(all, some...)
		ids = ids[n:]
	}
	return all, nil
}
