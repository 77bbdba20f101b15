package config

import "testing"

func TestProbe(t *testing.T) {
	c, err := parse("c.yaml", []byte("orthanc: {url: x, timeout: -1s, tmeout: 3}\nrules:\n  - name: a\n    when: |\n      true &&\n      clas == \"x\"\n    to: [chest]\n  - name: b\n    when: class == \"chest\"\n    to: [chest]\ndestinations: [{name: chest-ai}]\n"), []string{"IMAGING_ROUTER_SERVER_MAX_BODY=3x", "IMAGING_ROUTER_ORTHNC_URL=1"}, true)
	t.Log(c, err)
	d, err := parse("", nil, nil, true)
	t.Log(d, err)
}
