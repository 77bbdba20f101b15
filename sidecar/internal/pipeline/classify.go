package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/riverqueue/river"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/intake"
	"imagingrouter/sidecar/internal/jobs"
	"imagingrouter/sidecar/internal/memory"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/picture"
	"imagingrouter/sidecar/internal/store"
)

// Classify finds out what work a due instance needs, looks at its picture where that content has no result yet, and commits the
// result together with the job that publishes it.
func (p *Pipeline) Classify(ctx context.Context, job *river.Job[jobs.Classify]) error {
	id := job.Args.Instance
	row, err := p.Store.Instance(ctx, id)
	if err != nil {
		return err
	}
	if row.Done >= row.Due { // nothing is due any more
		return p.Store.Tx(ctx, func(tx *sql.Tx) error {
			return errors.Join(p.Store.SetClassifyJob(ctx, tx, id, 0), jobs.Complete(ctx, tx, job))
		})
	}
	var known orthanc.Instance
	return p.guard(ctx, job.JobRow, id, func() error {
		inst, err := p.Orthanc.Instance(ctx, id)
		if orthanc.IsNotFound(err) {
			return p.missing(ctx, id)
		}
		if err != nil {
			return err
		}
		known = inst
		return p.classify(ctx, job, row, inst)
	}, func(e *ended) error { return endInstance(ctx, p, job, row, row.Due, known, e) })
}

func (p *Pipeline) classify(ctx context.Context, job *river.Job[jobs.Classify], row store.Instance, inst orthanc.Instance) error {
	began := time.Now()
	if err := p.wanted(ctx, inst); err != nil {
		return err
	}
	if inst.IsCopy() && p.Copies == config.CopiesSkip {
		return &ended{store.StateSkipped, "a copy made by modify or anonymise (intake.copies: skip)"}
	}
	sum, err := p.Orthanc.AttachmentMD5(ctx, inst.ID)
	if err != nil {
		return p.orMissing(ctx, inst.ID, err)
	}
	received, err := orthanc.ReceivedAt(inst)
	if err != nil {
		return err
	}
	result, known, err := p.Store.Result(ctx, inst.ID, sum, p.Classifier.Model().ID())
	if err != nil {
		return err
	}
	detail := "this content already had a result"
	if !known && inst.IsCopy() && p.Copies == config.CopiesInherit {
		if result, known, err = p.inherited(ctx, inst); err != nil {
			return err
		}
		result.ContentMD5 = sum
		detail = "the result of instance " + inst.IsCopyOf() + ", from which Orthanc made this copy"
	}
	if !known {
		if result, detail, err = p.look(ctx, job.Attempt, inst, sum); err != nil {
			return err
		}
		result.ContentMD5 = sum
		// The checksum and the file are two requests: an overwrite in between would put the new picture under the old content's name.
		if after, err := p.Orthanc.AttachmentMD5(ctx, inst.ID); err != nil {
			return p.orMissing(ctx, inst.ID, err)
		} else if after != sum {
			return jobs.Later(0)
		}
	}
	content := store.Content{SeriesID: inst.ParentSeries, StudyID: inst.ParentStudy, FileUUID: inst.FileUUID, MD5: sum, Model: result.Model, ReceivedAt: received}
	err = p.Store.Tx(ctx, func(tx *sql.Tx) error {
		if err := p.Store.PutResult(ctx, tx, result); err != nil {
			return err
		}
		after, err := p.Store.Classified(ctx, tx, inst.ID, row.Due, content)
		if err != nil {
			return err
		}
		if err := p.again(ctx, tx, after); err != nil {
			return err
		}
		if err := p.enqueuePublish(ctx, tx, after); err != nil {
			return err
		}
		if err := p.Store.AddEvent(ctx, tx, store.Event{InstanceID: inst.ID, Stage: job.Kind, Job: job.ID, Attempt: job.Attempt,
			Outcome: outcome(result), Detail: detail, Took: time.Since(began)}); err != nil {
			return err
		}
		return jobs.Complete(ctx, tx, job)
	})
	if err != nil {
		return err
	}
	if !known {
		p.Metrics.Result(string(result.Class), result.Review, result.Confidence)
	}
	p.Log.Info().Str("instance", inst.ID).Str("class", string(result.Class)).Float64("confidence", result.Confidence).Bool("review", result.Review).
		Bool("known", known).Int64("job", job.ID).Int("attempt", job.Attempt).Dur("took", time.Since(began)).Msg("classified")
	return nil
}

// inherited returns the result of the instance that Orthanc made this copy from, where the router has one by the model that serves.
func (p *Pipeline) inherited(ctx context.Context, inst orthanc.Instance) (bodypart.Result, bool, error) {
	source, err := p.Store.Instance(ctx, inst.IsCopyOf())
	if errors.Is(err, store.ErrUnknown) || err == nil && !source.HasResult() {
		return bodypart.Result{}, false, nil
	}
	if err != nil {
		return bodypart.Result{}, false, err
	}
	r, known, err := p.Store.Result(ctx, source.ID, source.ContentMD5, p.Classifier.Model().ID())
	r.InstanceID, r.ClassifiedAt = inst.ID, time.Now().UTC()
	return r, known, err
}

