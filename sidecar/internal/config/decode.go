package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"imagingrouter/sidecar/internal/suggest"
)

// decoder copies a YAML tree into a struct and remembers where each value stood. Unlike an ordinary strict decoder it does
// not stop at the first fault: somebody who edits a file wants to hear of all of them at once.
type decoder struct {
	report  *report
	anchors map[string]ast.Node
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	byteSizeType = reflect.TypeFor[ByteSize]()
)

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *decoder) decode(node ast.Node, into reflect.Value, path string) {
	node, ok := d.resolve(node, path)
	if !ok {
		return
	}
	switch into.Kind() {
	case reflect.Struct:
		d.decodeStruct(node, into, path)
	case reflect.Slice:
		d.decodeSlice(node, into, path)
	case reflect.Map:
		d.decodeMap(node, into, path)
	default:
		d.decodeScalar(node, into, path)
	}
}

// resolve follows anchors, aliases and tags to the value that they stand for.
func (d *decoder) resolve(node ast.Node, path string) (ast.Node, bool) {
	const most = 16 // "&a !!str *a" stands for itself without end
	for range most {
		switch n := node.(type) {
		case *ast.AnchorNode:
			d.anchors[n.Name.GetToken().Value] = n.Value
			node = n.Value
		case *ast.AliasNode:
			name := n.Value.GetToken().Value
			target, known := d.anchors[name]
			if !known {
				d.report.fail(path, "the alias *%s has no anchor &%s before it", name, name)
				return nil, false
			}
			node = target
		case *ast.TagNode:
			node = n.Value
		default:
			return node, true
		}
	}
	d.report.fail(path, "its alias stands for itself")
	return nil, false
}

func (d *decoder) decodeStruct(node ast.Node, into reflect.Value, path string) {
	if _, empty := node.(*ast.NullNode); empty {
		return // a section whose keys are all commented out
	}
	entries, ok := mappingEntries(node)
	if !ok {
		d.report.fail(path, "must be a section with keys%s", got(node))
		return
	}
	known := fieldsOf(into.Type())
	for _, entry := range entries {
		key := entry.Key.GetToken()
		field := slices.IndexFunc(known, func(f field) bool { return f.key == key.Value })
		if field < 0 {
			names := make([]string, 0, len(known))
			for _, f := range known {
				names = append(names, f.key)
			}
			at := position{line: key.Position.Line, column: key.Position.Column}
			d.report.failAt(at, join(path, key.Value), "unknown key%s", suggest.DidYouMean(key.Value, names))
			continue
		}
		d.note(entry.Value, key.Position.Line, key.Position.Column, join(path, key.Value))
		d.decode(entry.Value, into.Field(known[field].index), join(path, key.Value))
	}
}

// note remembers where a value stands: a scalar at its own first character, a section or a list at its key.
func (d *decoder) note(value ast.Node, keyLine, keyColumn int, path string) {
	at := position{line: keyLine, column: keyColumn}
	switch value.(type) {
	case *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode, *ast.NullNode:
	default:
		if p := value.GetToken().Position; p.Column > 0 {
			at = position{line: p.Line, column: p.Column}
		}
	}
	d.report.where[path] = at
	d.report.nodes[path] = value
}

func (d *decoder) decodeSlice(node ast.Node, into reflect.Value, path string) {
	if _, empty := node.(*ast.NullNode); empty {
		return
	}
	sequence, ok := node.(*ast.SequenceNode)
	if !ok {
		d.report.fail(path, "must be a list such as [a, b]%s", got(node))
		return
	}
	list := reflect.MakeSlice(into.Type(), len(sequence.Values), len(sequence.Values))
	for i, value := range sequence.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		line, column := first(value)
		d.note(value, line, column, at)
		if element, ok := list.Index(i).Addr().Interface().(interface{ setDefaults() }); ok {
			element.setDefaults()
		}
		d.decode(value, list.Index(i), at)
	}
	into.Set(list)
}

