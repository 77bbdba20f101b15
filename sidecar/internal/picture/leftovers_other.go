//go:build !linux

package picture

import "os/exec"

// Without Linux's means a decoder's processes are ended by their process group alone.
func startChild(command *exec.Cmd) error { return command.Start() }

func endChild(*exec.Cmd) (left int) { return 0 }

func processLimit() string { return "" }