// enqueuePublish creates within tx the job that publishes, unless one waits or runs: that one notices at its end that it is late.
func (p *Pipeline) enqueuePublish(ctx context.Context, tx *sql.Tx, row store.Instance) error {
	if row.State != store.StateClassified || row.PublishJob != 0 {
		return nil
	}
	priority := jobs.Live
	if !row.Forward {
		priority = jobs.Replay
	}
	job, err := p.Queue.Publish(ctx, tx, row.ID, priority)
	if err != nil {
		return err
	}
	return p.Store.SetPublishJob(ctx, tx, row.ID, job)
}

// wanted ends instances that the site does not want classified, before any pixel is fetched.
func (p *Pipeline) wanted(ctx context.Context, inst orthanc.Instance) error {
	sop, modality := inst.Metadata["SopClassUid"], ""
	if n := intake.Frames(inst); n > 1 && p.Objects.Wanted(sop, modality) {
		p.Metrics.Skipped(sop)
		return &ended{store.StateSkipped, fmt.Sprintf("%d frames: single frames only are classified", n)}
	}
	if len(p.Objects.Modalities) > 0 {
		series, err := p.Orthanc.Series(ctx, inst.ParentSeries)
		if err != nil {
			return p.orMissing(ctx, inst.ID, err)
		}
		modality = series.Modality
	}
	if p.Objects.Wanted(sop, modality) {
		return nil
	}
	p.Metrics.Skipped(sop)
	return unwanted(sop, modality)
}

var (
	uidText      = regexp.MustCompile(`^[0-9.]{1,64}$`)
	modalityText = regexp.MustCompile(`^[A-Z0-9_]{1,16}$`)
)

// unwanted says why an instance is skipped. What a file gives for its class is text from a stranger, and a shifted element may hold a
// name: only what looks like a UID and a modality is repeated.
func unwanted(sop, modality string) *ended {
	if !uidText.MatchString(sop) {
		sop = "(not a UID)"
	}
	if modality == "" {
		return &ended{store.StateSkipped, "SOP class " + sop + ": not configured to be classified"}
	}
	if !modalityText.MatchString(modality) {
		modality = "(not a code)"
	}
	return &ended{store.StateSkipped, "SOP class " + sop + ", modality " + modality + ": not configured to be classified"}
}

func (p *Pipeline) orMissing(ctx context.Context, id string, err error) error {
	if orthanc.IsNotFound(err) {
		return p.missing(ctx, id)
	}
	return err
}

// look fetches the file, makes the picture and asks the network. sum is what Orthanc says of the file (orthanc.AttachmentMD5).
func (p *Pipeline) look(ctx context.Context, attempt int, inst orthanc.Instance, sum string) (r bodypart.Result, detail string, err error) {
	clock := newStages(p)
	pic, err := p.read(ctx, attempt, inst, sum, clock)
	if err != nil {
		return r, "", err
	}
	defer pic.Release()
	if sop := pic.Header.SOPClassUID; !p.Objects.Wanted(sop, pic.Header.Modality) { // where Orthanc had not recorded it
		p.Metrics.Skipped(sop)
		return r, "", unwanted(sop, pic.Header.Modality)
	}
	tensor := pic.Tensor(p.Classifier.Model().Spec())
	pic.Release() // now, and not at the end: its pixels serve the next picture; what it says of itself stays
	clock.next("picture")
	prediction, err := p.Classifier.Classify(ctx, tensor)
	if err != nil {
		return r, "", fmt.Errorf("classify instance %s: %w", inst.ID, err)
	}
	clock.next("network")
	r = bodypart.Result{
		Prediction: prediction, InstanceID: inst.ID, Model: p.Classifier.Model().ID(),
		Tag: bodypart.CompareTag(prediction.Class, pic.Header.BodyPartExamined), ClassifiedAt: time.Now().UTC(),
	}
	r.Review, r.Reasons = p.Policy.Decide(prediction, bodypart.Evidence{AgeYears: pic.Header.AgeYears, AgeKnown: pic.Header.AgeKnown, Blank: pic.Blank})
	return r, clock.String() + "; " + steps(pic), nil
}

