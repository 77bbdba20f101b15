package intake

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/metrics"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

const (
	newInstance   = "NewInstance"
	keepAnchors   = 32
	verifyEvery   = 5 * time.Minute
	overlapEvery  = 30 * time.Second
	longestPause  = 30 * time.Second
	bulkContent   = 500 // instances asked for in one request
	rememberedSeq = 4   // times the overlap
)

// Objects says which instances the site wants classified.
type Objects struct {
	SOPClasses []string
	Modalities []string // empty: any
}

// Follower reads Orthanc's /changes from a persisted cursor and marks every new instance as due, so that none is lost when the hook
// was not heard. It recognises a reset or restored Orthanc database by anchor rows and then replays the log without forwarding.
type Follower struct {
	Orthanc *orthanc.Client
	Marker  *Marker
	Objects Objects
	// FromBeginning: at the very first start the whole log is replayed; otherwise only what comes from now on counts.
	FromBeginning bool
	PollInterval  time.Duration
	Batch         int   // rows of /changes asked for at once
	Overlap       int64 // rows read again: with several writers on PostgreSQL a lower row may appear after a higher one
	Metrics       *metrics.Metrics
	Log           zerolog.Logger
	Failed        func(error) // hears of every failure; may be nil

	extended bool // Orthanc filters changes by type
	verified time.Time
	overlap  time.Time
	recent   map[int64]struct{}
}

