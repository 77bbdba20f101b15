//go:build !race

package routertest

// race says that the tests run without the race detector, and so does the program.
const race = false
