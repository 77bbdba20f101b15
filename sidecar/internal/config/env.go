package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"imagingrouter/sidecar/internal/suggest"
)

// EnvPrefix begins the name of every environment variable that overrides a key.
const EnvPrefix = "IMAGING_ROUTER_"

// EnvFile names the configuration file; it is no key.
const EnvFile = EnvPrefix + "CONFIG"

// EnvName returns the environment variable of a key: orthanc.url is IMAGING_ROUTER_ORTHANC_URL.
func EnvName(path string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// Keys returns the dotted paths of all keys that the environment can override: scalars and lists of texts or numbers.
// Destinations, rules and tables stand in the file only.
func Keys() []string {
	var keys []string
	walk(reflect.ValueOf(Default()).Elem(), "", func(path string, v reflect.Value) {
		if overridable(v.Type()) {
			keys = append(keys, path)
		}
	})
	return keys
}

func overridable(t reflect.Type) bool {
	if t.Kind() == reflect.Slice {
		return t.Elem().Kind() == reflect.String || t.Elem().Kind() == reflect.Float64
	}
	return t.Kind() != reflect.Map
}

// walk visits every key that holds a value, in the order of the struct.
func walk(v reflect.Value, path string, visit func(path string, v reflect.Value)) {
	for _, f := range fieldsOf(v.Type()) {
		value, at := v.Field(f.index), join(path, f.key)
		if value.Kind() == reflect.Struct {
			walk(value, at, visit)
			continue
		}
		visit(at, value)
	}
}

// override lets the environment win over the file. An empty variable counts as not set: compose files pass those on.
func override(c *Config, environment []string, r *report) {
	set := map[string]string{}
	for _, entry := range environment {
		if name, value, ok := strings.Cut(entry, "="); ok && strings.HasPrefix(name, EnvPrefix) && value != "" && name != EnvFile {
			set[name] = value
		}
	}
	names := []string{EnvFile}
	walk(reflect.ValueOf(c).Elem(), "", func(path string, v reflect.Value) {
		if !overridable(v.Type()) {
			return
		}
		name := EnvName(path)
		names = append(names, name)
		text, ok := set[name]
		if !ok {
			return
		}
		delete(set, name)
		r.where[path] = position{variable: name}
		if err := setFromEnvironment(v, text); err != nil {
			r.fail(path, "%v", err)
		}
	})
	c.Warnings = append(c.Warnings, misspelt(set, names)...)
}

func setFromEnvironment(v reflect.Value, text string) error {
	if v.Kind() != reflect.Slice {
		return setScalar(v, text)
	}
	parts := strings.Split(text, ",")
	list := reflect.MakeSlice(v.Type(), len(parts), len(parts))
	for i, part := range parts {
		if err := setScalar(list.Index(i), strings.TrimSpace(part)); err != nil {
			return err
		}
	}
	v.Set(list)
	return nil
}

// misspelt finds variables that nobody reads and that resemble one that is read. Others with our prefix are left alone:
// the Lua hook has its own, and Kubernetes makes some for every service called imaging-router.
func misspelt(unread map[string]string, names []string) []string {
	var warnings []string
	for name := range unread {
		near, ok := suggest.Nearest(strings.TrimPrefix(name, EnvPrefix), trimAll(names))
		if ok {
			warnings = append(warnings, fmt.Sprintf("environment variable %s is not used, did you mean %s?", name, EnvPrefix+near))
		}
	}
	slices.Sort(warnings)
	return warnings
}

func trimAll(names []string) []string {
	short := make([]string, 0, len(names))
	for _, n := range names {
		short = append(short, strings.TrimPrefix(n, EnvPrefix))
	}
	return short
}
