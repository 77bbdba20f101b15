package orthanc

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// A proxy may answer {} with status 200: that the newest change is the 0th would make the whole archive count as new. No Orthanc says that.
func TestChangesOfNobody(t *testing.T) {
	answer := "{}"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
	defer server.Close()
	c, err := New(Options{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.LastChange(t.Context()); err == nil {
		t.Errorf("the newest change is %d", n)
	}
	if page, err := c.Changes(t.Context(), 0, 10); err == nil {
		t.Errorf("a page of nobody: %+v", page)
	}
	answer = `{"Changes": [], "Done": true, "Last": 0}`
	if n, err := c.LastChange(t.Context()); err != nil || n != 0 {
		t.Errorf("an archive without changes: %d, %v", n, err)
	}
}
