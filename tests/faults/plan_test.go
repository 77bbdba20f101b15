package faults

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// part is what a fault happens to, or needs. Two faults of the same part are never there at the same time. They are taken in this order.
type part string

const (
	theRouter  part = "router"
	theArchive part = "archive"
	theWay     part = "way" // between the two
	chest      part = chestAI
	spine      part = spineAI
	theTrap    part = "trap" // there is one
)

// kind is one kind of fault.
type kind struct {
	name  string
	parts []part
	// repeats: Orthanc may lose or repeat a job by it, or the router lose its memory: what was on its way then may arrive once more
	// (docs/routing.md, The guarantee). By no other kind anything is repeated.
	repeats bool
	// forgets: what came before is no longer expected as if nothing had happened. There is one such fault in each seed.
	forgets bool
	disk    bool // needs a disk of its own for the database
	do      func(w *world, f *fault) error
}

// kinds are all of them.
func kinds() []kind {
	router, archive, way := []part{theRouter}, []part{theArchive}, []part{theWay}
	routerByTrap, archiveByTrap := []part{theRouter, theTrap}, []part{theArchive, theTrap}
	return []kind{
		{name: "router killed", parts: router, do: (*world).killRouter},
		{name: "router killed after it fetched a file", parts: routerByTrap, do: killAt(afterFetch)},
		{name: "router killed after it committed a result", parts: routerByTrap, do: killAt(afterResult)},
		{name: "router killed between metadata and label", parts: routerByTrap, do: killAt(beforeLabel)},
		{name: "router killed after it recorded a delivery", parts: routerByTrap, do: killAt(beforeSubmit)},
		{name: "router killed after it submitted a delivery", parts: routerByTrap, do: killAt(afterSubmit)},
		{name: "router killed when a delivery had arrived", parts: routerByTrap, do: killAt(afterArrival)},
		{name: "archive killed", parts: archiveByTrap, repeats: true, do: (*world).killArchive},
		{name: "archive paused", parts: archive, repeats: true, do: (*world).pauseArchive},
		{name: "chest-ai killed", parts: []part{chest}, repeats: true, do: killDestination(chestAI)},
		{name: "spine-ai killed", parts: []part{spine}, repeats: true, do: killDestination(spineAI)},
		{name: "archive answers 500", parts: way, do: moody(error500)},
		{name: "archive answers 503", parts: way, do: moody(error503)},
		{name: "archive answers nonsense", parts: way, do: moody(garbage)},
		{name: "archive answers slowly", parts: way, do: moody(slow)},
		{name: "files are cut off", parts: way, do: moody(cutFile)},
		{name: "answers are cut off", parts: way, do: moody(cutAnswer)},
		{name: "disk full", parts: routerByTrap, disk: true, do: (*world).fillDisk},
		{name: "disk read-only", parts: router, disk: true, do: (*world).lockDisk},
		{name: "database header overwritten", parts: router, repeats: true, forgets: true, do: (*world).overwriteHeader},
		{name: "database pages overwritten", parts: router, repeats: true, forgets: true, do: (*world).overwritePages},
		{name: "archive wiped", parts: archive, repeats: true, forgets: true, do: (*world).wipeArchive},
		{name: "clock set back", parts: router, repeats: true, do: shiftClock(1)},
		{name: "clock set forward", parts: router, repeats: true, do: shiftClock(-1)},
		{name: "model replaced by garbage before a reload", parts: router, do: (*world).spoilModelAtReload},
		{name: "model replaced by garbage before a start", parts: router, do: (*world).spoilModelAtStart},
		{name: "ONNX Runtime missing", parts: router, do: (*world).missRuntime},
		{name: "ONNX Runtime too old", parts: router, do: (*world).oldRuntime},
	}
}

// hands is among how many seeds the kinds are dealt out: seeds 1 to 3 have all of them, and so have 4 to 6, in another order.
const hands = 3

// deal returns the kinds of a seed, in the order in which they happen.
func deal(seed uint64) []kind {
	game, hand := (seed-1)/hands, int((seed-1)%hands)
	random := rand.New(rand.NewPCG(game, 0xDEA1))
	var plain, forgetting []kind
	for _, k := range kinds() {
		if k.forgets {
			forgetting = append(forgetting, k)
		} else {
			plain = append(plain, k)
		}
	}
	random.Shuffle(len(plain), func(i, j int) { plain[i], plain[j] = plain[j], plain[i] })
	random.Shuffle(len(forgetting), func(i, j int) { forgetting[i], forgetting[j] = forgetting[j], forgetting[i] })
	var mine []kind
	for i, k := range append(forgetting, plain...) {
		if i%hands == hand {
			mine = append(mine, k)
		}
	}
	random = rand.New(rand.NewPCG(seed, 0xDEA1))
	random.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
	return mine
}

// Each three seeds that begin a game have every kind of fault, each seed exactly one that forgets, and a seed is always the same.
func TestThreeSeedsHaveEveryFault(t *testing.T) {
	all := map[string]bool{}
	for _, k := range kinds() {
		all[k.name] = true
	}
	for first := uint64(1); first < 100; first += hands {
		had := map[string]bool{}
		for seed := first; seed < first+hands; seed++ {
			forgetting := 0
			for i, k := range deal(seed) {
				had[k.name] = true
				if k.forgets {
					forgetting++
				}
				if again := deal(seed)[i].name; again != k.name {
					t.Errorf("seed %d has %q, and then %q", seed, k.name, again)
				}
			}
			if forgetting != 1 {
				t.Errorf("seed %d has %d faults that forget", seed, forgetting)
			}
		}
		if !maps.Equal(had, all) {
			t.Errorf("seeds %d to %d have %v", first, first+hands-1, slices.Sorted(maps.Keys(had)))
		}
	}
}
