package setup

import (
	"bytes"
	"crypto/rand"
	_ "embed" // for the template
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"imagingrouter/lua"
	"imagingrouter/sidecar/internal/config"
)

// The files that init writes.
const (
	ConfigFile  = "config.yaml"
	TokenFile   = "hook_token"
	HookFile    = lua.HookFile
	JSONFile    = "orthanc-additions.json"
	ComposeFile = "orthanc-compose.yml"
)

const keyMD5 = "StoreMD5ForAttachments"

const containerHook = "/etc/orthanc/lua/" + HookFile

//go:embed config.yaml.tmpl
var configTemplate string

// Destination is a peer as the configuration names it.
type Destination struct{ Name, Peer, URL string }

// Destinations returns Orthanc's peers under names that rules can use.
func (p *Plan) Destinations() []Destination {
	all := make([]Destination, 0, len(p.Archive.Peers))
	used := map[string]bool{}
	for _, peer := range sorted(p.Archive.Peers) {
		name := strings.TrimLeft(notInName.ReplaceAllString(peer, "-"), "._-")
		if name == "" {
			name = "peer"
		}
		for n, base := 2, name; used[name]; n++ {
			name = base + "-" + strconv.Itoa(n)
		}
		used[name] = true
		all = append(all, Destination{name, peer, oneLine(p.Archive.Peers[peer].URL)})
	}
	return all
}

var notInName = regexp.MustCompile(`[^A-Za-z0-9._-]`)

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Config returns config.yaml.
func (p *Plan) Config() (string, error) {
	t, err := template.New(ConfigFile).Funcs(template.FuncMap{"q": quote}).Parse(configTemplate)
	if err != nil {
		return "", err
	}
	d := config.Default()
	var numbers *config.Metadata
	if p.Numbers != d.Publish.Metadata {
		numbers = &p.Numbers
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{
		"ArchiveURL": p.Archive.URL, "Username": p.Archive.Username, "PasswordFile": p.Options.PasswordFile, "CAFile": p.Options.CAFile,
		"RouterURL": p.RouterURL, "Listen": p.Listen, "TokenFile": filepath.Join(p.Options.Dir, TokenFile), "Database": d.Database.Path,
		"Numbers": numbers, "Destinations": p.Destinations(), "Jobs": p.silentJobs(),
	})
	return b.String(), err
}

// silentJobs returns how many jobs an Orthanc that does not say so works on at a time, once it has the lines that init proposes; 0 where it says so.
func (p *Plan) silentJobs() int {
	if p.Archive.System.ConcurrentJobs > 0 {
		return 0
	}
	concurrent, _ := p.knownJobs()
	return max(concurrent, concurrentJobs)
}

var plain = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./:-]*$`)

// quote writes a text as YAML: JSON's way to write a text is YAML's too.
func quote(s string) (string, error) {
	if plain.MatchString(s) && !strings.HasSuffix(s, ":") {
		return s, nil
	}
	return encode(s, "")
}

// Hook returns the Lua hook with the router's address and the token's file in its table of settings.
func (p *Plan) Hook() (string, error) {
	text := lua.Hook
	for setting, value := range map[string]string{"url": p.RouterURL, "token_file": p.Options.TokenPath} {
		line := regexp.MustCompile(`(?m)^(  ` + setting + ` = )'[^']*',$`)
		if len(line.FindAllString(text, -1)) != 1 {
			return "", fmt.Errorf("the hook has no setting %q: program and script do not fit together", setting)
		}
		text = line.ReplaceAllStringFunc(text, func(found string) string {
			return line.FindStringSubmatch(found)[1] + luaText(value) + ","
		})
	}
	return text, nil
}

