package delivery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"imagingrouter/sidecar/internal/delivery/layout"
	"imagingrouter/sidecar/internal/orthanc"
)

// Folder writes DICOM files into a folder, for programs that watch one. A file appears whole or not at all: it is written under another
// name beside its place, flushed to disk, and renamed. Writing it again (after a crash) replaces it by the same content.
type Folder struct {
	Path     string // must exist
	Template string // see package layout; "" is layout.Default
}

// String implements Kind.
func (f Folder) String() string { return "folder " + f.Path }

// Check implements Kind: it creates and removes an empty file.
func (f Folder) Check(context.Context, *orthanc.Client) (string, error) {
	file, err := os.CreateTemp(f.Path, ".imaging-router-check-")
	if err != nil {
		return "", err
	}
	return "can be written", errors.Join(file.Close(), os.Remove(file.Name()))
}

// Send implements Sender. Of a set, each file appears by itself.
func (f Folder) Send(ctx context.Context, p Parcel) error {
	if _, err := os.Stat(f.Path); err != nil { // a share that is not mounted must not fill the disk below it
		return fmt.Errorf("write delivery %s: %w", p.ID, err)
	}
	for _, part := range p.Parts {
		if err := f.write(ctx, p, part); err != nil {
			return fmt.Errorf("write delivery %s: %w", p.ID, err)
		}
	}
	return nil
}

func (f Folder) write(ctx context.Context, p Parcel, part Part) error {
	class := string(part.Result.Class)
	if !part.Known {
		class = "unclassified" // a report, a picture that cannot be read: it goes with its study
	}
	name, err := layout.Name(f.Template, layout.Values{
		Class: class, Study: p.StudyID, Series: part.SeriesID, Instance: part.InstanceID, Delivery: p.ID, Received: p.ReceivedAt,
	})
	if err != nil {
		return fmt.Errorf("name the file of instance %s: %w", part.InstanceID, err)
	}
	fetched := false
	err = p.File(ctx, part.InstanceID, func(content []byte) error {
		if p.TransferSyntax == "" && !orthanc.Matches(content, part.ContentMD5) {
			return fmt.Errorf("what came (%d bytes) is not the file that was decided about (MD5 %s)", len(content), part.ContentMD5)
		}
		fetched = true
		return writeWhole(filepath.Join(f.Path, filepath.FromSlash(name)), content)
	})
	if err != nil && !fetched {
		return fmt.Errorf("fetch instance %s: %w", part.InstanceID, err)
	}
	return err
}

// writeWhole puts content at path so that nobody ever sees a part of it, and a power cut leaves the old state or the new one.
func writeWhole(path string, content []byte) error {
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	file, err := os.CreateTemp(folder, ".part-")
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	err = errors.Join(err, file.Chmod(0o640), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
