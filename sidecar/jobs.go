package main

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/intake"
	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

func newJobsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "See what waits, what failed and why, and take it up again",
		Long: `Shows and repeats the router's work. It works beside a running router.

An instance is due (marked, waits for its classification), classified (waits for its labels), published, or at an end with a reason:
skipped, undecodable, unreadable, gone, failed. A delivery is held, pending, submitting, sent, or at an end: delivered, expired,
cancelled, gone, failed; "imaging-router deliveries" says and does more about them.`,
		Example: `  imaging-router jobs list
  imaging-router jobs list --state failed,undecodable
  imaging-router jobs show 4165f4f4-d4d56c1c-0b4d3ae3-2ee2bd62-5c0cf2f3
  imaging-router jobs retry --state failed`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newJobsListCommand(), newJobsShowCommand(), newJobsRetryCommand())
	return cmd
}

// selection is what the flags of list and retry choose.
type selection struct {
	states      []string
	reason      string
	destination string
	limit       int
	asJSON      bool
}

// split sorts the state names into those of instances and those of deliveries; a name of both (gone, failed) means both.
func (s selection) split() (instances []store.State, deliveries []store.DeliveryState, err error) {
	for _, name := range s.states {
		known := false
		if slices.Contains(store.States(), store.State(name)) {
			instances, known = append(instances, store.State(name)), true
		}
		if slices.Contains(store.DeliveryStates(), store.DeliveryState(name)) {
			deliveries, known = append(deliveries, store.DeliveryState(name)), true
		}
		if !known {
			return nil, nil, fmt.Errorf("unknown state %q (instances: %s; deliveries: %s)", name, join(store.States()), join(store.DeliveryStates()))
		}
	}
	return instances, deliveries, nil
}

func join[T ~string](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = string(v)
	}
	return strings.Join(words, ", ")
}

