package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// disk is a small file system of its own for the router's database: ext4 in a file.
type disk struct {
	image, at string
	device    string // loop0
}

// diskSize leaves room for what a seed needs, and not for much more.
const diskSize = 24 << 20 // bytes

// mountDisk gives the database a disk of its own, where this machine lets us.
func (w *world) mountDisk(at string) {
	w.Helper()
	d := &disk{image: w.pathOf("disk.ext4"), at: at}
	err := os.WriteFile(d.image, nil, 0o600)
	if err == nil {
		err = os.Truncate(d.image, diskSize)
	}
	if err == nil {
		err = command("mkfs.ext4", "-q", "-F", "-m", "0", d.image)
	}
	if err == nil {
		err = d.mount()
	}
	if err != nil {
		fmt.Printf("seed %d: no disk full and no read-only disk: that takes root, mkfs.ext4 and a loop device (%v)\n", w.seed, err)
		return
	}
	w.disk = d
	w.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			w.Error(err)
		}
	})
}

func command(name string, arguments ...string) error {
	if output, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(output))
	}
	return nil
}

func (d *disk) mount() error {
	if err := command("mount", "-o", "loop,errors=remount-ro", d.image, d.at); err != nil {
		return err
	}
	output, err := exec.Command("losetup", "--noheadings", "--output", "NAME", "--associated", d.image).Output()
	d.device = filepath.Base(strings.TrimSpace(string(output)))
	return err
}

// fail has the file system find an error in itself: from now on it is read-only, and stays so until it is checked.
func (d *disk) fail() error {
	return os.WriteFile("/sys/fs/ext4/"+d.device+"/trigger_fs_error", []byte("injected"), 0o200)
}

// mend does what an operator does then, and looks whether it has helped: the kernel lets go of a loop device when it likes, and one that is mounted
// again before that still knows the error. Nobody may have a file open.
func (d *disk) mend() error {
	for try := 1; ; try++ {
		if err := unix.Unmount(d.at, 0); err != nil {
			return err
		}
		var found *exec.ExitError
		if err := exec.Command("e2fsck", "-f", "-y", d.image).Run(); err != nil && (!errors.As(err, &found) || found.ExitCode() > 1) { // 1: errors were corrected
			return fmt.Errorf("e2fsck: %w", err)
		}
		if err := d.mount(); err != nil {
			return err
		}
		probe := filepath.Join(d.at, "probe")
		err := os.WriteFile(probe, nil, 0o600)
		if err == nil {
			return os.Remove(probe)
		}
		if try == 10 {
			return fmt.Errorf("the mended disk takes no write: %w", err)
		}
		time.Sleep(time.Duration(try) * 100 * time.Millisecond)
	}
}

// fill takes all room but for so many bytes.
func (d *disk) fill(leave int64) error {
	path := filepath.Join(d.at, "ballast")
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 64<<10)
	for err == nil {
		_, err = file.Write(block)
		if err == nil {
			err = file.Sync() // else the room is promised only
		}
		if len(block) > 1024 && errors.Is(err, unix.ENOSPC) {
			block, err = block[:len(block)/2], nil
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		return errors.Join(err, file.Close())
	}
	size, err := file.Seek(0, io.SeekEnd)
	return errors.Join(err, file.Truncate(max(0, size-leave)), file.Sync(), file.Close())
}

func (d *disk) empty() error { return os.Remove(filepath.Join(d.at, "ballast")) }

const skipped = "skipped: there is no disk of its own"

// fillDisk fills the database's disk, under a router that is in the middle of something or before it starts, and makes room again.
func (w *world) fillDisk(f *fault) error {
	if w.disk == nil {
		f.notef(skipped)
		return nil
	}
	if err := w.router.Stop(); err != nil { // in order, so that its journal is small and has to grow
		return err
	}
	before, leave, running := len(w.router.Log()), int64(f.random.IntN(100<<10)), f.random.IntN(4) > 0
	points := []point{afterFetch, afterResult, beforeLabel, afterSubmit, afterArrival}
	if running {
		if err := w.router.Start(w.ctx); err != nil {
			return err
		}
		w.await(f, points[f.random.IntN(len(points))])
	}
	err := w.disk.fill(leave)
	w.front.letGo()
	if err != nil {
		return err
	}
	if !running {
		running = w.router.Start(w.ctx) == nil
		f.notef("started on a full disk: %t", running)
	}
	w.hurry(4)
	pause := f.span(3000, 15000)
	time.Sleep(pause)
	if err := w.disk.empty(); err != nil {
		return err
	}
	f.notef("for %s, with %d KB left; it was noticed: %t", pause, leave>>10, strings.Contains(w.router.Log()[before:], "disk is full"))
	if running {
		return nil
	}
	return w.router.Start(w.ctx)
}

// lockDisk has the file system turn read-only under a running router, as it does when the disk has an error, until somebody mends it.
func (w *world) lockDisk(f *fault) error {
	if w.disk == nil {
		f.notef(skipped)
		return nil
	}
	w.hurry(2)
	time.Sleep(f.span(0, 700))
	if err := w.disk.fail(); err != nil {
		return err
	}
	w.hurry(2)
	pause := f.span(1000, 12000)
	f.notef("for %s", pause)
	time.Sleep(pause)
	if err := w.router.Kill(); err != nil {
		return err
	}
	if f.random.IntN(2) == 0 {
		if err := w.refused("read", "only", w.router.Database()); err != nil {
			return err
		}
	}
	if err := w.disk.mend(); err != nil {
		return err
	}
	return w.router.Start(w.ctx)
}
