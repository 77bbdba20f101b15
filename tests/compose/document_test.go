//go:build docker

package compose_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"
)

var (
	fence   = regexp.MustCompile("(?ms)^( *)```([a-z]*)\n(.*?)^ *```$")
	setting = regexp.MustCompile(`^[A-Z_]+=`)
)

// document goes through docs/deployment.md as a reader does: settings into .env, keys into router.yaml, commands in their order.
func document(s *stack) {
	text, err := os.ReadFile(filepath.Join(s.clone, "docs", "deployment.md"))
	require.NoError(s, err)
	require.NoError(s, os.RemoveAll(s.secrets))
	commands := 0
	for _, block := range fence.FindAllStringSubmatch(string(text), -1) {
		indent, language, content := block[1], block[2], block[3]
		content = strings.ReplaceAll(strings.ReplaceAll("\n"+content, "\n"+indent, "\n"), "\\\n", " ")
		for line := range strings.Lines(strings.TrimSpace(content)) {
			line = strings.TrimRight(line, "\n")
			switch {
			case language == "" && setting.MatchString(line):
				s.set(line)
			case language == "yaml" && strings.Contains(line, "enabled: true"):
				s.replace("router.yaml", "  enabled: false\n", "  enabled: true\n")
			case language == "sh" && !strings.HasPrefix(line, "git clone ") && !strings.HasPrefix(line, "cd "):
				commands++
				s.command(line)
			}
		}
	}
	require.Greater(s, commands, 15)
}

// command runs one command of the document and looks at what it should have led to.
func (s *stack) command(line string) {
	s.Helper()
	line = strings.NewReplacer(":8443", ":"+strconv.Itoa(s.ports["HTTPS_PORT"]),
		"docker build ", "docker build --build-arg BASE_IMAGE="+os.Getenv("BASE_IMAGE")+" ").Replace(line)
	if strings.Contains(line, " check ") { // ends with 1 while destinations of the example are not there
		s.healthy()
		output, _ := s.try(s.Context(), "sh", "-c", line)
		for _, part := range []string{"configuration", "model", "orthanc"} {
			require.Regexp(s, `(?m)^ok +`+part, output)
		}
		return
	}
	if strings.HasPrefix(line, "curl ") {
		s.healthy()
	}
	s.run("sh", "-c", line)
	switch line {
	case "cp .env.example .env":
		for name, port := range s.ports {
			s.set(name + "=" + strconv.Itoa(port))
		}
		for _, more := range []string{"COMPOSE_PROJECT_NAME=" + project, "ROUTER_IMAGE=imaging-router-proof"} {
			s.set(more)
		}
	case "docker compose logs modality":
		s.healthy()
		s.labelled(11) // with the X-ray of step 3, which pilot mode kept here
		eventually(s.T, "both destinations have got something", func() error {
			for _, port := range []string{"CHEST_AI_PORT", "SPINE_AI_PORT"} {
				if there, err := s.archive(port); err != nil || len(there) == 0 {
					return fmt.Errorf("%s: %d studies (%w)", port, len(there), err)
				}
			}
			return nil
		})
	case "docker compose logs imaging-router":
		require.NoError(s, s.store(s.phantoms(1)...))
		s.labelled(1)
	}
}

// set puts a setting into .env, in place of the earlier one.
func (s *stack) set(line string) {
	s.Helper()
	path := filepath.Join(s.clone, ".env")
	text, err := os.ReadFile(path)
	require.NoError(s, err)
	name, _, _ := strings.Cut(line, "=")
	kept := regexp.MustCompile(`(?m)^`+name+`=.*\n`).ReplaceAllString(string(text), "")
	require.NoError(s, os.WriteFile(path, []byte(kept+line+"\n"), 0o600))
}

func (s *stack) replace(file, what, with string) {
	s.Helper()
	path := filepath.Join(s.clone, file)
	text, err := os.ReadFile(path)
	require.NoError(s, err)
	require.Contains(s, string(text), what)
	require.NoError(s, os.WriteFile(path, []byte(strings.Replace(string(text), what, with, 1)), 0o600))
}
