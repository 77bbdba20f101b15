package mutations

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
)

// mutant is one damaged file. It comes from its seed and number alone.
type mutant struct {
	number  int
	name    string // of the file that it was made from, and what was done to it
	content []byte
}

// mutate makes the mutant of a number from one of the files.
func mutate(files []file, seed uint64, number int) mutant {
	random := rand.New(rand.NewPCG(seed, uint64(number)))
	at := random.IntN(len(files))
	f := files[at].clone()
	f.rename(random, fmt.Sprint(at))
	name := f.name
	for range 1 + random.IntN(2) {
		kind := random.IntN(len(deep))
		name += ", " + deep[kind].name
		deep[kind].change(&f, random, files)
	}
	content := f.bytes()
	if random.IntN(4) == 0 {
		kind := random.IntN(len(flat))
		name += ", " + flat[kind].name
		content = flat[kind].change(content, random)
	}
	return mutant{number, name, content}
}

// deep are the changes of a file that has been taken apart.
var deep = []struct {
	name   string
	change func(f *file, random *rand.Rand, others []file)
}{
	{"as it is", func(*file, *rand.Rand, []file) {}},
	{"deleted", func(f *file, random *rand.Rand, _ []file) {
		i := random.IntN(len(f.set))
		if f.set[i].tag != sopInstance && len(f.set) > 2 { // the others would all be one instance
			f.set = slices.Delete(f.set, i, i+1)
		}
	}},
	{"duplicated", func(f *file, random *rand.Rand, _ []file) {
		f.set = slices.Insert(f.set, random.IntN(len(f.set)), f.set[random.IntN(len(f.set))])
	}},
	{"swapped", func(f *file, random *rand.Rand, _ []file) {
		i, j := random.IntN(len(f.set)), random.IntN(len(f.set))
		f.set[i], f.set[j] = f.set[j], f.set[i]
	}},
	{"length", func(f *file, random *rand.Rand, _ []file) {
		e := some(f, random)
		n := uint32(len(e.value))
		e.length = pick(random, 0, 1, 2, n-1, n+1, n+2, n*2, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, undefined)
	}},
	{"VR", func(f *file, random *rand.Rand, _ []file) {
		if e := some(f, random); e.vr != "" {
			e.vr = pick(random, "NA", "SQ", "UN", "OB", "OW", "UT", "US", "FD", "DS", "CS", "PN", "AT", "OV", "??", "\x00\x00", "ZZ")
		}
	}},
	{"value", func(f *file, random *rand.Rand, _ []file) {
		for e := some(f, random); len(e.value) > 0 && random.IntN(4) > 0; {
			e.value[random.IntN(min(len(e.value), 256))] = byte(random.IntN(256))
		}
	}},
	{"nested", nest},
	{"number", func(f *file, random *rand.Rand, _ []file) {
		t := pick(random, rows, columns, rows, columns, bitsAllocated, bitsStored, highBit, representation, samplesPerPixel, planar)
		f.number(t, pick(random, 0, 1, 2, 3, 4, 7, 8, 11, 12, 15, 16, 24, 31, 32, 64, 255, 256, 4096, 9999, 32767, 32768, 65534, 65535))
	}},
	{"text", func(f *file, random *rand.Rand, _ []file) {
		t := pick(random, windowCenter, windowWidth, rescaleSlope, rescaleSlope-1, numberOfFrames)
		f.put(t, map[bool]string{true: "IS", false: "DS"}[t == numberOfFrames],
			[]byte(pick(random, "", "0", "-1", "1", "1e400", "-1e308", "nan", "inf", "1\\2\\3", "\\", "2147483648", "0x10", "1e-320", marked, "99999999999999999999")))
	}},
	{"photometric", func(f *file, random *rand.Rand, _ []file) {
		f.put(photometric, "CS", []byte(pick(random, "MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "PALETTE COLOR",
			"HSV", "ARGB", "CMYK", "", marked, "YBR_"+marked, "MONOCHROME2\\RGB")))
	}},
	{"syntax", func(f *file, random *rand.Rand, _ []file) {
		// Without writing the elements anew: the file says one thing and is another.
		f.put(metaSyntax, "UI", []byte(pick(random, implicitLittle, explicitLittle, deflated, explicitBig, jpegBaseline, rle, uidRoot+".4.51", uidRoot+".4.57", uidRoot+".4.70",
			uidRoot+".4.80", uidRoot+".4.81", uidRoot+".4.90", uidRoot+".4.91", uidRoot+".4.201", uidRoot+".8.1", uidRoot+".1.98", uidRoot+".4.100", "1.2.3", "", marked)))
	}},
	{"pixels", splice},
}

