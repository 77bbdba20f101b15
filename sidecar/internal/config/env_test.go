package config

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEnvironmentOverrides(t *testing.T) {
	password := write(t, "password", "from a file")
	c, err := parse("c.yaml", []byte("orthanc: {url: http://a:1, timeout: 5s}\nintake: {modalities: [DX]}\n"), []string{
		"IMAGING_ROUTER_ORTHANC_URL=http://b:2",
		"IMAGING_ROUTER_ORTHANC_USERNAME=router",
		"IMAGING_ROUTER_ORTHANC_PASSWORD_FILE=" + password,
		"IMAGING_ROUTER_ORTHANC_TIMEOUT=", // empty: not set
		"IMAGING_ROUTER_SERVER_MAX_BODY=2MiB",
		"IMAGING_ROUTER_INTAKE_MODALITIES=CR, DX",
		"IMAGING_ROUTER_REVIEW_AMBIGUOUS_YEARS=14,16",
		"IMAGING_ROUTER_PUBLISH_METADATA_BODY_PART=6110",
		"IMAGING_ROUTER_FORWARDING_ENABLED=true",
		"IMAGING_ROUTER_CONFIG=elsewhere.yaml",
		"ORTHANC_URL=http://c:3",
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	for name, check := range map[string]bool{
		"text":      c.Orthanc.URL == "http://b:2",
		"secret":    c.Orthanc.Password == "from a file",
		"empty":     c.Orthanc.Timeout == 5*time.Second,
		"size":      c.Server.MaxBody == 2<<20,
		"list":      slices.Equal(c.Intake.Modalities, []string{"CR", "DX"}),
		"numbers":   slices.Equal(c.Review.AmbiguousYears, []float64{14, 16}),
		"number":    c.Publish.Metadata.BodyPart == 6110,
		"switch":    c.Forwarding.Enabled,
		"a warning": slices.Equal(c.Warnings, []string{"forwarding.enabled is true and there are no rules: nothing will be forwarded"}),
	} {
		if !check {
			t.Errorf("%s is wrong: %s %v", name, c, c.Warnings)
		}
	}
}

func TestEnvironmentErrors(t *testing.T) {
	_, err := parse("c.yaml", nil, []string{
		"IMAGING_ROUTER_ORTHANC_TIMEOUT=-1s", "IMAGING_ROUTER_INTAKE_BATCH=many", "IMAGING_ROUTER_INTAKE_SOP_CLASSES=1.2,x",
	}, true)
	want := "IMAGING_ROUTER_INTAKE_BATCH: intake.batch: must be a whole number (got \"many\")\n" +
		"IMAGING_ROUTER_INTAKE_SOP_CLASSES: intake.sop_classes[1]: must be a UID such as 1.2.840.10008.5.1.4.1.1.1 (got \"x\")\n" +
		"IMAGING_ROUTER_ORTHANC_TIMEOUT: orthanc.timeout: must be greater than 0 (got -1s)"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestMisspeltVariablesAreNamed(t *testing.T) {
	c, err := parse("c.yaml", nil, []string{
		"IMAGING_ROUTER_ORTHNC_URL=http://b:2",
		"IMAGING_ROUTER_SERVICE_HOST=10.0.0.7", // Kubernetes makes these for a service of that name
		"IMAGING_ROUTER_PORT_8081_TCP_PROTO=tcp",
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"environment variable IMAGING_ROUTER_ORTHNC_URL is not used, did you mean IMAGING_ROUTER_ORTHANC_URL?"}
	if !slices.Equal(c.Warnings, want) {
		t.Errorf("got %q, want %q", c.Warnings, want)
	}
}

func TestVariableNamesAreDistinct(t *testing.T) {
	seen := map[string]string{EnvFile: "(the file)"}
	for _, key := range Keys() {
		if other, taken := seen[EnvName(key)]; taken {
			t.Errorf("%s and %s share %s", key, other, EnvName(key))
		}
		seen[EnvName(key)] = key
	}
	if !slices.Contains(Keys(), "publish.metadata.body_part") || slices.ContainsFunc(Keys(), func(k string) bool { return strings.HasPrefix(k, "rules") }) {
		t.Errorf("keys: %v", Keys())
	}
}
