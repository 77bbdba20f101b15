package routertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// moments are the columns of the router's tables that hold times, in Unix milliseconds.
var moments = map[string][]string{
	"delivery":  {"received_at", "created_at", "since", "submitted_at", "finished_at", "not_before"},
	"gathering": {"opened_at", "changed_at", "decided_at"},
	"instance":  {"received_at", "first_marked", "marked_at", "finished_at"},
	"setting":   {"changed_at"},
	"event":     {"at"},
	"label":     {"changed_at"},
	"result":    {"classified_at"},
}

// ShiftClock moves all times in the database of a stopped router, as if they had been written by a clock that was ahead by so much (behind, when
// negative) and has been set right since.
func (r *Router) ShiftClock(ctx context.Context, by time.Duration) (err error) {
	db, err := sql.Open("sqlite", r.Database())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for table, columns := range moments {
		for _, column := range columns {
			if _, err := db.ExecContext(ctx, fmt.Sprintf("UPDATE %s SET %s = %s + ? WHERE %s > 0", table, column, column, column), by.Milliseconds()); err != nil {
				return fmt.Errorf("routertest: shift %s.%s: %w", table, column, err)
			}
		}
	}
	for _, column := range []string{"scheduled_at", "created_at", "attempted_at", "finalized_at"} {
		_, err := db.ExecContext(ctx, fmt.Sprintf("UPDATE river_job SET %s = strftime('%%Y-%%m-%%d %%H:%%M:%%f', %s, ?) WHERE %s IS NOT NULL", column, column, column),
			fmt.Sprintf("%+.0f seconds", by.Seconds()))
		if err != nil {
			return fmt.Errorf("routertest: shift river_job.%s: %w", column, err)
		}
	}
	return nil
}
