package store

import (
	"context"
	"strings"
	"time"
)

// Resource is something of Orthanc's that carries, or may carry, what the router wrote. Level is instances, series or studies.
type Resource struct{ Level, ID string }

func scanResource(row scanner) (r Resource, err error) {
	err = row.Scan(&r.Level, &r.ID)
	return r, err
}

// MarkedResources returns every resource that the router gave labels or a marker to: those of the ledger, whatever their state, and the
// series and studies of the instances that it knows.
func (s *Store) MarkedResources(ctx context.Context) ([]Resource, error) {
	return collect(ctx, s.read, scanResource, `SELECT level, resource_id FROM label
		UNION SELECT 'series', series_id FROM instance WHERE series_id <> ''
		UNION SELECT 'studies', study_id FROM instance WHERE study_id <> '' ORDER BY 1, 2`)
}

// LabelledOnly returns the series and studies of the ledger of which no instance is in the database any more: their stories were
// forgotten (database.keep), and what was written to their instances must be looked for in Orthanc.
func (s *Store) LabelledOnly(ctx context.Context) ([]Resource, error) {
	return collect(ctx, s.read, scanResource, `SELECT DISTINCT level, resource_id FROM label WHERE
		(level = 'series' AND resource_id NOT IN (SELECT series_id FROM instance)) OR
		(level = 'studies' AND resource_id NOT IN (SELECT study_id FROM instance)) OR
		(level = 'instances' AND resource_id NOT IN (SELECT id FROM instance)) ORDER BY 1, 2`)
}

// ClassifiedInstances returns the instances that have a result, and so may carry metadata of ours. Those up to the identifier after that
// ended before since are left out: an interrupted run has dealt with them.
func (s *Store) ClassifiedInstances(ctx context.Context, after string, since time.Time) ([]string, error) {
	return collect(ctx, s.read, scanText, `SELECT DISTINCT r.instance_id FROM result r LEFT JOIN instance i ON i.id = r.instance_id
		WHERE r.instance_id > ? OR coalesce(i.finished_at, 0) >= ? OR coalesce(i.finished_at, 0) = 0 ORDER BY 1`, after, toMillis(since))
}

// ClassesOf returns the classes that were ever recorded for an instance, over all its contents and models.
func (s *Store) ClassesOf(ctx context.Context, id string) ([]string, error) {
	return collect(ctx, s.read, scanText, "SELECT DISTINCT class FROM result WHERE instance_id = ?", id)
}

func scanText(row scanner) (text string, err error) {
	err = row.Scan(&text)
	return text, err
}

const settingUninstall = "uninstall"

// UninstallProgress returns when an interrupted removal began and up to which instance it came; zero values when there was none.
func (s *Store) UninstallProgress(ctx context.Context) (began time.Time, after string, err error) {
	value, _, ok, err := s.Setting(ctx, settingUninstall)
	if err != nil || !ok || value == "" {
		return time.Time{}, "", err
	}
	stamp, after, _ := strings.Cut(value, " ")
	if began, err = time.Parse(time.RFC3339Nano, stamp); err != nil {
		return time.Time{}, "", nil //nolint:nilerr // a progress that nobody understands is none: all is gone through again
	}
	return began, after, nil
}

// SetUninstallProgress notes how far a removal came; the zero time says that it has ended.
func (s *Store) SetUninstallProgress(ctx context.Context, began time.Time, after string) error {
	if began.IsZero() {
		return s.SetSetting(ctx, settingUninstall, "")
	}
	return s.SetSetting(ctx, settingUninstall, began.UTC().Format(time.RFC3339Nano)+" "+after)
}
