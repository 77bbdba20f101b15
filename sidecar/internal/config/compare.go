package config

import "reflect"

// Differs names the sections in which two configurations differ, rules left out: what a running router does not take over.
func (c *Config) Differs(other *Config) []string {
	var sections []string
	mine, theirs := reflect.ValueOf(c).Elem(), reflect.ValueOf(other).Elem()
	for _, f := range fieldsOf(mine.Type()) {
		if f.key != "rules" && !reflect.DeepEqual(mine.Field(f.index).Interface(), theirs.Field(f.index).Interface()) {
			sections = append(sections, f.key)
		}
	}
	return sections
}
