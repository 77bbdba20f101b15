package orthanc_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/tests/orthanctest"
)

const (
	explicitLittleEndian = "1.2.840.10008.1.2.1"
	jpegBaseline         = "1.2.840.10008.1.2.4.50"
	jpeg2000             = "1.2.840.10008.1.2.4.90"
)

func TestFiles(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		ctx := t.Context()
		s := orthanctest.New(t, orthanctest.Config{Version: version, Extra: map[string]any{"OverwriteInstances": true}})
		c := newClient(t, s)
		file := orthanctest.File{SOPInstanceUID: orthanctest.NewUID(), StudyUID: orthanctest.NewUID(), SeriesUID: orthanctest.NewUID(), Side: 64}
		content := file.Bytes()
		id, err := s.Upload(ctx, content)
		require.NoError(t, err)

		got, err := c.File(ctx, id)
		require.NoError(t, err)
		require.Equal(t, content, got)
		small := newClient(t, s, func(o *orthanc.Options) { o.MaxFile = int64(len(content)) - 1 })
		_, err = small.File(ctx, id)
		require.ErrorIs(t, err, orthanc.ErrTooLarge)

		before, err := c.AttachmentMD5(ctx, id)
		require.NoError(t, err)
		sum := md5.Sum(content)
		require.Equal(t, hex.EncodeToString(sum[:]), before)
		file.Grey = 200
		again, err := s.Upload(ctx, file.Bytes())
		require.NoError(t, err)
		require.Equal(t, id, again, "the same UIDs are the same instance")
		after, err := c.AttachmentMD5(ctx, id)
		require.NoError(t, err)
		require.NotEqual(t, before, after, "an overwritten instance has another MD5")

		_, err = c.File(ctx, unknown)
		require.True(t, orthanc.IsNotFound(err))
		_, err = c.AttachmentMD5(ctx, unknown)
		require.True(t, orthanc.IsNotFound(err))
	})
}

func TestContentIsToldApartWithoutMD5(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s := orthanctest.New(t, orthanctest.Config{Version: version, Extra: map[string]any{"OverwriteInstances": true, "StoreMD5ForAttachments": false}})
		c := newClient(t, s)
		file := orthanctest.File{SOPInstanceUID: orthanctest.NewUID(), StudyUID: orthanctest.NewUID(), SeriesUID: orthanctest.NewUID()}
		id := upload(t, s, file)
		before, err := c.AttachmentMD5(t.Context(), id)
		require.NoError(t, err)
		require.Regexp(t, "^uuid:[0-9a-f-]{36}$", before)
		file.Grey = 9
		upload(t, s, file)
		after, err := c.AttachmentMD5(t.Context(), id)
		require.NoError(t, err)
		require.NotEqual(t, before, after)
	})
}

func TestTranscoding(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		ctx := t.Context()
		s := orthanctest.New(t, orthanctest.Config{Version: version})
		c := newClient(t, s)
		id := upload(t, s, orthanctest.File{Side: 64})
		jpeg, err := c.FileTranscoded(ctx, id, jpegBaseline)
		require.NoError(t, err)
		require.True(t, bytes.Contains(jpeg[:1000], []byte(jpegBaseline)))

		// What Orthanc cannot do is not "gone", though 1.12 answers 404.
		for _, syntax := range []string{jpeg2000, "1.2.3.4"} {
			_, err = c.FileTranscoded(ctx, id, syntax)
			require.ErrorIs(t, err, orthanc.ErrCannotTranscode, syntax)
			require.ErrorContains(t, err, syntax)
			require.False(t, orthanc.IsNotFound(err), syntax)
			require.False(t, orthanc.IsUnreachable(err), syntax)
		}
		_, err = c.FileTranscoded(ctx, unknown, explicitLittleEndian)
		require.True(t, orthanc.IsNotFound(err))
		require.NotErrorIs(t, err, orthanc.ErrCannotTranscode)
	})
}

// Files of the world in syntaxes that this Orthanc (without GDCM) does not decode.
func TestTranscodingOfJPEG2000(t *testing.T) {
	files := jpeg2000Files(t)
	orthanctest.Each(t, func(t *testing.T, version string) {
		s := orthanctest.New(t, orthanctest.Config{Version: version})
		c := newClient(t, s)
		for _, file := range files {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			id, err := s.Upload(t.Context(), content)
			require.NoError(t, err)
			_, err = c.FileTranscoded(t.Context(), id, explicitLittleEndian)
			require.ErrorIs(t, err, orthanc.ErrCannotTranscode, file)
			raw, err := c.File(t.Context(), id)
			require.NoError(t, err, "the file itself can still be had")
			require.Equal(t, content, raw)
		}
	})
}

// jpeg2000Files returns some JPEG 2000 files of ../shared/dicom, and skips the test where that folder is not there.
func jpeg2000Files(t *testing.T) []string {
	t.Helper()
	shared := os.Getenv("IMAGINGROUTER_SHARED")
	if shared == "" {
		repository, err := orthanctest.Repository()
		require.NoError(t, err)
		shared = filepath.Join(repository, "..", "shared")
	}
	folder := filepath.Join(shared, "dicom", "radoss-ddh")
	if _, err := os.Stat(folder); err != nil {
		t.Skipf("no DICOM files in %s (IMAGINGROUTER_SHARED names another folder)", shared)
	}
	all, err := filepath.Glob(filepath.Join(folder, "*.dcm"))
	require.NoError(t, err)
	var found []string
	for _, file := range all {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		if len(found) < 3 && bytes.Contains(content[:min(len(content), 2000)], []byte("1.2.840.10008.1.2.4.9")) {
			found = append(found, file)
		}
	}
	require.NotEmpty(t, found)
	return found
}
