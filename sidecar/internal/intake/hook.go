package intake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"imagingrouter/sidecar/internal/metrics"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// maxList is how many instances one request may name.
const maxList = 10000

// Hook answers POST /hooks/stored-instance, the request of lua/on-stored-instance.lua. Body: {"instance": "<Orthanc id>", …} or a
// list of such objects; other keys are ignored. It answers 202 once the mark is on disk, without calling Orthanc: Orthanc's Lua
// engine, and with it the whole server, waits for this answer. 400 names what is wrong, 413 a body that is too long, 503 says that
// the mark could not be written (the follower of /changes will find the instance).
type Hook struct {
	Marker  *Marker
	MaxBody int64 // bytes
	Metrics *metrics.Metrics
	Log     zerolog.Logger

	heard atomic.Int64 // Unix seconds of the last note
}

type hookBody struct {
	Instance string `json:"instance"`
}

func (h *Hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.MaxBody))
	if err != nil {
		var tooLong *http.MaxBytesError
		if errors.As(err, &tooLong) {
			h.refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("body is longer than %d bytes", tooLong.Limit))
			return
		}
		h.refuse(w, http.StatusBadRequest, "body could not be read")
		return
	}
	ids, err := parseHook(body)
	if err != nil {
		h.refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if err := h.mark(r.Context(), ids); err != nil {
		h.Log.Error().Err(err).Strs("instances", ids[:min(len(ids), 10)]).Msg("hook: instances could not be marked; the follower will find them")
		w.Header().Set("Retry-After", "5")
		h.refuse(w, http.StatusServiceUnavailable, "the instances could not be marked; see the router's log")
		return
	}
	h.Metrics.Marked(string(store.SourceHook), len(ids))
	h.Log.Debug().Strs("instances", ids[:min(len(ids), 10)]).Int("count", len(ids)).Msg("hook: marked as due")
	answer(w, http.StatusAccepted, map[string]any{"accepted": len(ids)})
}

// mark marks the instances, and notes now and then that the hook was heard: `check` has no other proof that it is installed.
func (h *Hook) mark(ctx context.Context, ids []string) error {
	if err := h.Marker.Mark(ctx, store.SourceHook, ids...); err != nil {
		return err
	}
	if last := h.heard.Load(); time.Now().Unix()-last < 60 || !h.heard.CompareAndSwap(last, time.Now().Unix()) {
		return nil
	}
	return h.Marker.Store.SetSetting(ctx, store.SettingHookHeard, "yes")
}

func (h *Hook) refuse(w http.ResponseWriter, status int, reason string) {
	h.Metrics.HookRefused(status)
	answer(w, status, map[string]any{"error": reason})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) //nolint:errchkjson // our own maps of strings and numbers; else the client is gone
}

func parseHook(body []byte) ([]string, error) {
	body = bytes.TrimSpace(body)
	var list []hookBody
	switch {
	case len(body) == 0:
		return nil, errors.New("empty body; expected {\"instance\": \"<Orthanc id>\"} or a list of such objects")
	case body[0] == '[':
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, fmt.Errorf("not a JSON list of objects with \"instance\": %w", jsonError(err))
		}
	default:
		var one hookBody
		if err := json.Unmarshal(body, &one); err != nil {
			return nil, fmt.Errorf("not a JSON object with \"instance\": %w", jsonError(err))
		}
		list = []hookBody{one}
	}
	if len(list) == 0 || len(list) > maxList {
		return nil, fmt.Errorf("a list names 1 to %d instances, not %d", maxList, len(list))
	}
	ids := make([]string, 0, len(list))
	seen := make(map[string]bool, len(list))
	for i, b := range list {
		// The value is not repeated in the answer: it is text from a stranger.
		if !orthanc.ValidID(b.Instance) {
			return nil, fmt.Errorf("item %d: \"instance\" is not an Orthanc identifier (five groups of eight hexadecimal digits)", i+1)
		}
		if !seen[b.Instance] {
			seen[b.Instance] = true
			ids = append(ids, b.Instance)
		}
	}
	return ids, nil
}

// jsonError says where JSON is wrong without repeating what it holds.
func jsonError(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("syntax error at byte %d", syntax.Offset)
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Errorf("wrong type at byte %d", wrong.Offset)
	}
	return errors.New("unreadable")
}
