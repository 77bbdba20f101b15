package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"imagingrouter/sidecar/internal/rules"
)

// Load reads the file, lets the environment override it, reads the secret files, checks everything and compiles the rules.
// The error joins a Problem for each fault.
func Load(path string) (*Config, error) {
	return load(path, true)
}

// LoadWithoutSecrets is Load for commands that call nobody, such as classify: it leaves password and token files unread,
// which the person at the keyboard often may not read.
func LoadWithoutSecrets(path string) (*Config, error) {
	return load(path, false)
}

func load(path string, secrets bool) (*Config, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return parse(path, source, os.Environ(), secrets)
}

// FromEnvironment returns the defaults as the environment overrides them, for commands that need no file.
func FromEnvironment() (*Config, error) {
	return parse("", nil, os.Environ(), false)
}

func parse(path string, source []byte, environment []string, secrets bool) (*Config, error) {
	c := Default()
	c.Path = path
	r := newReport(path, string(source))
	if err := decodeFile(c, source, r); err != nil {
		return nil, err
	}
	override(c, environment, r)
	if secrets {
		c.readSecrets(r)
	}
	c.validate(r)
	ruleErr := c.compileRules(r)
	if err := errors.Join(r.err(), ruleErr); err != nil {
		return nil, err
	}
	return c, nil
}

func decodeFile(c *Config, source []byte, r *report) error {
	file, err := parser.ParseBytes(source, 0)
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) {
			at := syntax.GetToken().Position
			return Problem{File: r.file, Line: at.Line, Column: at.Column, Message: syntax.GetMessage()}
		}
		return fmt.Errorf("read configuration %s: %w", r.file, err)
	}
	if len(file.Docs) > 1 {
		return Problem{File: r.file, Message: "holds more than one YAML document (a line \"---\" begins another)"}
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return nil
	}
	body := file.Docs[0].Body
	if _, comment := body.(*ast.CommentGroupNode); comment {
		return nil
	}
	d := decoder{report: r, anchors: map[string]ast.Node{}}
	d.decode(body, reflect.ValueOf(c).Elem(), "")
	return nil
}

// readSecrets reads the files that the keys *_file of credentials name.
func (c *Config) readSecrets(r *report) {
	read := func(key, path string, into *Secret) {
		if path == "" {
			return
		}
		content, err := os.ReadFile(path)
		if err != nil {
			r.fail(key, "cannot be read: %v", err)
			return
		}
		text := strings.TrimRight(string(content), "\r\n")
		switch {
		case text == "":
			r.fail(key, "%s is empty", path)
		case strings.ContainsAny(text, "\r\n"):
			r.fail(key, "%s holds more than one line", path)
		default:
			*into = Secret(text)
		}
	}
	read("orthanc.password_file", c.Orthanc.PasswordFile, &c.Orthanc.Password)
	read("server.hook_token_file", c.Server.HookTokenFile, &c.Server.HookToken)
	for i := range c.Destinations {
		w := &c.Destinations[i].Webhook
		read(fmt.Sprintf("destinations[%d].webhook.secret_file", i), w.SecretFile, &w.Secret)
	}
}

func (c *Config) compileRules(r *report) error {
	set, err := rules.Compile(c.RuleList, c.DestinationNames(), r.locateRule)
	if err != nil {
		return err
	}
	c.Rules = set
	return nil
}