func (d *decoder) decodeMap(node ast.Node, into reflect.Value, path string) {
	if _, empty := node.(*ast.NullNode); empty {
		return
	}
	entries, ok := mappingEntries(node)
	if !ok {
		d.report.fail(path, "must be a section with keys%s", got(node))
		return
	}
	m := reflect.MakeMapWithSize(into.Type(), len(entries))
	for _, entry := range entries {
		key := entry.Key.GetToken()
		at := join(path, key.Value)
		d.note(entry.Value, key.Position.Line, key.Position.Column, at)
		value := reflect.New(into.Type().Elem()).Elem()
		d.decode(entry.Value, value, at)
		m.SetMapIndex(reflect.ValueOf(key.Value).Convert(into.Type().Key()), value)
	}
	into.Set(m)
}

func (d *decoder) decodeScalar(node ast.Node, into reflect.Value, path string) {
	switch n := node.(type) {
	case *ast.NullNode:
		d.report.fail(path, "has no value (leave the key out to get its default)")
		return
	case *ast.LiteralNode:
		node = n.Value
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
	default:
		d.report.fail(path, "must be %s%s", kindName(into.Type()), got(node))
		return
	}
	// A quoted "true" or "5" is a text, not a switch or a number.
	_, isText := node.(*ast.StringNode)
	if isText && (into.Kind() == reflect.Bool || (numeric(into.Kind()) && into.Type() != durationType && into.Type() != byteSizeType)) {
		d.report.fail(path, "must be %s (got the text %q)", kindName(into.Type()), node.GetToken().Value)
		return
	}
	if err := setScalar(into, node.GetToken().Value); err != nil {
		d.report.fail(path, "%v", err)
	}
}

// setScalar parses text into a field; the environment uses it as well.
func setScalar(into reflect.Value, text string) error {
	wrong := fmt.Errorf("must be %s (got %q)", kindName(into.Type()), text)
	switch {
	case into.Type() == durationType:
		v, err := time.ParseDuration(text)
		if err != nil {
			return wrong
		}
		into.SetInt(int64(v))
	case into.Type() == byteSizeType:
		v, err := ParseByteSize(text)
		if err != nil {
			return err
		}
		into.SetInt(int64(v))
	case into.Kind() == reflect.String:
		into.SetString(text)
	case into.Kind() == reflect.Bool:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return wrong
		}
		into.SetBool(v)
	case into.Kind() == reflect.Float64:
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return wrong
		}
		into.SetFloat(v)
	default:
		v, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 0, 64)
		if err != nil || into.OverflowInt(v) {
			return wrong
		}
		into.SetInt(v)
	}
	return nil
}

func numeric(k reflect.Kind) bool {
	return k == reflect.Int || k == reflect.Int64 || k == reflect.Float64
}

func kindName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration such as 30s, 10m or 24h"
	case t == byteSizeType:
		return "a size such as 64KiB, 512MiB or 2GiB"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "a number"
	case numeric(t.Kind()):
		return "a whole number"
	default:
		return "a text"
	}
}

func got(node ast.Node) string {
	switch n := node.(type) {
	case *ast.SequenceNode:
		return " (got a list)"
	case *ast.MappingNode, *ast.MappingValueNode:
		return " (got a section with keys)"
	case *ast.LiteralNode:
		return " (got a text)"
	default:
		return fmt.Sprintf(" (got %q)", n.GetToken().Value)
	}
}

func mappingEntries(node ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := node.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	default:
		return nil, false
	}
}

// first returns where the text of a node begins; a mapping's own token is its colon.
func first(node ast.Node) (line, column int) {
	if entries, ok := mappingEntries(node); ok && len(entries) > 0 {
		node = entries[0].Key
	}
	p := node.GetToken().Position
	return p.Line, p.Column
}

// field is a key of a section.
type field struct {
	key   string
	index int
}

func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "" && key != "-" {
			fields = append(fields, field{key, i})
		}
	}
	return fields
}
