// Package intake learns that an instance was stored, from Orthanc's Lua hook (fast, may be lost) and from /changes (the guarantee),
// and marks it as due. It decides nothing about the instance: what work there is to do, the classify job finds out.
package intake

import (
	"context"
	"database/sql"

	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/store"
)

// Marker marks instances as due. The mark and the job that answers it are one local transaction; Orthanc is not called.
type Marker struct {
	Store *store.Store
	Queue *jobs.Queue
}

// Mark marks the instances as due. An instance that already waits or is being worked on gets no second job: its mark alone makes
// the running job start anew at its end.
func (m *Marker) Mark(ctx context.Context, source store.Source, ids ...string) error {
	return m.Store.Tx(ctx, func(tx *sql.Tx) error { return m.mark(ctx, tx, source, ids...) })
}

func (m *Marker) mark(ctx context.Context, tx *sql.Tx, source store.Source, ids ...string) error {
	priority := jobs.Live
	if !source.Forwards() {
		priority = jobs.Replay
	}
	for _, id := range ids {
		row, err := m.Store.Mark(ctx, tx, id, source)
		if err != nil {
			return err
		}
		if row.ClassifyJob != 0 {
			continue
		}
		job, err := m.Queue.Classify(ctx, tx, id, priority)
		if err != nil {
			return err
		}
		if err := m.Store.SetClassifyJob(ctx, tx, id, job); err != nil {
			return err
		}
	}
	return nil
}

// LateIn notes within tx that something came to a series and its study for which no wait begins by itself: rules that have sent the study as
// one, or wait for it, send it too. Most studies are of no interest to such rules, and then nothing happens.
func (m *Marker) LateIn(ctx context.Context, tx *sql.Tx, series, study string) error {
	waiting, err := m.Store.Late(ctx, tx, series, study)
	if err != nil {
		return err
	}
	begun := map[store.Level]bool{} // several rules wait for one resource by one job
	for _, g := range waiting {
		if begun[g.Level] {
			continue
		}
		begun[g.Level] = true
		job, err := m.Queue.Gather(ctx, tx, g.Level, g.ResourceID)
		if err != nil {
			return err
		}
		if err := m.Store.SetGatheringJob(ctx, tx, g.Level, g.ResourceID, job); err != nil {
			return err
		}
	}
	return nil
}
