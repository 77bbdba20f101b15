package web

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// certificate is the server's certificate and key in two PEM files. They are read again when one of them has changed, so that a renewed
// certificate needs no restart; one that cannot be read then does not replace the one that works.
type certificate struct {
	certFile, keyFile string
	log               zerolog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	changed [2]time.Time // of the files, when they were last read
}

// newTLS returns the TLS configuration of a server with this certificate, which is read now.
func newTLS(certFile, keyFile string, log zerolog.Logger) (*tls.Config, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.read(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"h2", "http/1.1"}}, nil
}

func (c *certificate) times() (t [2]time.Time, err error) {
	cert, err := os.Stat(c.certFile)
	key, keyErr := os.Stat(c.keyFile)
	if err := errors.Join(err, keyErr); err != nil {
		return t, err
	}
	return [2]time.Time{cert.ModTime(), key.ModTime()}, nil
}

// read loads the files. The caller holds the lock, or is alone.
func (c *certificate) read() error {
	changed, err := c.times()
	if err != nil {
		return fmt.Errorf("read the certificate: %w", err)
	}
	c.changed = changed // also when they do not fit: said once, not with every connection
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("read the certificate %s with the key %s: %w", c.certFile, c.keyFile, err)
	}
	c.current = &pair
	return nil
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changed, err := c.times(); err == nil && changed != c.changed {
		if err := c.read(); err != nil {
			c.log.Error().Err(err).Msg("the certificate has changed and cannot be used: the earlier one stays")
		} else {
			c.log.Info().Str("file", c.certFile).Msg("the certificate was read again")
		}
	}
	return c.current, nil
}
