package orthanc_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/tests/orthanctest"
)

func TestPeersAndJobs(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		ctx := t.Context()
		destination := orthanctest.New(t, orthanctest.Config{Version: version, Name: "spine-ai", Users: map[string]string{"archive": "p"}})
		deadPort, err := orthanctest.FreePort()
		require.NoError(t, err)
		locked := destination.AsPeer()
		locked["Password"] = "wrong"
		s := orthanctest.New(t, orthanctest.Config{Version: version, Extra: map[string]any{"OrthancPeers": map[string]any{
			"spine-ai": destination.AsPeer(),
			"dead":     map[string]any{"Url": "http://127.0.0.1:" + itoa(deadPort) + "/"},
			"locked":   locked,
		}}})
		c := newClient(t, s)

		peers, err := c.Peers(ctx)
		require.NoError(t, err)
		require.Len(t, peers, 3)
		require.Equal(t, orthanc.Peer{URL: destination.URL + "/", Username: "archive"}, peers["spine-ai"])
		there, err := c.PeerSystem(ctx, "spine-ai")
		require.NoError(t, err)
		require.Equal(t, "spine-ai", there.Name)
		_, err = c.PeerSystem(ctx, "nobody")
		require.True(t, orthanc.IsUnknownPeer(err), "%v", err)
		for _, name := range []string{"dead", "locked"} {
			_, err = c.PeerSystem(ctx, name)
			require.Error(t, err)
			require.False(t, orthanc.IsUnknownPeer(err), "%v", err)
		}

		id := upload(t, s, orthanctest.File{})
		jobID, err := c.StoreToPeer(ctx, "spine-ai", orthanc.Shipment{Resources: []string{id}, Priority: 7, UserData: map[string]string{"delivery": "d-1"}})
		require.NoError(t, err)
		job := waitForEnd(t, c, jobID)
		require.Equal(t, orthanc.JobSuccess, job.State, "%+v", job)
		require.Equal(t, "OrthancPeerStore", job.Type)
		require.Equal(t, 7, job.Priority)
		require.Equal(t, 100, job.Progress)
		require.Zero(t, job.ErrorCode)
		require.Zero(t, job.FailedInstances())
		at, err := orthanc.ParseTime(job.CompletionTime)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), at, time.Minute)
		if version == "1.13" {
			require.Equal(t, map[string]string{"delivery": "d-1"}, job.UserData)
		} else {
			require.Empty(t, job.UserData)
		}
		arrived, err := newClient(t, destination).Instance(ctx, id)
		require.NoError(t, err)
		require.Equal(t, "archive", arrived.Metadata["HttpUsername"], "the mark by which a loop is seen")

		for _, name := range []string{"dead", "locked"} {
			failed, err := c.StoreToPeer(ctx, name, orthanc.Shipment{Resources: []string{id}})
			require.NoError(t, err)
			job = waitForEnd(t, c, failed)
			require.Equal(t, orthanc.JobFailure, job.State)
			require.NotZero(t, job.ErrorCode, name)
			require.NotEmpty(t, job.ErrorDescription)
		}
		jobs, err := c.Jobs(ctx)
		require.NoError(t, err)
		require.Len(t, jobs, 3)

		_, err = c.StoreToPeer(ctx, "nobody", orthanc.Shipment{Resources: []string{id}})
		require.True(t, orthanc.IsUnknownPeer(err), "%v", err)
		_, err = c.StoreToPeer(ctx, "spine-ai", orthanc.Shipment{Resources: []string{unknown}})
		require.Error(t, err, "an instance that is gone")
		require.False(t, orthanc.IsUnknownPeer(err), "%v", err)
		_, err = c.Job(ctx, "00000000-0000-0000-0000-000000000001")
		require.True(t, orthanc.IsNotFound(err), "%v", err)
	})
}

