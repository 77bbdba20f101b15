// Package suggest finds the word that somebody probably meant when they wrote one that does not exist. It knows nothing about
// what the words stand for.
package suggest

import (
	"slices"
	"strings"
)

// Nearest returns the known word with the least edit distance to word, and false when none is near enough to be a likely
// slip (more than a third of its letters differ, at least two allowed). Words that contain one another count as near.
func Nearest(word string, known []string) (string, bool) {
	best, bestDistance := "", -1
	for _, candidate := range known {
		d := distance(strings.ToLower(word), strings.ToLower(candidate))
		if contains(word, candidate) {
			d = min(d, 2)
		}
		if bestDistance < 0 || d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	if bestDistance < 0 || bestDistance > max(2, len(word)/3) || bestDistance >= len(word) {
		return "", false
	}
	return best, true
}

// DidYouMean returns `, did you mean "x"?` for the nearest known word, else a list of all of them in parentheses.
func DidYouMean(word string, known []string) string {
	if near, ok := Nearest(word, known); ok {
		return `, did you mean "` + near + `"?`
	}
	if len(known) == 0 {
		return ""
	}
	return " (known: " + strings.Join(known, ", ") + ")"
}

func contains(word, candidate string) bool {
	return len(word) >= 4 && len(candidate) >= 4 && (strings.Contains(candidate, word) || strings.Contains(word, candidate))
}

// distance is the Levenshtein distance in bytes; the words here are ASCII identifiers.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := slices.Clone(row)
		row[0] = i + 1
		for j := range len(b) {
			change := 1
			if a[i] == b[j] {
				change = 0
			}
			row[j+1] = min(previous[j]+change, previous[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
