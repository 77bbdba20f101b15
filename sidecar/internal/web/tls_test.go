package web

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// writeCertificate writes a fresh self-signed certificate for 127.0.0.1, with files dated so that a change is seen.
func writeCertificate(t *testing.T, name, certFile, keyFile string, at time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHTTPSAndARenewedCertificate(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	start := time.Now().Add(-time.Hour)
	writeCertificate(t, "first", certFile, keyFile, start)
	var log strings.Builder
	s, err := Listen(Options{
		Listen: "127.0.0.1:0", TLSCertFile: certFile, TLSKeyFile: keyFile, Log: zerolog.New(&log), Hook: http.NotFoundHandler(), Metrics: http.NotFoundHandler(),
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve() }()
	defer func() { _ = s.Shutdown(context.Background()) }()

	name := func() string {
		c, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := name(); got != "first" {
		t.Errorf("the certificate is %q", got)
	}
	writeCertificate(t, "second", certFile, keyFile, start.Add(time.Minute))
	if got := name(); got != "second" {
		t.Errorf("after the renewal the certificate is %q", got)
	}
	writeCertificate(t, "third", certFile, filepath.Join(dir, "elsewhere.pem"), start.Add(2*time.Minute)) // the key does not follow
	if got := name(); got != "second" {
		t.Errorf("after half a renewal the certificate is %q", got)
	}
	name()
	if n := strings.Count(log.String(), "the earlier one stays"); n != 1 {
		t.Errorf("half a renewal is told %d times:\n%s", n, log.String())
	}

	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr().String()+"/-/healthy", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("plain http is answered with %d", response.StatusCode)
	}
}

func TestListenNeedsACertificateThatFits(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	o := Options{Listen: "127.0.0.1:0", TLSCertFile: certFile, TLSKeyFile: keyFile}
	if _, err := Listen(o); err == nil || !strings.Contains(err.Error(), "read the certificate: ") {
		t.Errorf("absent: %v", err)
	}
	writeCertificate(t, "a", certFile, filepath.Join(dir, "a.pem"), time.Now())
	writeCertificate(t, "b", filepath.Join(dir, "b.pem"), keyFile, time.Now())
	if _, err := Listen(o); err == nil || !strings.Contains(err.Error(), "private key does not match") {
		t.Errorf("two that do not fit: %v", err)
	}
}
