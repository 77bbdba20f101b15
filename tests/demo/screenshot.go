package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

const shownLabel = labelPrefix + "spine"

// fillIn fills in the form of Orthanc's page and sends it, as a person would.
const fillIn = `<script>
var filled = setInterval(function() {
  if (!window.jQuery || !$('#lookup-study-labels').is(':visible')) return;
  clearInterval(filled);
  $('#lookup-study-labels').val('` + shownLabel + `');
  $('#lookup-submit').click();
}, 50);
</script></body>`

// photograph saves pictures of the archive's own page: its list of studies filtered by a label, and one study with its labels. A browser
// without a person cannot log in or type: a proxy before the archive does the one and adds the script that does the other. The page
// itself is Orthanc's.
func (c *scene) photograph(ctx context.Context, folder string, files []*file) error {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		return fmt.Errorf("a picture of the page needs a browser: apt install chromium: %w", err)
	}
	archive, err := url.Parse(c.archive.URL)
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(archive)
			r.Out.SetBasicAuth(user, password)
			r.Out.Header.Del("Accept-Encoding")
			r.Out.Header.Del("Origin") // Orthanc refuses to be written to by other pages
			r.Out.Header.Del("Referer")
		},
		ModifyResponse: func(r *http.Response) error {
			if filepath.Base(r.Request.URL.Path) != "explorer.html" {
				return nil
			}
			page, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			page = bytes.Replace(page, []byte("</body>"), []byte(fillIn), 1)
			r.Body = io.NopCloser(bytes.NewReader(page))
			r.ContentLength = int64(len(page))
			r.Header.Set("Content-Length", strconv.Itoa(len(page)))
			return nil
		},
	}
	server := httptest.NewServer(proxy)
	defer server.Close()
	page := server.URL + "/app/explorer.html"
	if err := c.shoot(ctx, browser, filepath.Join(folder, "orthanc-labels.png"), "1000,1110", page+"#lookup"); err != nil {
		return err
	}
	for _, f := range files {
		if f.result != nil && f.result.label() == shownLabel {
			return c.shoot(ctx, browser, filepath.Join(folder, "orthanc-study.png"), "1000,530", page+"#study?uuid="+f.study)
		}
	}
	return fmt.Errorf("no study has the label %s", shownLabel)
}

func (c *scene) shoot(ctx context.Context, browser, target, size, address string) error {
	target, err := filepath.Abs(target)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", //nolint:gosec // the browser in PATH
		"--hide-scrollbars", "--virtual-time-budget=10000", "--window-size="+size, "--user-data-dir="+filepath.Join(c.dir, "browser"),
		"--screenshot="+target, address)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("chromium: %w: %s", err, lastLines(string(output)))
	}
	if _, err := os.Stat(target); err != nil {
		return fmt.Errorf("chromium made no picture: %w", err)
	}
	return nil
}