func newJobsListCommand() *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List open and failed work; newest first",
		Example: `  imaging-router jobs list
  imaging-router jobs list --state published --limit 20
  imaging-router jobs list --destination chest-ai --state pending,failed --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, db, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = db.Close() }()
			return listJobs(cmd.Context(), cmd.OutOrStdout(), db, s)
		},
	}
	s.flags(cmd, []string{"due", "classified", "undecodable", "unreadable", "failed", "pending", "submitting", "sent", "expired"})
	cmd.Flags().IntVar(&s.limit, "limit", 100, "most rows of each kind; 0 = all")
	cmd.Flags().BoolVar(&s.asJSON, "json", false, "one JSON object a line")
	return cmd
}

func (s *selection) flags(cmd *cobra.Command, states []string) {
	cmd.Flags().StringSliceVar(&s.states, "state", states, "states, comma-separated")
	cmd.Flags().StringVar(&s.reason, "reason", "", "only instances whose reason or last error contains this, or whose state it is")
	cmd.Flags().StringVar(&s.destination, "destination", "", "only deliveries to this destination")
}

func listJobs(ctx context.Context, w io.Writer, db *store.Store, s selection) error {
	states, deliveryStates, err := s.split()
	if err != nil {
		return err
	}
	var instances []store.Instance
	if len(states) > 0 && s.destination == "" {
		if instances, err = db.Instances(ctx, store.Filter{States: states, Reason: s.reason, Limit: s.limit}); err != nil {
			return err
		}
	}
	var deliveries []store.Delivery
	if len(deliveryStates) > 0 && s.reason == "" {
		if deliveries, err = db.Deliveries(ctx, store.DeliveryFilter{States: deliveryStates, Destination: s.destination, Limit: s.limit}); err != nil {
			return err
		}
	}
	if s.asJSON {
		encoder := json.NewEncoder(w)
		for _, i := range instances {
			if err := encoder.Encode(instanceJSON(i)); err != nil {
				return err
			}
		}
		for _, d := range deliveries {
			if err := encoder.Encode(deliveryJSON(d)); err != nil {
				return err
			}
		}
		return nil
	}
	counts, err := db.Counts(ctx)
	if err != nil {
		return err
	}
	var words []string
	for _, st := range store.States() {
		if counts[st] > 0 {
			words = append(words, fmt.Sprintf("%d %s", counts[st], st))
		}
	}
	fmt.Fprintf(w, "instances: %s\n", orDefault(strings.Join(words, ", "), "none yet"))
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	if len(instances) > 0 {
		fmt.Fprintln(table, "\nINSTANCE\tSTATE\tMARKED\tBY\tREASON")
	}
	for _, i := range instances {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", i.ID, i.State, clock(i.MarkedAt), i.Source, orDefault(i.Reason, i.LastError))
	}
	if len(deliveries) > 0 {
		fmt.Fprintln(table, "\nDELIVERY\tOF\tTO\tSTATE\tCREATED\tATTEMPTS\tREASON")
	}
	for _, d := range deliveries {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", d.ID, d.Subject(), route(d), d.State, clock(d.CreatedAt), d.Attempts, orDefault(d.Reason, d.LastError))
	}
	return table.Flush()
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func instanceJSON(i store.Instance) map[string]any {
	return map[string]any{
		"kind": "instance", "instance": i.ID, "state": i.State, "reason": i.Reason, "last_error": i.LastError, "source": i.Source, "forward": i.Forward,
		"study": i.StudyID, "series": i.SeriesID, "model": i.Model, "received_at": stamp(i.ReceivedAt), "marked_at": stamp(i.MarkedAt), "finished_at": stamp(i.FinishedAt),
	}
}

func deliveryJSON(d store.Delivery) map[string]any {
	return map[string]any{
		"kind": "delivery", "delivery": d.ID, "level": d.Level.One(), d.Level.One(): d.ResourceID, "study": d.StudyID, "instances": d.Instances,
		"destination": d.Destination, "via": d.Via, "rule": d.Rule, "state": d.State, "reason": d.Reason,
		"last_error": d.LastError, "attempts": d.Attempts, "orthanc_job": d.OrthancJob, "created_at": stamp(d.CreatedAt), "finished_at": stamp(d.FinishedAt),
	}
}

func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func newJobsShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show INSTANCE|DELIVERY",
		Short:   "Tell the whole story of one instance",
		Example: "  imaging-router jobs show 4165f4f4-d4d56c1c-0b4d3ae3-2ee2bd62-5c0cf2f3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, db, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = db.Close() }()
			id := args[0]
			if !orthanc.ValidID(id) {
				d, err := db.Delivery(cmd.Context(), id)
				if err != nil {
					return fmt.Errorf("%w (an instance is named by Orthanc's identifier, a delivery by its own)", err)
				}
				items, err := db.Items(cmd.Context(), d.ID)
				if err != nil {
					return err
				}
				if len(items) != 1 {
					return fmt.Errorf("delivery %s holds %d instances: imaging-router deliveries show %s", d.ID, len(items), d.ID)
				}
				id = items[0].InstanceID
			}
			return showInstance(cmd.Context(), cmd.OutOrStdout(), db, id)
		},
	}
}

func showInstance(ctx context.Context, w io.Writer, db *store.Store, id string) error {
	i, err := db.Instance(ctx, id)
	if err != nil {
		return err
	}
	events, err := db.Events(ctx, id)
	if err != nil {
		return err
	}
	deliveries, err := db.Deliveries(ctx, store.DeliveryFilter{InstanceID: id})
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(table, "instance\t%s\nseries\t%s\nstudy\t%s\nstate\t%s\t%s\n", i.ID, orDefault(i.SeriesID, "-"), orDefault(i.StudyID, "-"), i.State, i.Reason)
	fmt.Fprintf(table, "received\t%s\nmarked\t%s\tby %s, forwards: %t\nfinished\t%s\n", clock(i.ReceivedAt), clock(i.MarkedAt), i.Source, i.Forward, clock(i.FinishedAt))
	if i.LastError != "" {
		fmt.Fprintf(table, "last error\t%s\n", i.LastError)
	}
	if r, ok, err := db.Result(ctx, id, i.ContentMD5, i.Model); err != nil {
		return err
	} else if ok {
		fmt.Fprintf(table, "result\t%s\tconfidence %.4f, review %t %v, tag %s, %s\n", r.Class, r.Confidence, r.Review, r.Reasons, r.Tag, r.Model)
		for _, c := range bodypart.Classes() {
			fmt.Fprintf(table, "\t%s\t%.4f\n", c, r.Probabilities[c])
		}
	}
	for _, d := range deliveries {
		fmt.Fprintf(table, "delivery\t%s\tto %s by rule %q: %s, %d attempts %s\n", d.ID, route(d), d.Rule, d.State, d.Attempts, orDefault(d.Reason, d.LastError))
	}
	fmt.Fprintln(table, "\nTIME\tSTAGE\tJOB\tATTEMPT\tTOOK\tWHAT")
	for _, e := range events {
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\n", clock(e.At), e.Stage, e.Job, e.Attempt, e.Took.Round(time.Millisecond), strings.TrimSpace(e.Outcome+"  "+e.Detail))
	}
	return table.Flush()
}

func newJobsRetryCommand() *cobra.Command {
	var s selection
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "retry [INSTANCE|DELIVERY ...]",
		Short: "Take up instances and deliveries that had come to an end",
		Long: `Marks instances as due again, and reopens deliveries. Without names it takes all that the flags select; at least one of --state,
