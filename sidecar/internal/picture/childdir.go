package picture

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	watchEvery = 100 * time.Millisecond
	maxFiles   = 64 // that a decoder may have at a time; a picture has one for each component
)

// watchDirectory calls flood once when the files of a decoder's directory hold more than limit bytes together, or are too many: the
// limit that a process has is one on each file. Between two looks a decoder may write on. The channel is closed when ctx has ended.
func watchDirectory(ctx context.Context, dir string, limit int64, flood func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(watchEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if floods(dir, limit) {
					flood()
					return
				}
			}
		}
	}()
	return done
}

var errFlood = errors.New("too much")

// floods also says yes to what cannot be looked into: no decoder makes a directory that is closed, or deeper than a path is long.
func floods(dir string, limit int64) bool {
	files, bytes := 0, int64(0)
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				files, bytes = files+1, bytes+info.Size()
			}
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone since
			return nil
		case err != nil:
			return err
		case files > maxFiles || bytes > limit:
			return errFlood
		}
		return nil
	})
	return err != nil
}

// removeAll removes a decoder's directory, whatever permissions the decoder gave to what is inside.
func removeAll(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	// Opened from the top down: WalkDir calls before it reads a directory, and goes on where it cannot.
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_ = os.Chmod(path, 0o700) //nolint:gosec // a directory that is about to go
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}
