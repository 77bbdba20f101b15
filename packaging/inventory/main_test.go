package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIdentify(t *testing.T) {
	for text, want := range map[string]string{
		"Apache License\n   Version 2.0, January 2004":                                                   "Apache-2.0",
		"Permission is hereby granted, free of charge, to any person obtaining a copy\nof this software": "MIT",
		"Mozilla Public License Version 2.0":                                                             "MPL-2.0",
		"Redistribution and use in source and binary forms, with or without ... Neither the name of":     "BSD-3-Clause",
		"Redistribution and use in source and binary forms are permitted":                                "BSD-2-Clause",
		"Permission to use, copy, modify, and/or distribute this software for any purpose":               "ISC",
		"You may do nothing with this.":                                                                  "",
	} {
		if got := identify(text); got != want {
			t.Errorf("%.40q: %q, want %q", text, got, want)
		}
	}
}

// TestInventoryOfItself: this test's own program is built of modules too.
func TestInventoryOfItself(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bill, texts := filepath.Join(t.TempDir(), "sub", "bill.json"), filepath.Join(t.TempDir(), "texts.txt")
	if err := run(self, "1.2.3", bill, texts); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(bill)
	if err != nil {
		t.Fatal(err)
	}
	var b struct {
		BOMFormat  string `json:"bomFormat"`
		Components []struct{ Name, Version string }
		Metadata   struct{ Component struct{ Version string } }
	}
	if err := json.Unmarshal(content, &b); err != nil || b.BOMFormat != "CycloneDX" || b.Metadata.Component.Version != "1.2.3" {
		t.Fatalf("%s, %v", content, err)
	}
	found := false
	for _, c := range b.Components {
		found = found || c.Name == "github.com/CycloneDX/cyclonedx-go" && c.Version != ""
	}
	if !found {
		t.Errorf("a module that is linked is not listed: %+v", b.Components)
	}
	if text, err := os.ReadFile(texts); err != nil || !strings.Contains(string(text), "cyclonedx-go") {
		t.Errorf("the licence texts lack it: %v", err)
	}
	if err := run(texts, "", bill, texts); err == nil {
		t.Error("a file that is no program was taken for one")
	}
}
