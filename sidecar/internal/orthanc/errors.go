package orthanc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
)

// The errors that are not an answer of Orthanc's, or need a name of their own.
var (
	// ErrTooLarge: the file or answer is larger than the client takes.
	ErrTooLarge = errors.New("larger than allowed")
	// ErrInvalidID: the identifier does not look like one of Orthanc's, so no request was made.
	ErrInvalidID = errors.New("not an Orthanc identifier")
	// ErrCannotTranscode: the instance is there, but this Orthanc cannot turn it into the transfer syntax.
	ErrCannotTranscode = errors.New("orthanc cannot transcode this instance")
)

// Error is an answer of Orthanc's whose status is not 200. Failures of the network are wrapped *url.Error instead.
type Error struct {
	Method       string
	Path         string // without the query
	Status       int    // of HTTP; 404 as well for something that a bulk answer left out
	OrthancError string // Orthanc's own words, such as "Unknown resource"; empty when there was no body
	Details      string // more of them, at most 200 characters
	// HasBody tells apart two kinds of 404: of …/metadata/{number}, an empty one means that the value is missing, one with a
	// body that the resource is; of …/file?transcode=, an empty one (1.12) means that it cannot be transcoded.
	HasBody bool
}

func (e *Error) Error() string {
	text := fmt.Sprintf("orthanc: %s %s: HTTP %d", e.Method, e.Path, e.Status)
	if e.OrthancError != "" {
		text += ": " + e.OrthancError
	}
	if e.Details != "" {
		text += " (" + e.Details + ")"
	}
	return text
}

func newError(k call, status int, body io.Reader) *Error {
	e := &Error{Method: k.method, Path: k.path, Status: status}
	text, err := io.ReadAll(io.LimitReader(body, 64<<10))
	e.HasBody = err == nil && len(text) > 0
	var said struct{ OrthancError, Details string }
	if json.Unmarshal(text, &said) == nil {
		e.OrthancError, e.Details = said.OrthancError, firstRunes(said.Details, 200)
	}
	return e
}

func firstRunes(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i] + "…"
		}
		n--
	}
	return s
}

// IsNotFound says whether Orthanc answered that the resource is not there. One such answer is not proof that it is gone for
// good: a restarting proxy or another database can say so too.
func IsNotFound(err error) bool {
	return hasStatus(err, http.StatusNotFound) && !errors.Is(err, ErrCannotTranscode)
}

// IsConflict says whether a metadata value was changed by somebody else since its ETag was read (CheckRevisions).
func IsConflict(err error) bool { return hasStatus(err, http.StatusConflict) }

// IsDenied says whether Orthanc refused the credentials, or what they are allowed to do.
func IsDenied(err error) bool {
	return hasStatus(err, http.StatusUnauthorized) || hasStatus(err, http.StatusForbidden)
}

// IsUnknownPeer says whether the peer's name stands in no configuration of that Orthanc.
func IsUnknownPeer(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound && strings.HasPrefix(e.Details, "No peer with symbolic name")
}

func hasStatus(err error, status int) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == status
}

// IsUnreachable says whether no answer of Orthanc's came: connection refused or broken, a time-out, a name that does not resolve,
// or a proxy's 502, 503 or 504. Later it may work. A context that its owner cancelled is not that.
func IsUnreachable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Status == http.StatusBadGateway || e.Status == http.StatusServiceUnavailable || e.Status == http.StatusGatewayTimeout
	}
	var urlError *url.Error
	var netError net.Error
	return errors.As(err, &urlError) || errors.As(err, &netError) || brokenConnection(err)
}

// brokenConnection says whether the connection was closed under the request: what KeepAliveTimeout and a restart look like.
func brokenConnection(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// ValidID says whether id is an Orthanc identifier of a patient, study, series or instance: five groups of eight lower-case
// hexadecimal digits. Every method that takes an identifier refuses others before a URL is built.
func ValidID(id string) bool {
	if len(id) != 5*8+4 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if i%9 == 8 {
			if c != '-' {
				return false
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// checkID is ValidID as an error. The text is not repeated: it came from outside and may be anything.
func checkID(what, id string) error {
	if !ValidID(id) {
		return fmt.Errorf("%s: %w", what, ErrInvalidID)
	}
	return nil
}