// A job that was running when Orthanc crashed goes on after the restart, under its old identifier: whoever submits it again, because it
// seems lost, sends twice.
func TestAnUnfinishedJobGoesOnAfterACrash(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		ctx := t.Context()
		var posts atomic.Int32
		crashed := make(chan struct{})
		destination := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if posts.Add(1) == 1 {
				<-crashed
			}
			_, _ = io.WriteString(w, "{}")
		}))
		defer destination.Close()
		s := orthanctest.New(t, orthanctest.Config{Version: version, Extra: map[string]any{
			"OrthancPeers": map[string]any{"slow": map[string]any{"Url": destination.URL + "/"}},
		}})
		c := newClient(t, s)
		id := upload(t, s, orthanctest.File{})
		jobID, err := c.StoreToPeer(ctx, "slow", orthanc.Shipment{Resources: []string{id}, UserData: map[string]string{"delivery": "d-2"}})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return posts.Load() == 1 }, 5*time.Second, 10*time.Millisecond)
		job, err := c.Job(ctx, jobID)
		require.NoError(t, err)
		require.Equal(t, orthanc.JobRunning, job.State)
		time.Sleep(500 * time.Millisecond) // Orthanc writes its jobs down some 100 ms after they were submitted
		require.NoError(t, s.Kill())
		close(crashed)
		require.NoError(t, s.Restart(ctx))
		job = waitForEnd(t, c, jobID)
		require.Equal(t, orthanc.JobSuccess, job.State)
		require.EqualValues(t, 2, posts.Load())
	})
}

func TestJobsOfOtherPrograms(t *testing.T) {
	for text, want := range map[string]map[string]string{
		`{"ID":"a","State":"Running","UserData":{"k":"v"}}`: {"k": "v"},
		`{"ID":"a","State":"Running","UserData":"a text"}`:  nil,
		`{"ID":"a","State":"Running","UserData":{"k":[1]}}`: nil,
		`{"ID":"a","State":"Running"}`:                      nil,
	} {
		var job orthanc.Job
		require.NoError(t, json.Unmarshal([]byte(text), &job))
		require.Equal(t, want, job.UserData, text)
		require.False(t, job.Ended())
	}
}

func waitForEnd(t *testing.T, c *orthanc.Client, id string) orthanc.Job {
	t.Helper()
	var job orthanc.Job
	require.Eventually(t, func() bool {
		var err error
		job, err = c.Job(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, id, job.ID)
		return job.Ended()
	}, 20*time.Second, 50*time.Millisecond)
	return job
}

// A job says how many instances it sends in ways that differ by its kind, and of some kinds not at all.
func TestInstancesOfAJob(t *testing.T) {
	for content, want := range map[string]int{`{"InstancesCount": 3}`: 3, `{"InstancesCount": "12"}`: 12, `{"InstancesCount": "many"}`: -1, `{}`: -1} {
		var job orthanc.Job
		require.NoError(t, json.Unmarshal([]byte(`{"Content": `+content+`}`), &job))
		n, says := job.Instances()
		if !says {
			n = -1
		}
		require.Equal(t, want, n, content)
	}
}

func TestCommitmentTakesATransactionOnly(t *testing.T) {
	c, err := orthanc.New(orthanc.Options{URL: "http://127.0.0.1:1"})
	require.NoError(t, err)
	for _, transaction := range []string{"", "../jobs", "1.2/remove", "1.2?x", strings.Repeat("1", 65)} {
		_, err := c.Commitment(t.Context(), transaction)
		require.ErrorIs(t, err, orthanc.ErrInvalidID, transaction)
	}
}

// What a series and a study hold, and that a study which nobody knows is a 404.
func TestContents(t *testing.T) {
	orthanctest.Each(t, func(t *testing.T, version string) {
		s := orthanctest.New(t, orthanctest.Config{Version: version, Extra: map[string]any{"StableAge": 1}})
		c := newClient(t, s)
		studyUID, seriesUID := orthanctest.NewUID(), orthanctest.NewUID()
		inSeries := []string{upload(t, s, orthanctest.File{StudyUID: studyUID, SeriesUID: seriesUID}), upload(t, s, orthanctest.File{StudyUID: studyUID, SeriesUID: seriesUID})}
		inStudy := append([]string{upload(t, s, orthanctest.File{StudyUID: studyUID})}, inSeries...)
		upload(t, s, orthanctest.File{})
		inst, err := c.Instance(t.Context(), inSeries[0])
		require.NoError(t, err)
		for _, tt := range []struct {
			level orthanc.Level
			id    string
			want  []string
		}{{orthanc.LevelStudy, inst.ParentStudy, inStudy}, {orthanc.LevelSeries, inst.ParentSeries, inSeries}} {
			require.Eventually(t, func() bool {
				contents, err := c.Contents(t.Context(), tt.level, tt.id)
				require.NoError(t, err)
				require.Equal(t, inst.ParentStudy, contents.StudyID)
				require.ElementsMatch(t, tt.want, contents.Instances)
				return contents.Stable
			}, 20*time.Second, 100*time.Millisecond, "never stable")
			_, err = c.Contents(t.Context(), tt.level, unknown)
			require.True(t, orthanc.IsNotFound(err), "%v", err)
		}
	})
}
