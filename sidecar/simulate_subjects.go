package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/classifier"
	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/facts"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/rules"
	"imagingrouter/sidecar/internal/store"
)

// subject is something that rules can decide about.
type subject struct {
	file, id string // one of them
	study    string
	context  rules.Context
	instance func(context.Context) (orthanc.Instance, error) // nil for files
	err      error                                           // why it cannot be decided
}

// subjects finds subjects, and opens what it needs for them on the way.
type subjects struct {
	config  *config.Config
	network *classifier.Classifier
	store   *store.Store
}

func (s *subjects) close() {
	if s.network != nil {
		_ = s.network.Close()
	}
	if s.store != nil {
		_ = s.store.Close()
	}
}

// load loads the network, once.
func (s *subjects) load() (err error) {
	if s.network == nil {
		s.network, err = classifier.Load(s.config.Model.Dir, classifier.Options{Library: s.config.Model.ONNXRuntime, Provider: s.config.Model.Provider, Threads: s.config.Model.Threads})
	}
	return err
}

// look classifies the content of a file.
func (s *subjects) look(ctx context.Context, content []byte) (bodypart.Result, rules.Tags, error) {
	if err := s.load(); err != nil {
		return bodypart.Result{}, rules.Tags{}, err
	}
	p, err := newReader(s.config, nil).Read(ctx, content)
	if err != nil {
		return bodypart.Result{}, rules.Tags{}, err
	}
	defer p.Release()
	prediction, err := s.network.Classify(ctx, p.Tensor(s.network.Model().Spec()))
	if err != nil {
		return bodypart.Result{}, rules.Tags{}, err
	}
	r := bodypart.Result{Prediction: prediction, Model: s.network.Model().ID(), Tag: bodypart.CompareTag(prediction.Class, p.Header.BodyPartExamined), ClassifiedAt: time.Now()}
	r.Review, r.Reasons = s.config.Policy(s.network.Model().Thresholds).Decide(prediction, bodypart.Evidence{AgeYears: p.Header.AgeYears, AgeKnown: p.Header.AgeKnown, Blank: p.Blank})
	tags := rules.Tags{Values: facts.FileTags(content, p.Header), AgeYears: p.Header.AgeYears, AgeKnown: p.Header.AgeKnown}
	return r, tags, nil
}

// ofFiles looks at all files before the first is decided: a rule may ask for the whole study.
func (s *subjects) ofFiles(ctx context.Context, args []string, stdin io.Reader, each func(subject) error) error {
	files, err := listFiles(args)
	if err != nil {
		return err
	}
	if err := s.load(); err != nil {
		return err
	}
	source := judge{maxFile: int64(s.config.Picture.MaxFile), stdin: stdin}
	var found []subject
	studies, numbers := map[string]*rules.Study{}, map[string]string{}
	for _, file := range files {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		sub := subject{file: file}
		content, err := source.content(file)
		var r bodypart.Result
		var tags rules.Tags
		if err == nil {
			r, tags, err = s.look(ctx, content)
		}
		if err != nil {
			sub.err = err
			found = append(found, sub)
			continue
		}
		uid := tags.Values["StudyInstanceUID"]
		if uid == "" {
			uid = file
		}
		if studies[uid] == nil {
			studies[uid], numbers[uid] = &rules.Study{}, strconv.Itoa(len(studies)+1)
		}
		study := studies[uid]
		study.Instances++
		study.Classes = append(study.Classes, facts.Certain([]bodypart.Result{r})...)
		sub.study = numbers[uid]
		sub.context = rules.Context{
			Class: r.Class, Confidence: r.Confidence, Probabilities: r.Probabilities, Review: r.Review, Agrees: r.Tag == bodypart.TagAgrees,
			Tags:  func(context.Context) (rules.Tags, error) { return tags, nil },
			Study: func(context.Context) (rules.Study, error) { return *study, nil },
		}
		found = append(found, sub)
	}
	for _, sub := range found {
		if err := each(sub); err != nil {
			return err
		}
	}
	return nil
}

// newest takes the newest results of the database.
func (s *subjects) newest(ctx context.Context, n int, each func(subject) error) error {
	client, err := s.open(ctx)
	if err != nil {
		return err
	}
	rows, err := s.store.Instances(ctx, store.Filter{States: []store.State{store.StateDue, store.StateClassified, store.StatePublished}, HasResult: true, Limit: n})
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return errors.New("the database holds no result yet")
	}
	for _, row := range rows {
		if err := s.ofRow(ctx, client, row, each); err != nil {
			return err
		}
	}
	return nil
}

// ofStudy takes one study as Orthanc has it.
func (s *subjects) ofStudy(ctx context.Context, id string, each func(subject) error) error {
	client, err := s.open(ctx)
	if err != nil {
		return err
	}
	study, err := client.Study(ctx, id)
	if err != nil {
		return fmt.Errorf("study %s: %w", id, err)
	}
	series, err := client.SeriesMany(ctx, study.Series)
	if err != nil {
		return fmt.Errorf("study %s: %w", id, err)
	}
	for _, one := range series {
		for _, instance := range one.Instances {
			row, err := s.store.Instance(ctx, instance)
			if errors.Is(err, store.ErrUnknown) {
				row, err = store.Instance{ID: instance, SeriesID: one.ID, StudyID: id}, nil
			}
			if err != nil {
				return err
			}
			if err := s.ofRow(ctx, client, row, each); err != nil {
				return err
			}
		}
	}
	return nil
}

// open opens the database and the client of Orthanc.
func (s *subjects) open(ctx context.Context) (*orthanc.Client, error) {
	if _, err := os.Stat(s.config.Database.Path); err != nil {
		return nil, fmt.Errorf("there is no database yet at database.path: %w (it comes with the first `imaging-router serve`)", err)
	}
	var err error
	if s.store, err = store.Open(ctx, s.config.Database.Path); err != nil {
		return nil, err
	}
	return newOrthanc(s.config)
}

func (s *subjects) ofRow(ctx context.Context, client *orthanc.Client, row store.Instance, each func(subject) error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	sub := subject{id: row.ID, study: row.StudyID}
	r, known, err := s.store.Result(ctx, row.ID, row.ContentMD5, row.Model)
	if err != nil {
		return err
	}
	if !known || !row.HasResult() {
		content, err := client.File(ctx, row.ID)
		if err == nil {
			r, _, err = s.look(ctx, content)
		}
		if sub.err = err; err != nil {
			return each(sub)
		}
	}
	instance := sync.OnceValues(func() (orthanc.Instance, error) { return client.Instance(ctx, row.ID) })
	sub.instance = func(context.Context) (orthanc.Instance, error) { return instance() }
	sub.context = facts.Source{Orthanc: client, Store: s.store}.Of(row, nil, r)
	sub.context.Now = r.ClassifiedAt
	sub.context.Tags = once(ctx, sub.context.Tags)
	sub.context.Study = once(ctx, sub.context.Study)
	sub.context.Arrival = once(ctx, sub.context.Arrival)
	return each(sub)
}

// once fetches at most once, for two sets of rules that ask for the same.
func once[T any](ctx context.Context, fetch func(context.Context) (T, error)) func(context.Context) (T, error) {
	kept := sync.OnceValues(func() (T, error) { return fetch(ctx) })
	return func(context.Context) (T, error) { return kept() }
}
