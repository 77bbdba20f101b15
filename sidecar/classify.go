package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/classifier"
	"imagingrouter/sidecar/internal/config"
	"imagingrouter/sidecar/internal/logging"
	"imagingrouter/sidecar/internal/picture"
)

// standardInput is the name of standard input on the command line and in results.
const standardInput = "-"

func newClassifyCommand() *cobra.Command {
	var format, modelDir string
	cmd := &cobra.Command{
		Use:   "classify FILE|DIR|- ...",
		Short: "Classify X-ray files; no Orthanc is needed",
		Long: `Classifies DICOM files, PNG and JPEG pictures, and all files under directories (hidden ones and DICOMDIR left out); "-" reads one
file from standard input. Uses the model, the limits and the review policy of the configuration, or their defaults without one.

Exit status: 0 when every file could be read, 1 when some could not, 2 when the command line was wrong.`,
		Example: `  imaging-router classify chest.dcm
  imaging-router classify --format csv /data/xrays > result.csv
  curl -s http://localhost:8042/instances/$ID/file | imaging-router classify --format json -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("classify needs a file, a directory or -")
			}
			if !slices.Contains(resultFormats, format) {
				return fmt.Errorf("unknown format %q (known: %s)", format, strings.Join(resultFormats, ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return classify(cmd, args, format, modelDir) },
	}
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table, json (one object a line) or csv")
	cmd.Flags().StringVarP(&modelDir, "model", "m", "", "model folder (default: the configuration's model.dir)")
	return cmd
}

func classify(cmd *cobra.Command, args []string, format, modelDir string) error {
	c, err := toolConfig(cmd)
	if err != nil {
		return err
	}
	if modelDir != "" {
		c.Model.Dir = modelDir
	}
	files, err := listFiles(args)
	if err != nil {
		return err
	}
	workers := min(runtime.GOMAXPROCS(0), len(files))
	threads := c.Model.Threads
	if threads == 0 {
		// Together the workers use every core once.
		threads = max(1, runtime.GOMAXPROCS(0)/workers)
	}
	network, err := classifier.Load(c.Model.Dir, classifier.Options{Library: c.Model.ONNXRuntime, Provider: c.Model.Provider, Threads: threads,
		FellBack: func(from, to string, cause error) {
			fmt.Fprintf(cmd.ErrOrStderr(), "imaging-router: provider %s does not work, %s takes its place: %v\n", from, to, cause)
		}})
	if err != nil {
		return err
	}
	j := judge{
		reader:  newReader(c, nil),
		network: network,
		policy:  c.Policy(network.Model().Thresholds),
		maxFile: int64(c.Picture.MaxFile),
		stdin:   cmd.InOrStdin(),
	}
	err = j.all(cmd.Context(), files, workers, newResultWriter(format, cmd.OutOrStdout(), files), progressOf(cmd, len(files)), cmd.ErrOrStderr(), format)
	return errors.Join(err, network.Close())
}

// listFiles replaces directories by the files under them, in lexical order. What does not exist stays in the list, so that it
// is reported like any other file that cannot be read.
func listFiles(args []string) ([]string, error) {
	var files []string
	for _, arg := range args {
		stat, err := os.Stat(arg)
		if arg == standardInput || err != nil || !stat.IsDir() {
			files = append(files, arg)
			continue
		}
		before := len(files)
		err = filepath.WalkDir(arg, func(path string, entry fs.DirEntry, err error) error {
			hiddenName := path != arg && strings.HasPrefix(entry.Name(), ".")
			switch {
			case err != nil:
				files = append(files, path)
				return nil //nolint:nilerr // one folder that cannot be read is reported like a file that cannot
			case entry.IsDir() && hiddenName:
				return filepath.SkipDir
			case entry.IsDir(), hiddenName, entry.Name() == "DICOMDIR":
				return nil
			}
			// A pipe or a device among the files would be waited for without end.
			if stat, err := os.Stat(path); err != nil || stat.Mode().IsRegular() {
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", arg, err)
		}
		if len(files) == before {
			return nil, fmt.Errorf("%s holds no files", arg)
		}
	}
	if i := slices.Index(files, standardInput); i >= 0 && slices.Contains(files[i+1:], standardInput) {
		return nil, errors.New("standard input (-) can be read only once")
	}
	return files, nil
}

// judge says what files show.
type judge struct {
	reader  *picture.Reader
	network *classifier.Classifier
	policy  bodypart.Policy
	maxFile int64 // bytes
	stdin   io.Reader
}

// all judges the files with several workers and writes the results in the order of the files, each as soon as it can be.
func (j judge) all(ctx context.Context, files []string, workers int, w resultWriter, progress func(done int), stderr io.Writer, format string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type pending chan fileResult
	queue := make(chan pending, workers) // bounds how far the workers run ahead of the output
	go func() {
		defer close(queue)
		slots := make(chan struct{}, workers)
		for _, file := range files {
			p := make(pending, 1)
			select {
			case queue <- p:
			case <-ctx.Done():
				return
			}
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				p <- j.one(ctx, file)
			}()
		}
	}()
	done, review, failed := 0, 0, 0
	for p := range queue {
		var r fileResult
		select {
		case r = <-p:
		case <-ctx.Done(): // a read of standard input does not end by itself
		}
		if ctx.Err() != nil {
			continue // the file was not judged, it was interrupted
		}
		done++
		switch {
		case r.Error != "":
			failed++
		case *r.Review:
			review++
		}
		if err := w.write(r); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
		progress(done)
	}
	if err := w.close(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	if format == "table" {
		fmt.Fprintf(stderr, "%d files: %d classified (%d of them for review), %d could not be read; model %s\n",
			done, done-failed, review, failed, j.network.Model().ID())
	}
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted after %d of %d files", done, len(files))
	}
	if failed > 0 {
		return errSilent
	}
	return nil
}

func (j judge) one(ctx context.Context, file string) fileResult {
	content, err := j.content(file)
	if err != nil {
		return fileResult{File: file, Error: err.Error()}
	}
	p, err := j.reader.Read(ctx, content)
	if err != nil {
		return fileResult{File: file, Error: err.Error()}
	}
	model := j.network.Model()
	prediction, err := j.network.Classify(ctx, p.Tensor(model.Spec()))
	if err != nil {
		return fileResult{File: file, Error: err.Error()}
	}
	review, reasons := j.policy.Decide(prediction, bodypart.Evidence{AgeYears: p.Header.AgeYears, AgeKnown: p.Header.AgeKnown, Blank: p.Blank})
	return newFileResult(file, model.ID(), prediction, review, reasons)
}

// content reads a file, and no more of it than the configuration allows.
func (j judge) content(file string) ([]byte, error) {
	source := j.stdin
	if file != standardInput {
		f, err := os.Open(file)
		if err != nil {
			return nil, withoutPath(err)
		}
		defer func() { _ = f.Close() }() // it was only read
		source = f
	}
	content, err := io.ReadAll(io.LimitReader(source, j.maxFile+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if int64(len(content)) > j.maxFile {
		return nil, &picture.Error{Kind: picture.TooLarge, Reason: fmt.Sprintf("the file is larger than picture.max_file (%s)", config.ByteSize(j.maxFile))}
	}
	return content, nil
}

// withoutPath drops the name of the file, which stands beside the error already.
func withoutPath(err error) error {
	var wrong *fs.PathError
	if errors.As(err, &wrong) {
		return fmt.Errorf("cannot be read: %w", wrong.Err)
	}
	return err
}

// progressOf shows how far it is where a person waits and the results go elsewhere.
func progressOf(cmd *cobra.Command, total int) func(done int) {
	stderr := cmd.ErrOrStderr()
	if total < 2 || !logging.IsTerminal(stderr) || logging.IsTerminal(cmd.OutOrStdout()) {
		return func(int) {}
	}
	return func(done int) {
		end := "\r"
		if done == total {
			end = "\n"
		}
		fmt.Fprintf(stderr, "%d of %d files%s", done, total, end)
	}
}
