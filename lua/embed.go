// Package lua holds the hook that Orthanc loads, so that the program can hand it out without the repository beside it. It
// knows nothing of what the script does.
package lua

import _ "embed" // for the script

// HookFile is the name under which the hook is handed out.
const HookFile = "on-stored-instance.lua"

// Hook is the script on-stored-instance.lua.
//
//go:embed on-stored-instance.lua
var Hook string
