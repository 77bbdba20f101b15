package routertest

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// client opens a connection for every request, so that none outlives a killed router.
var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Do makes a request with the router's token. The body is nil, []byte, or anything else to be sent as JSON.
func (r *Router) Do(ctx context.Context, method, path string, body any) (status int, answer []byte, err error) {
	return r.As(ctx, r.Token, method, path, body)
}

// As is Do with another token; "" sends none.
func (r *Router) As(ctx context.Context, token, method, path string, body any) (status int, answer []byte, err error) {
	var content []byte
	switch b := body.(type) {
	case nil:
	case []byte:
		content = b
	default:
		if content, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, r.URL+path, bytes.NewReader(content))
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }() // read only
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// Hook tells the router of stored instances, as Orthanc's hook does.
func (r *Router) Hook(ctx context.Context, ids ...string) error {
	list := make([]map[string]string, len(ids))
	for i, id := range ids {
		list[i] = map[string]string{"instance": id}
	}
	status, answer, err := r.Do(ctx, http.MethodPost, "/hooks/stored-instance", list)
	if err == nil && status != http.StatusAccepted {
		err = fmt.Errorf("routertest: hook: HTTP %d: %s", status, answer)
	}
	return err
}

// Metrics is one scrape: the value of each series, named as in the text, for example `imaging_router_forwarding`.
type Metrics map[string]float64

// Metrics scrapes the router.
func (r *Router) Metrics(ctx context.Context) (Metrics, error) {
	status, answer, err := r.Do(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("routertest: metrics: HTTP %d: %s", status, answer)
	}
	m := Metrics{}
	for line := range strings.Lines(string(answer)) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("routertest: metrics: %q: %w", line, err)
		}
		m[line[:at]] = v
	}
	return m, nil
}

// Sum adds up all series of one name (without the prefix imaging_router_) whose labels contain each of parts, such as `kind="classify"`.
func (m Metrics) Sum(name string, parts ...string) float64 {
	total := 0.0
series:
	for key, v := range m {
		base, labels, _ := strings.Cut(key, "{")
		if base != "imaging_router_"+name {
			continue
		}
		for _, p := range parts {
			if !strings.Contains(labels, p) {
				continue series
			}
		}
		total += v
	}
	return total
}

// Query reads one number from the router's database, by a read-only handle of its own.
func (r *Router) Query(ctx context.Context, query string, args ...any) (n int64, err error) {
	db, err := sql.Open("sqlite", r.readOnly())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.QueryRowContext(ctx, query, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("routertest: %s: %w", query, err)
	}
	return n, nil
}

// Rows reads rows of texts from the router's database, by a read-only handle of its own.
func (r *Router) Rows(ctx context.Context, query string, args ...any) (all [][]string, err error) {
	db, err := sql.Open("sqlite", r.readOnly())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("routertest: %s: %w", query, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		row, into := make([]string, len(columns)), make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, fmt.Errorf("routertest: %s: %w", query, err)
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

func (r *Router) readOnly() string {
	name := url.URL{Scheme: "file", Path: r.Database(), RawQuery: url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(10000)"}}.Encode()}
	return name.String()
}

// Bytes returns all that the router has written: its database with the journal beside it, and its log.
func (r *Router) Bytes() ([]byte, error) {
	var all []byte
	for _, path := range []string{r.Database(), r.Database() + "-wal", r.logFile()} {
		part, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		all = append(all, part...)
	}
	return all, nil
}

// Show returns the story of an instance as `jobs show` tells it.
func (r *Router) Show(ctx context.Context, id string) string {
	out, errs, _, err := r.Run(ctx, "jobs", "show", id)
	if err != nil {
		return err.Error()
	}
	return out + errs
}
