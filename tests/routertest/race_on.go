//go:build race

package routertest

// race says that the tests run with the race detector, and so must the program.
const race = true