// read fetches the file, whose checksum by Orthanc is sum, and decodes it here; what nothing here can decode is left to Orthanc where the site allows it and Orthanc survives it.
func (p *Pipeline) read(ctx context.Context, attempt int, inst orthanc.Instance, sum string, clock *stages) (*picture.Picture, error) {
	pic, err := p.fetchAndRead(ctx, inst, inst.FileSize, clock, func() ([]byte, error) {
		file, err := p.Orthanc.File(ctx, inst.ID)
		// A broken proxy may say something else with status 200: the picture must not count as unreadable for that.
		if err == nil && !orthanc.Matches(file, sum) {
			err = fmt.Errorf("fetch instance %s: what came (%d bytes) is not the file that Orthanc describes (MD5 %s)", inst.ID, len(file), sum)
		}
		return file, err
	})
	var fault *picture.Error
	if err == nil || !errors.As(err, &fault) {
		return pic, err
	}
	if fault.Temporary && attempt < p.DecodeTries {
		return nil, fmt.Errorf("decode instance %s: %w", inst.ID, err)
	}
	if fault.Kind == picture.Undecodable && p.Transcoder {
		return p.transcoded(ctx, inst, fault, clock)
	}
	return nil, unreadable(fault)
}

// fetchAndRead holds a file of so many bytes while it makes a picture of it.
func (p *Pipeline) fetchAndRead(ctx context.Context, inst orthanc.Instance, size int64, clock *stages, fetch func() ([]byte, error)) (*picture.Picture, error) {
	giveBack, err := p.Files.Take(ctx, size)
	var much *memory.TooMuch
	if errors.As(err, &much) {
		return nil, &ended{store.StateUnreadable, fmt.Sprintf("file of %d bytes: %v", size, much)}
	}
	if err != nil {
		return nil, err
	}
	defer giveBack()
	file, err := fetch()
	switch {
	case errors.Is(err, orthanc.ErrTooLarge):
		return nil, &ended{store.StateUnreadable, fmt.Sprintf("file of %d bytes is larger than picture.max_file", inst.FileSize)}
	case errors.Is(err, orthanc.ErrCannotTranscode):
		return nil, err
	case err != nil:
		return nil, p.orMissing(ctx, inst.ID, err)
	}
	clock.next("fetch")
	return p.Reader.Read(ctx, file)
}

const explicitLittleEndian = "1.2.840.10008.1.2.1"

func (p *Pipeline) transcoded(ctx context.Context, inst orthanc.Instance, fault *picture.Error, clock *stages) (*picture.Picture, error) {
	if deadly, err := p.transcodingKills(ctx, inst.Metadata["TransferSyntax"]); err != nil || deadly {
		if err == nil {
			err = &ended{store.StateUndecodable, fault.Reason + "; Orthanc was not asked: this version's GDCM plugin is known to die from it"}
		}
		return nil, err
	}
	// How large the decoded file will be is not known before it is there: nobody else holds one meanwhile.
	pic, err := p.fetchAndRead(ctx, inst, p.Files.Size(), clock, func() ([]byte, error) { return p.Orthanc.FileTranscoded(ctx, inst.ID, explicitLittleEndian) })
	if errors.Is(err, orthanc.ErrCannotTranscode) {
		return nil, &ended{store.StateUndecodable, fault.Reason + "; Orthanc cannot decode it either"}
	}
	if errors.As(err, &fault) {
		return nil, unreadable(fault)
	}
	return pic, err
}

// transcodingKills says whether this Orthanc is known to crash on decoding the syntax: before 1.13, the GDCM plugin did on every
// JPEG 2000 file that was tried (docs/architecture.md).
func (p *Pipeline) transcodingKills(ctx context.Context, syntax string) (bool, error) {
	if !strings.HasPrefix(syntax, "1.2.840.10008.1.2.4.9") {
		return false, nil
	}
	system, err := p.Orthanc.System(ctx)
	if err != nil || system.AtLeast(1, 13, 0) {
		return false, err
	}
	plugins, err := p.Orthanc.Plugins(ctx)
	return slices.Contains(plugins, "gdcm"), err
}

func unreadable(fault *picture.Error) *ended {
	if fault.Kind == picture.Undecodable {
		return &ended{store.StateUndecodable, fault.Reason}
	}
	return &ended{store.StateUnreadable, fault.Error()}
}

func outcome(r bodypart.Result) string {
	if r.Review {
		return fmt.Sprintf("review (%s %.3f)", r.Class, r.Confidence)
	}
	return fmt.Sprintf("%s %.3f", r.Class, r.Confidence)
}

func steps(pic *picture.Picture) string {
	parts := make([]string, 0, len(pic.Steps))
	for _, s := range pic.Steps {
		parts = append(parts, strings.TrimSpace(s.Name+" "+s.Detail))
	}
	return strings.Join(parts, ", ")
}

// stages measures the stages of one instance.
type stages struct {
	p     *Pipeline
	last  time.Time
	parts []string
}

func newStages(p *Pipeline) *stages { return &stages{p: p, last: time.Now()} }

func (s *stages) next(name string) {
	took := time.Since(s.last)
	s.p.Metrics.Stage(name, took)
	s.parts = append(s.parts, fmt.Sprintf("%s %.1f ms", name, float64(took.Microseconds())/1000))
	s.last = time.Now()
}

func (s *stages) String() string { return strings.Join(s.parts, ", ") }