// Run follows until ctx ends. Failures are logged when they begin and when they end, not at every poll.
func (f *Follower) Run(ctx context.Context) {
	failures := 0
	for {
		done, err := f.poll(ctx)
		pause := f.PollInterval
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			if f.Failed != nil {
				f.Failed(err)
			}
			f.verified = time.Time{} // whatever happened to Orthanc, its database may be another now
			pause = min(longestPause, f.PollInterval<<min(failures, 10))
			event := f.Log.Debug()
			if failures == 1 {
				event = f.Log.Warn()
			}
			event.Err(err).Int("failures", failures).Dur("next_try", pause).Msg("follower: cannot read Orthanc's changes")
		default:
			if failures > 0 {
				f.Log.Info().Int("failures", failures).Msg("follower: reading Orthanc's changes again")
			}
			failures = 0
			if !done {
				pause = 0
			} else {
				f.Metrics.FollowerCurrent(time.Now())
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// poll takes in one page of changes; done says that it was the last.
func (f *Follower) poll(ctx context.Context) (done bool, err error) {
	cursor, err := f.position(ctx)
	if err != nil {
		return false, err
	}
	page, err := f.changes(ctx, cursor.Seq, f.Batch)
	if err != nil {
		return false, err
	}
	if page.Last < cursor.Seq { // only another database's log ends before the cursor, and Orthanc may have been exchanged between two polls
		f.verified = time.Time{}
	}
	next := cursor
	next.Seq = max(cursor.Seq, page.Last)
	anchor := anchors(page.Changes) // before the filter, which reuses the slice
	rows := slices.DeleteFunc(page.Changes, func(c orthanc.Change) bool { return c.ChangeType != newInstance || c.Seq <= cursor.Seq })
	if page.Done && time.Since(f.overlap) > overlapEvery {
		late, err := f.late(ctx, cursor)
		if err != nil {
			return false, err
		}
		rows = append(late, rows...)
		f.overlap = time.Now()
	}
	if len(rows) == 0 && next == cursor {
		return page.Done, nil
	}
	live, replay, others, err := f.due(ctx, rows, cursor)
	if err != nil {
		return false, err
	}
	err = f.Marker.Store.Tx(ctx, func(tx *sql.Tx) error {
		if err := f.Marker.mark(ctx, tx, store.SourceReplay, replay...); err != nil {
			return err
		}
		if err := f.Marker.mark(ctx, tx, store.SourceFollower, live...); err != nil {
			return err
		}
		for series, study := range others {
			if err := f.Marker.LateIn(ctx, tx, series, study); err != nil {
				return err
			}
		}
		return f.Marker.Store.SetCursor(ctx, tx, next, anchor, keepAnchors)
	})
	if err != nil {
		return false, err
	}
	f.remember(rows, next.Seq)
	f.Metrics.Marked(string(store.SourceFollower), len(live))
	f.Metrics.Marked(string(store.SourceReplay), len(replay))
	if n := len(live) + len(replay); n > 0 {
		f.Log.Debug().Int("live", len(live)).Int("replay", len(replay)).Int64("seq", next.Seq).Msg("follower: marked as due")
	}
	return page.Done, nil
}

func (f *Follower) changes(ctx context.Context, since int64, limit int) (orthanc.Changes, error) {
	if f.extended {
		return f.Orthanc.Changes(ctx, since, limit, newInstance)
	}
	return f.Orthanc.Changes(ctx, since, limit)
}

// anchors picks the page's last row: pages are spread over time, and so are the anchors.
func anchors(rows []orthanc.Change) []store.Anchor {
	if len(rows) == 0 {
		return nil
	}
	last := rows[len(rows)-1]
	return []store.Anchor{{Seq: last.Seq, ID: last.ID, Date: last.Date}}
}

// position returns the cursor, after making sure every now and then that Orthanc's database is still the one it belongs to.
func (f *Follower) position(ctx context.Context) (store.Cursor, error) {
	cursor, known, err := f.Marker.Store.Cursor(ctx)
	if err != nil {
		return cursor, err
	}
	if known && time.Since(f.verified) < verifyEvery {
		return cursor, nil
	}
	system, err := f.Orthanc.System(ctx)
	if err != nil {
		return cursor, err
	}
	f.extended = system.ExtendedChanges
	last, err := f.Orthanc.LastChange(ctx)
	if err != nil {
		return cursor, err
	}
	if !known {
		cursor = store.Cursor{Seq: last, Live: last}
		again, err := f.Marker.Store.FromBeginning(ctx)
		if err != nil {
			return cursor, err
		}
		if f.FromBeginning || again {
			cursor.Seq = 0
		}
		f.Log.Info().Int64("seq", cursor.Seq).Int64("live_after", last).Msg("follower: first start")
		f.verified = time.Now()
		return cursor, f.move(ctx, cursor)
	}
	reset, from, err := f.wasReset(ctx, cursor, last)
	if err != nil {
		return cursor, err
	}
	if reset {
		f.Log.Warn().Int64("cursor", cursor.Seq).Int64("from", from).Int64("last", last).
			Msg("follower: Orthanc's database was reset or restored; its changes are read again, labelled, and not forwarded")
		f.Metrics.FollowerReset()
		f.recent = nil
		cursor = store.Cursor{Seq: from, Live: last}
		err = f.move(ctx, cursor)
	}
	f.verified = time.Now()
	return cursor, err
}

func (f *Follower) move(ctx context.Context, c store.Cursor) error {
	return f.Marker.Store.Tx(ctx, func(tx *sql.Tx) error { return f.Marker.Store.ResetCursor(ctx, tx, c) })
}

// wasReset compares the anchors with the log. Rows vanish with their resources, so a missing one proves nothing: the newest that
// still has a row decides. After a reset, from is the newest anchor that both logs share, 0 when there is none.
func (f *Follower) wasReset(ctx context.Context, cursor store.Cursor, last int64) (reset bool, from int64, err error) {
	reset = last < cursor.Seq
	list, err := f.Marker.Store.Anchors(ctx)
	if err != nil {
		return false, 0, err
	}
	for _, a := range list {
		page, err := f.Orthanc.Changes(ctx, a.Seq-1, 1)
		if err != nil {
			return false, 0, fmt.Errorf("compare anchor %d: %w", a.Seq, err)
		}
		if len(page.Changes) == 0 || page.Changes[0].Seq != a.Seq {
			continue
		}
		if page.Changes[0].ID == a.ID && page.Changes[0].Date == a.Date {
			return reset, a.Seq, nil
		}
		reset = true
	}
	return reset, 0, nil
}

// late reads the last rows before the cursor again and returns those that were not there before. After a restart all of them look
// new; the stored files' names tell the known ones apart. Rows from before the first start or a reset do not count.
func (f *Follower) late(ctx context.Context, cursor store.Cursor) ([]orthanc.Change, error) {
	since := max(cursor.Live, cursor.Seq-f.Overlap)
	if since >= cursor.Seq {
		return nil, nil
	}
	page, err := f.changes(ctx, since, int(cursor.Seq-since))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(page.Changes, func(c orthanc.Change) bool {
		_, seen := f.recent[c.Seq]
		return seen || c.Seq > cursor.Seq || c.ChangeType != newInstance
	}), nil
}

func (f *Follower) remember(rows []orthanc.Change, seq int64) {
	if f.recent == nil {
		f.recent = map[int64]struct{}{}
	}
	for _, r := range rows {
		f.recent[r.Seq] = struct{}{}
	}
	if int64(len(f.recent)) > rememberedSeq*max(f.Overlap, 1) {
		for s := range f.recent {
			if s < seq-f.Overlap {
				delete(f.recent, s)
			}
		}
	}
}

// due returns the instances that want work: of a wanted SOP class and modality, and stored anew since the router last looked.
// Their descriptions come in bulk, so that a CT of 2,000 slices costs a handful of requests. others are the series, with their study, to which
// something new came that is not classified.
func (f *Follower) due(ctx context.Context, rows []orthanc.Change, cursor store.Cursor) (live, replay []string, others map[string]string, err error) {
	seq := make(map[string]int64, len(rows))
	ids := make([]string, 0, len(rows))
	for _, r := range rows {
		if _, twice := seq[r.ID]; !twice {
			ids = append(ids, r.ID)
		}
		seq[r.ID] = max(seq[r.ID], r.Seq)
	}
	known, err := f.Marker.Store.InstancesByID(ctx, ids)
	if err != nil {
		return nil, nil, nil, err
	}
	others = map[string]string{}
	for chunk := range slices.Chunk(ids, bulkContent) {
		instances, err := f.Orthanc.Instances(ctx, chunk)
		if err != nil {
			return nil, nil, nil, err
		}
		modalities, err := f.modalities(ctx, instances)
		if err != nil {
			return nil, nil, nil, err
		}
		for _, i := range instances {
			switch {
			case !f.Objects.Wanted(i.Metadata["SopClassUid"], modalities[i.ParentSeries]) || multiFrame(i):
				f.Metrics.Skipped(i.Metadata["SopClassUid"])
				if seq[i.ID] > cursor.Live {
					others[i.ParentSeries] = i.ParentStudy
				}
			case i.FileUUID != "" && known[i.ID].FileUUID == i.FileUUID && (known[i.ID].Forward || seq[i.ID] <= cursor.Seq):
				// The hook was faster, or this row was read before. What a sweep found first is due all the same: it forwards nothing.
			case seq[i.ID] > cursor.Live:
				live = append(live, i.ID)
			default:
				replay = append(replay, i.ID)
			}
		}
	}
	return live, replay, others, nil
}

// multiFrame says whether an instance holds more than one frame, as Orthanc's index knows it. Cine runs share their SOP class with
// single pictures and are no X-rays to be classified.
func multiFrame(i orthanc.Instance) bool { return Frames(i) > 1 }

// Frames returns the number of frames by Orthanc's index; 1 where it does not say.
func Frames(i orthanc.Instance) int {
	n, err := strconv.Atoi(strings.TrimSpace(i.MainDicomTags["NumberOfFrames"]))
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// modalities returns the modality of each series, only where the site filters by it.
func (f *Follower) modalities(ctx context.Context, instances []orthanc.Instance) (map[string]string, error) {
	if len(f.Objects.Modalities) == 0 {
		return nil, nil
	}
	var ids []string
	for _, i := range instances {
		ids = append(ids, i.ParentSeries)
	}
	slices.Sort(ids)
	series, err := f.Orthanc.SeriesMany(ctx, slices.Compact(ids))
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(series))
	for _, s := range series {
		out[s.ID] = s.Modality
	}
	return out, nil
}

// Wanted says whether instances of this SOP class and modality are to be classified. An unknown SOP class (Orthanc did not record
// it) is wanted: the classify job reads the file.
func (o Objects) Wanted(sopClass, modality string) bool {
	if sopClass != "" && !slices.Contains(o.SOPClasses, sopClass) {
		return false
	}
	return len(o.Modalities) == 0 || slices.Contains(o.Modalities, modality)
}
