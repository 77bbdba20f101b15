package orthanc

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// maxTags bounds the tags of one instance: structured reports inside private sequences can be long.
const maxTags = 16 << 20

// Tags returns the DICOM tags of an instance by number ("0008,1030"), as texts in UTF-8. Sequences, and values that Orthanc holds to be
// too long to show, are left out. They are the patient's: what calls this must neither store nor log them.
func (c *Client) Tags(ctx context.Context, instance string) (map[string]string, error) {
	if err := checkID("tags of an instance", instance); err != nil {
		return nil, err
	}
	a, err := c.do(ctx, call{method: http.MethodGet, path: "/instances/" + instance + "/tags", query: "short", limit: maxTags, repeat: true})
	if err != nil {
		return nil, err
	}
	var t tags
	if json.Unmarshal(a.body, &t) != nil { // its message could repeat a value
		return nil, fmt.Errorf("orthanc: /instances/%s/tags: the answer is not the JSON that was expected", instance)
	}
	return t, nil
}

// StudyInstances returns how many instances Orthanc holds of a study.
func (c *Client) StudyInstances(ctx context.Context, study string) (int, error) {
	if err := checkID("instances of a study", study); err != nil {
		return 0, err
	}
	path := "/studies/" + study + "/statistics"
	var statistics struct{ CountInstances int }
	err := c.getJSON(ctx, path, "", &statistics)
	return statistics.CountInstances, err
}
