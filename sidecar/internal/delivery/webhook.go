package delivery

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-resty/resty/v2"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/orthanc"
	"imagingrouter/sidecar/internal/store"
)

// The headers of a webhook request.
const (
	// HeaderDelivery is the delivery's id, the same in every repetition: a receiver recognises repetitions by it.
	HeaderDelivery = "X-Imaging-Router-Delivery"
	// HeaderTimestamp is the time of the request in Unix seconds. A receiver refuses old ones, so that a recorded request cannot be replayed.
	HeaderTimestamp = "X-Imaging-Router-Timestamp"
	// HeaderSignature is "sha256=" and the hexadecimal HMAC-SHA256 of timestamp, a dot, and the body, under the shared secret.
	HeaderSignature = "X-Imaging-Router-Signature"
)

// Webhook posts a result as JSON, for programs that fetch the picture from Orthanc themselves. Any 2xx counts as received. Redirects
// are not followed: what is sent goes to the configured host and nowhere else.
type Webhook struct {
	url    string
	secret string
	http   *resty.Client
}

// NewWebhook returns a webhook destination. secret signs the requests; "" leaves them unsigned. caFile names a PEM file with the
// authority of the server's certificate; "" takes the system's.
func NewWebhook(address, secret, caFile string) (*Webhook, error) {
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errors.New("webhook address: must begin with http:// or https://, and name a host")
	}
	client := resty.New().SetRedirectPolicy(resty.NoRedirectPolicy()).SetHeader("User-Agent", "imaging-router")
	if caFile != "" {
		client.SetRootCertificate(caFile)
	}
	return &Webhook{url: address, secret: secret, http: client}, nil
}

// String implements Kind. The address may hold a key in its query: only the host is shown.
func (w *Webhook) String() string {
	u, _ := url.Parse(w.url) // NewWebhook has parsed it
	return "webhook at " + u.Host
}

// Check implements Kind: it opens a connection and sends nothing.
func (w *Webhook) Check(ctx context.Context, _ *orthanc.Client) (string, error) {
	u, err := url.Parse(w.url)
	if err != nil {
		return "", err
	}
	port := u.Port()
	if port == "" {
		port = u.Scheme // the names of the ports are those of the schemes
	}
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return "", err
	}
	if w.secret == "" {
		return "takes connections; requests are not signed (webhook.secret_file)", c.Close()
	}
	return "takes connections; requests are signed", c.Close()
}

// webhookBody is the JSON of a request. Identifiers are Orthanc's. Of an instance (level "instance") its result stands beside them as well as
// in the list, so that a receiver of single pictures need not look into it.
type webhookBody struct {
	Delivery   string            `json:"delivery"`
	Level      string            `json:"level"` // instance, series, study
	Study      string            `json:"study"`
	Series     string            `json:"series,omitempty"`
	Rule       string            `json:"rule"`
	ReceivedAt time.Time         `json:"received_at"` // of the newest instance
	Instances  []webhookInstance `json:"instances"`

	*webhookInstance
}

// webhookInstance is one instance of a delivery. One that the router does not look at has no result.
type webhookInstance struct {
	Instance   string `json:"instance"`
	ContentMD5 string `json:"content_md5,omitempty"`
	State      string `json:"state,omitempty"` // of an instance without result: skipped, unreadable …

	*webhookResult
}

type webhookResult struct {
	Class         bodypart.Class             `json:"class"`
	Confidence    float64                    `json:"confidence"`
	Review        bool                       `json:"review"`
	Reasons       []bodypart.Reason          `json:"reasons"`
	Probabilities map[bodypart.Class]float64 `json:"probabilities"`
	Model         string                     `json:"model"`
	ClassifiedAt  time.Time                  `json:"classified_at"`
}

func newWebhookBody(p Parcel) webhookBody {
	body := webhookBody{Delivery: p.ID, Level: p.Level.One(), Study: p.StudyID, Rule: p.Rule, ReceivedAt: p.ReceivedAt, Instances: []webhookInstance{}}
	switch {
	case p.Level == store.LevelSeries:
		body.Series = p.ResourceID
	case p.Level == store.LevelInstance && len(p.Parts) > 0:
		body.Series = p.Parts[0].SeriesID
	}
	for _, part := range p.Parts {
		i := webhookInstance{Instance: part.InstanceID, ContentMD5: part.ContentMD5}
		if part.Known {
			r := part.Result
			i.webhookResult = &webhookResult{r.Class, r.Confidence, r.Review, r.Reasons, r.Probabilities, r.Model, r.ClassifiedAt}
		} else {
			i.State = string(part.State)
		}
		body.Instances = append(body.Instances, i)
	}
	if p.Level == store.LevelInstance && len(body.Instances) == 1 {
		body.webhookInstance = &body.Instances[0]
	}
	return body
}

// answerRead is what is read of an answer, so that its connection can serve again: more is cut off.
const answerRead = 64 << 10

// Send implements Sender.
func (w *Webhook) Send(ctx context.Context, p Parcel) error {
	body, err := json.Marshal(newWebhookBody(p))
	if err != nil {
		return fmt.Errorf("post delivery %s to %s: %w", p.ID, w, err)
	}
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	r := w.http.R().SetContext(ctx).SetHeader("Content-Type", "application/json").SetBody(body).
		SetHeader(HeaderDelivery, p.ID).SetHeader(HeaderTimestamp, timestamp).
		SetDoNotParseResponse(true) // the status says all, and a body could be without end
	if w.secret != "" {
		r.SetHeader(HeaderSignature, Sign(w.secret, timestamp, body))
	}
	response, err := r.Post(w.url)
	if response != nil && response.RawResponse != nil {
		defer func() {
			_, _ = io.CopyN(io.Discard, response.RawBody(), answerRead)
			_ = response.RawBody().Close()
		}()
	}
	if response != nil && response.StatusCode() >= http.StatusMultipleChoices { // a refused redirect is an error of the client as well
		return fmt.Errorf("post delivery %s to %s: HTTP %d", p.ID, w, response.StatusCode())
	}
	if err != nil {
		return fmt.Errorf("post delivery %s to %s: %w", p.ID, w, withoutAddress(err))
	}
	return nil
}

// withoutAddress takes the address out of an error of the HTTP client: its query may hold a key.
func withoutAddress(err error) error {
	if u, ok := err.(*url.Error); ok { //nolint:errorlint // the outermost one carries the address
		return u.Err
	}
	return err
}

// Sign returns the value of HeaderSignature. A receiver computes the same and compares in constant time.
func Sign(secret, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}