// flat are the changes of bytes.
var flat = []struct {
	name   string
	change func(b []byte, random *rand.Rand) []byte
}{
	{"bits", func(b []byte, random *rand.Rand) []byte {
		for range 1 + random.IntN(8) {
			b[132+random.IntN(len(b)-132)] ^= 1 << random.IntN(8)
		}
		return b
	}},
	{"bits of the head", func(b []byte, random *rand.Rand) []byte {
		for range 1 + random.IntN(4) {
			b[132+random.IntN(min(len(b)-132, 1200))] ^= 1 << random.IntN(8)
		}
		return b
	}},
	{"cut", func(b []byte, random *rand.Rand) []byte { return b[:132+random.IntN(len(b)-132)] }},
	{"hole", func(b []byte, random *rand.Rand) []byte {
		at := 132 + random.IntN(len(b)-132)
		return slices.Delete(b, at, min(at+1+random.IntN(16), len(b)))
	}},
	{"inserted", func(b []byte, random *rand.Rand) []byte {
		noise := binary.LittleEndian.AppendUint64(nil, random.Uint64())
		return slices.Insert(b, 132+random.IntN(len(b)-132), noise[:1+random.IntN(8)]...)
	}},
}

// some is any element but the one without which it would be another instance of all.
func some(f *file, random *rand.Rand) *element {
	for {
		if e := &f.set[random.IntN(len(f.set))]; e.tag != sopInstance || len(f.set) == 1 {
			return e
		}
	}
}

func pick[T any](random *rand.Rand, choices ...T) T { return choices[random.IntN(len(choices))] }

// nest puts an element into sequences inside one another, of true, undefined or wrong length.
func nest(f *file, random *rand.Rand, _ []file) {
	e := some(f, random)
	inner, depth := write(nil, f.order(), *e), pick(random, 1, 2, 3, 5, 9, 20, 31, 32, 33, 45)
	if random.IntN(50) == 0 {
		depth = 300 // Orthanc 1.12.7 and 1.13.0 die from more than fifty
	}
	for range depth {
		items, length := write(nil, f.order(), element{item, "", inner, uint32(len(inner))}), uint32(len(inner)+8)
		if random.IntN(2) == 0 {
			items = write(nil, f.order(), element{item, "", inner, undefined})
			items = write(items, f.order(), element{itemEnd, "", nil, 0})
			items = write(items, f.order(), element{sequenceEnd, "", nil, 0})
			length = undefined
		}
		*e = element{modalityLUT, map[bool]string{false: "SQ"}[f.syntax() == implicitLittle], items, length}
		inner = write(nil, f.order(), *e)
	}
}

// splice gives the file pixels that are not its own, or not all of them.
func splice(f *file, random *rand.Rand, others []file) {
	i := f.at(pixelData)
	if i < 0 {
		f.put(pixelData, "OW", make([]byte, pick(random, 0, 2, 512, 1<<16)))
		return
	}
	e := &f.set[i]
	switch random.IntN(4) {
	case 0:
		if n := len(e.value); n > 0 {
			e.value = e.value[:random.IntN(n)]
			if e.length != undefined {
				e.length = uint32(len(e.value))
			}
		}
	case 1:
		for range min(len(e.value), 20) {
			e.value[random.IntN(len(e.value))] = byte(random.IntN(256))
		}
	default:
		other := others[random.IntN(len(others))]
		if j := other.at(pixelData); j >= 0 {
			*e = other.clone().set[j]
			if f.syntax() == implicitLittle {
				e.vr = ""
			} else if e.vr == "" {
				e.vr = "OW"
			}
		}
	}
}
