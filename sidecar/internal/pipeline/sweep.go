package pipeline

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// sweepPage is how many studies are compared with Orthanc at a time, and sweepGap the pause after each page: the sweep is slow on
// purpose, it must not be felt.
const (
	sweepPage = 50
	sweepGap  = 200 * time.Millisecond
)

// Swept is what a sweep found.
type Swept struct {
	Studies, Instances int // looked at
	Gone               int // instances deleted in Orthanc
	Changed            int // instances overwritten without our notice
	Requeued           int // open work whose job was lost
}

// Sweep compares what was published since the given time with Orthanc and repairs what no event told: deleted instances, files that
// were overwritten, labels that went missing with their study, jobs that were lost. What it marks is labelled, not forwarded.
func (p *Pipeline) Sweep(ctx context.Context, since time.Time) (Swept, error) {
	var s Swept
	err := p.Store.Tx(ctx, func(tx *sql.Tx) (err error) {
		s.Requeued, err = p.Queue.Repair(ctx, tx)
		return err
	})
	for after := ""; err == nil; {
		var page []store.Instance
		if page, err = p.Store.StudyInstances(ctx, after, since, sweepPage); err != nil || len(page) == 0 {
			break
		}
		if err = p.sweepPage(ctx, page, &s); err != nil {
			break
		}
		after = page[len(page)-1].StudyID
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(sweepGap):
		}
	}
	if err != nil {
		return s, fmt.Errorf("sweep: %w", err)
	}
	return s, nil
}

func (p *Pipeline) sweepPage(ctx context.Context, page []store.Instance, s *Swept) error {
	present, err := p.present(ctx, page)
	if err != nil {
		return err
	}
	if len(present) < len(page) { // never a single miss: ask again after a pause
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(p.GonePause):
		}
		if present, err = p.present(ctx, page); err != nil {
			return err
		}
	}
	type resource struct {
		level orthanc.Level
		id    string
	}
	seen := map[resource]bool{}
	for _, row := range page {
		s.Instances++
		if !seen[resource{orthanc.LevelStudy, row.StudyID}] {
			s.Studies++
		}
		for level, id := range map[orthanc.Level]string{orthanc.LevelStudy: row.StudyID, orthanc.LevelSeries: row.SeriesID, orthanc.LevelInstance: row.ID} {
			seen[resource{level, id}] = true
		}
		inst, there := present[row.ID]
		switch {
		case !there:
			s.Gone++
			delete(seen, resource{orthanc.LevelInstance, row.ID})
			if err := p.gone(ctx, row); err != nil {
				return err
			}
		case inst.FileUUID != row.FileUUID:
			s.Changed++
			if err := p.Marker.Mark(ctx, store.SourceSweep, row.ID); err != nil {
				return err
			}
		}
	}
	for r := range seen {
		if err := p.Publisher.Resource(ctx, r.level, r.id); err != nil && !orthanc.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func (p *Pipeline) present(ctx context.Context, page []store.Instance) (map[string]orthanc.Instance, error) {
	ids := make([]string, len(page))
	for i, row := range page {
		ids[i] = row.ID
	}
	return p.presentIDs(ctx, ids)
}

func (p *Pipeline) presentIDs(ctx context.Context, ids []string) (map[string]orthanc.Instance, error) {
	list, err := p.Orthanc.Instances(ctx, ids)
	if err != nil {
		return nil, err
	}
	present := make(map[string]orthanc.Instance, len(list))
	for _, i := range list {
		present[i.ID] = i
	}
	return present, nil
}

func (p *Pipeline) gone(ctx context.Context, row store.Instance) error {
	err := p.Store.Tx(ctx, func(tx *sql.Tx) error {
		if err := p.Store.Gone(ctx, tx, row.ID, "deleted in Orthanc"); err != nil {
			return err
		}
		return p.Store.AddEvent(ctx, tx, store.Event{InstanceID: row.ID, Stage: "sweep", Outcome: string(store.StateGone), Detail: "deleted in Orthanc"})
	})
	if err == nil {
		p.Metrics.Ended(string(store.StateGone))
	}
	return err
}

// RunSweeps sweeps every interval until ctx ends, and forgets what is older than keep (0 = never).
func (p *Pipeline) RunSweeps(ctx context.Context, interval, age, keep time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(jitter(interval)):
		}
		began := time.Now()
		s, err := p.Sweep(ctx, began.Add(-age))
		event := p.Log.Info()
		if err != nil && ctx.Err() == nil {
			event = p.Log.Warn().Err(err)
		}
		event.Int("studies", s.Studies).Int("instances", s.Instances).Int("gone", s.Gone).Int("changed", s.Changed).Int("requeued", s.Requeued).
			Dur("took", time.Since(began)).Msg("sweep ended")
		if keep > 0 {
			n, err := p.Store.Prune(ctx, time.Now().Add(-keep))
			if err != nil || n > 0 {
				p.Log.Info().Err(err).Int64("instances", n).Dur("keep", keep).Msg("old stories forgotten")
			}
		}
	}
}
