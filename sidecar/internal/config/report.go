package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"imagingrouter/sidecar/internal/rules"
)

// Problem is one fault of the configuration. It reads "config.yaml:12:5: orthanc.timeout: must be greater than 0 (got -1s)".
type Problem struct {
	File         string // the file, or the environment variable that holds the value
	Line, Column int    // from 1; 0 where the value stands in no line
	Key          string // dotted path
	Message      string
}

// Error puts the place before the message.
func (p Problem) Error() string {
	at := p.File
	if p.Line > 0 {
		at = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
	if p.Key == "" {
		return at + ": " + p.Message
	}
	return at + ": " + p.Key + ": " + p.Message
}

type position struct {
	variable     string // environment variable, when the value came from there
	line, column int
}

// report collects the faults and knows where each value stood.
type report struct {
	file     string
	source   []string // lines of the file
	where    map[string]position
	nodes    map[string]ast.Node
	problems []Problem
}

func newReport(file, source string) *report {
	return &report{file: file, source: strings.Split(source, "\n"), where: map[string]position{}, nodes: map[string]ast.Node{}}
}

// fail reports a fault of the value at path. A value that is absent is reported at the nearest section around it.
func (r *report) fail(path, format string, args ...any) {
	r.failAt(r.find(path), path, format, args...)
}

func (r *report) failAt(at position, path, format string, args ...any) {
	p := Problem{File: r.file, Line: at.line, Column: at.column, Key: path, Message: fmt.Sprintf(format, args...)}
	if at.variable != "" {
		p.File = at.variable
	}
	r.problems = append(r.problems, p)
}

// failed says whether a fault of the value, or of a part of it, is reported already.
func (r *report) failed(path string) bool {
	return slices.ContainsFunc(r.problems, func(p Problem) bool {
		rest, ok := strings.CutPrefix(p.Key, path)
		return ok && (rest == "" || rest[0] == '[' || rest[0] == '.')
	})
}

func (r *report) find(path string) position {
	for path != "" {
		if at, ok := r.where[path]; ok {
			return at
		}
		cut := strings.LastIndexAny(path, ".[")
		path = path[:max(cut, 0)]
	}
	return position{}
}

// err joins what was found, in the order of the file.
func (r *report) err() error {
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	list := make([]error, 0, len(r.problems))
	for _, p := range r.problems {
		list = append(list, p)
	}
	return errors.Join(list...)
}

// locateRule finds the place of a fault in the list of rules. Inside an expression that YAML has folded or unescaped, the
// characters of the file and of the expression do not correspond, and the beginning of the expression is named instead.
func (r *report) locateRule(p rules.Place) string {
	path := fmt.Sprintf("rules[%d].%s", p.Rule, p.Key)
	if p.Key == "to" || p.Key == "schedule.days" {
		path = fmt.Sprintf("%s[%d]", path, p.Item)
	}
	at := r.find(path)
	if p.Key == "when" {
		if exact, ok := r.inside(path, p.Line, p.Column); ok {
			at = exact
		}
	}
	if at.line == 0 {
		return r.file + ": " + path
	}
	return fmt.Sprintf("%s:%d:%d: %s", r.file, at.line, at.column, path)
}

func (r *report) inside(path string, line, column int) (position, bool) {
	switch n := r.nodes[path].(type) {
	case *ast.StringNode:
		start := n.GetToken()
		at := position{line: start.Position.Line, column: start.Position.Column + column - 1}
		quoted := start.Type == token.SingleQuoteType || start.Type == token.DoubleQuoteType
		if quoted {
			at.column++
		}
		// Only text that stands in the file as it is: on one line, nothing escaped.
		plain := at.line <= len(r.source) && strings.Contains(r.source[at.line-1], start.Value)
		return at, plain && line == 1
	case *ast.LiteralNode:
		if n.Start.Type != token.LiteralType {
			return position{}, false
		}
		at := position{line: n.Start.Position.Line + line}
		if at.line > len(r.source) {
			return position{}, false
		}
		firstLine := r.source[n.Start.Position.Line]
		at.column = len(firstLine) - len(strings.TrimLeft(firstLine, " ")) + column
		return at, true
	default:
		return position{}, false
	}
}