--reason or --destination must then be given, and --reason alone looks among what is undecodable, unreadable or failed. It says first how
many there are, by reason; with --dry-run it stops there. An instance is forwarded only if it was meant to be when it arrived, is still within
forwarding.route_max_age, and was not delivered before.`,
		Example: `  imaging-router jobs retry 4165f4f4-d4d56c1c-0b4d3ae3-2ee2bd62-5c0cf2f3
  imaging-router jobs retry --reason undecodable --dry-run
  imaging-router jobs retry --reason "JPEG 2000"
  imaging-router jobs retry --destination spine-ai --state failed`,
		RunE: func(cmd *cobra.Command, args []string) error {
			selected := cmd.Flags().Changed("state") || s.reason != "" || s.destination != ""
			if len(args) == 0 && !selected {
				return errors.New("jobs retry needs names, or --state, --reason or --destination")
			}
			if s.reason != "" && s.destination != "" {
				return errors.New("--reason selects instances and --destination deliveries: give one of them")
			}
			if s.reason != "" && !cmd.Flags().Changed("state") {
				s.states = []string{string(store.StateUndecodable), string(store.StateUnreadable), string(store.StateFailed)}
			}
			c, db, err := openDatabase(cmd)
			if err != nil {
				return err
			}
			defer func() { _ = db.Close() }()
			chosen, deliveries, err := s.choose(cmd.Context(), db, args)
			if err != nil {
				return err
			}
			if err := showChosen(cmd.OutOrStdout(), chosen, deliveries); err != nil || dryRun {
				return err
			}
			instances := make([]string, len(chosen))
			for i, row := range chosen {
				instances[i] = row.ID
			}
			queue, err := openQueue(cmd.Context(), cmd, c, db)
			if err != nil {
				return err
			}
			marker := &intake.Marker{Store: db, Queue: queue}
			for chunk := range slices.Chunk(instances, 500) { // short transactions: a running router writes too
				if err := marker.Mark(cmd.Context(), store.SourceCommand, chunk...); err != nil {
					return err
				}
			}
			return reopen(cmd.Context(), db, queue, deliveries)
		},
	}
	s.flags(cmd, []string{"failed"})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only count")
	return cmd
}

// choose returns what retry works on: the named ones, or all that the flags select and that have come to an end without success.
func (s selection) choose(ctx context.Context, db *store.Store, names []string) (instances []store.Instance, deliveries []store.Delivery, err error) {
	for _, name := range names {
		if orthanc.ValidID(name) {
			i, err := db.Instance(ctx, name)
			if err != nil {
				return nil, nil, err
			}
			instances = append(instances, i)
			continue
		}
		d, err := db.Delivery(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		if !slices.Contains(deadLetters, d.State) {
			return nil, nil, fmt.Errorf("delivery %s is %s: there is nothing to take up", d.ID, d.State)
		}
		deliveries = append(deliveries, d)
	}
	if len(names) > 0 {
		return instances, deliveries, nil
	}
	states, deliveryStates, err := s.split()
	if err != nil {
		return nil, nil, err
	}
	if s.destination == "" && len(states) > 0 {
		if instances, err = db.Instances(ctx, store.Filter{States: states, Reason: s.reason}); err != nil {
			return nil, nil, err
		}
	}
	if s.reason == "" && len(deliveryStates) > 0 {
		list, err := db.Deliveries(ctx, store.DeliveryFilter{States: deliveryStates, Destination: s.destination})
		if err != nil {
			return nil, nil, err
		}
		for _, d := range list {
			if slices.Contains(deadLetters, d.State) {
				deliveries = append(deliveries, d)
			}
		}
	}
	return instances, deliveries, nil
}

// mostReasons is how many reasons are shown with their counts.
const mostReasons = 20

// showChosen says how much retry is about to take up, and for what reasons it had ended.
func showChosen(w io.Writer, instances []store.Instance, deliveries []store.Delivery) error {
	counts := map[string]int{}
	for _, i := range instances {
		counts[strings.TrimSuffix(string(i.State)+": "+i.Reason, ": ")]++
	}
	for _, d := range deliveries {
		counts["delivery to "+d.To()+" "+string(d.State)]++
	}
	reasons := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(counts[b]-counts[a], strings.Compare(a, b)) })
	fmt.Fprintf(w, "%d instances, %d deliveries\n", len(instances), len(deliveries))
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, reason := range reasons[:min(len(reasons), mostReasons)] {
		fmt.Fprintf(table, "  %d\t%s\n", counts[reason], reason)
	}
	if more := len(reasons) - mostReasons; more > 0 {
		fmt.Fprintf(table, "  \tand for %d more reasons\n", more)
	}
	return table.Flush()
}

func reopen(ctx context.Context, db *store.Store, queue *jobs.Queue, deliveries []store.Delivery) error {
	for _, d := range deliveries {
		err := db.Tx(ctx, func(tx *sql.Tx) error {
			if err := db.ReopenDelivery(ctx, tx, d.ID); err != nil {
				return err
			}
			job, err := queue.Deliver(ctx, tx, d.ID, d.To(), jobs.Priority(d.Priority), time.Time{})
			if err != nil {
				return err
			}
			return db.SetDeliveryJob(ctx, tx, d.ID, job)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