func luaText(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`).Replace(s) + "'"
}

// JSON returns the lines for orthanc.json.
func (p *Plan) JSON() (string, error) {
	text, err := encode(p.Additions(), "  ")
	return text + "\n", err
}

// Compose returns the same for the image orthancteam/orthanc: a file that Docker Compose lays over the site's own.
func (p *Plan) Compose() (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, `# For the image orthancteam/orthanc, whose service is called "orthanc" here. As it stands, a second file for Docker Compose:
#   docker compose -f docker-compose.yml -f %s up -d orthanc
# or copy the lines. Each variable replaces the whole value that your configuration has under this name.
services:
  orthanc:
    environment:
`, ComposeFile)
	line := func(name string, value any) error {
		text, ok := value.(string)
		if !ok {
			var err error
			if text, err = encode(value, ""); err != nil {
				return err
			}
			text = strings.ReplaceAll(text, "\n", "")
		}
		// A dollar begins a variable of Compose's.
		_, err := fmt.Fprintf(&b, "      %s: '%s'\n", name, strings.NewReplacer("'", "''", "$", "$$").Replace(text))
		return err
	}
	additions := p.Additions()
	additions["LuaScripts"] = p.scripts(containerHook)
	if _, wanted := additions[keyMD5]; wanted { // how the image spells this one is not known for sure
		delete(additions, keyMD5)
		fmt.Fprintf(&b, "      # and in a JSON file of the configuration: \"%s\": true\n", keyMD5)
	}
	for _, key := range sorted(additions) {
		if err := line(EnvName(key), additions[key]); err != nil {
			return "", err
		}
	}
	if err := errors.Join(line("IMAGING_ROUTER_URL", p.RouterURL), line("IMAGING_ROUTER_TOKEN_FILE", "/run/secrets/"+TokenFile)); err != nil {
		return "", err
	}
	dir := strings.ReplaceAll(p.Options.Dir, "'", "''")
	fmt.Fprintf(&b, `    volumes:
      - '%[1]s/%[2]s:%[3]s:ro'
    secrets: [%[4]s]
secrets:
  %[4]s:
    file: '%[1]s/%[4]s'
`, dir, HookFile, containerHook, TokenFile)
	return b.String(), nil
}

// EnvName returns the variable by which the image orthancteam/orthanc takes a key: StableAge is ORTHANC__STABLE_AGE.
func EnvName(key string) string {
	return "ORTHANC__" + strings.ToUpper(capital.ReplaceAllString(key, "${1}_${2}"))
}

var capital = regexp.MustCompile(`([a-z0-9])([A-Z])`)

// ErrExists says that a file is in the way.
var ErrExists = errors.New("is there already (--force replaces it, and keeps the old one as .old)")

// Write writes the files into the folder and returns their names. A token that is there stays; anything else that is there is an error
// before anything was written, or with force kept as .old.
func (p *Plan) Write(force bool) ([]string, error) {
	type file struct {
		name    string
		content func() (string, error)
	}
	files := []file{{ConfigFile, p.Config}, {HookFile, p.Hook}, {JSONFile, p.JSON}, {ComposeFile, p.Compose}}
	contents := make([]string, len(files))
	var problems []error
	for i, f := range files {
		var err error
		if contents[i], err = f.content(); err != nil {
			return nil, fmt.Errorf("make %s: %w", f.name, err)
		}
		path := filepath.Join(p.Options.Dir, f.name)
		if _, err := os.Lstat(path); err == nil && !force {
			problems = append(problems, fmt.Errorf("%s %w", path, ErrExists))
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if err := os.MkdirAll(p.Options.Dir, 0o750); err != nil {
		return nil, err
	}
	token, err := writeToken(filepath.Join(p.Options.Dir, TokenFile))
	if err != nil {
		return nil, err
	}
	written := []string{token}
	for i, f := range files {
		path := filepath.Join(p.Options.Dir, f.name)
		if err := replace(path, contents[i]); err != nil {
			return written, err
		}
		written = append(written, path)
	}
	return written, nil
}

// writeToken makes the secret that hook and router share. One that exists is never replaced: Orthanc would go on with the old one.
func writeToken(path string) (string, error) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return path + " (was there, stays)", nil
	}
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(hex.EncodeToString(secret[:]) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path))
	}
	return path, nil
}

// Copies returns the commands that bring hook and token to where Orthanc reads them, where that is not where they were written.
func (p *Plan) Copies() []string {
	var commands []string
	if hook := filepath.Join(p.Options.Dir, HookFile); hook != p.Options.HookPath {
		commands = append(commands, fmt.Sprintf("install -m 0644 %s %s", shellText(hook), shellText(p.Options.HookPath)))
	}
	if token := filepath.Join(p.Options.Dir, TokenFile); token != p.Options.TokenPath {
		commands = append(commands, fmt.Sprintf("install -o orthanc -g orthanc -m 0400 %s %s", shellText(token), shellText(p.Options.TokenPath)))
	}
	return commands
}

func shellText(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// replace writes a file that Orthanc's and the router's users may read: there is no secret in it.
func replace(path, content string) error {
	if err := os.Rename(path, path+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644) //nolint:gosec // to be read by other users, see above
}
