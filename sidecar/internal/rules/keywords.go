package rules

import (
	"slices"
	"sync"

	"github.com/suyashkumar/dicom/pkg/tag"
)

// isKeyword says whether DICOM (PS3.6) knows the keyword.
func isKeyword(word string) bool {
	found, err := tag.FindByKeyword(word)
	return err == nil && found.Keyword == word
}

// keywords returns the keywords of the groups that tell of patient, study, series and picture, for suggestions. The dictionary cannot be
// listed, so its numbers are gone through; that takes some hundredths of a second, and happens when somebody has misspelt one.
var keywords = sync.OnceValue(func() []string {
	var list []string
	for _, group := range []uint16{0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0028, 0x0032, 0x0038, 0x0040, 0x2050} {
		for element := range uint16(0xffff) {
			if found, err := tag.Find(tag.Tag{Group: group, Element: element}); err == nil && element != 0 && found.Keyword != "" {
				list = append(list, found.Keyword)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
})
