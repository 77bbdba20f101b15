// Package bodypart is the domain of the imaging router: the classes of the paper, what a network said about a picture, and what
// the router decided to do with it. It does no I/O and knows neither Orthanc nor DICOM encodings.
package bodypart

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Class is one of the five classes of "DICOM Imaging Router" (Pham, Do, Nguyen, 2021).
type Class string

// The five classes, in the spelling that metadata, results and rules use. Labels use "-" for "_" (see Class.Label).
const (
	Abdominal      Class = "abdominal"
	AdultChest     Class = "adult_chest"
	PediatricChest Class = "pediatric_chest"
	Spine          Class = "spine"
	Others         Class = "others"
)

// Classes returns the five classes in the paper's order. A model may order its outputs differently; model.yaml says how.
func Classes() []Class {
	return []Class{Abdominal, AdultChest, PediatricChest, Spine, Others}
}

// ParseClass returns the class that s spells. It accepts "-" for "_" (the spelling of labels). The error names what exists.
func ParseClass(s string) (Class, error) {
	c := Class(strings.ReplaceAll(s, "-", "_"))
	if slices.Contains(Classes(), c) {
		return c, nil
	}
	names := make([]string, 0, len(Classes()))
	for _, known := range Classes() {
		names = append(names, string(known))
	}
	return "", fmt.Errorf("unknown class %q (known: %s)", s, strings.Join(names, ", "))
}

// Label returns the Orthanc label of the class: prefix + name with "-" for "_", for example "bodypart-adult-chest".
// Orthanc allows at most 64 characters of [A-Za-z0-9_-].
func (c Class) Label(prefix string) string {
	return prefix + strings.ReplaceAll(string(c), "_", "-")
}

// ReviewLabel returns the label of a picture that a person should look at, for example "bodypart-review".
func ReviewLabel(prefix string) string { return prefix + "review" }

// Prediction is what the network said about one picture.
type Prediction struct {
	Class         Class             `json:"class"`         // the most probable class
	Confidence    float64           `json:"confidence"`    // its calibrated probability, 0…1
	Probabilities map[Class]float64 `json:"probabilities"` // all classes; sums to 1
}

// Reason says in one word why a result needs a person's review.
type Reason string

// The reasons for review.
const (
	ReasonLowConfidence  Reason = "low_confidence"  // confidence below the class's threshold
	ReasonAgeContradicts Reason = "age_contradicts" // PatientAge contradicts adult or pediatric chest
	ReasonAgeAmbiguous   Reason = "age_ambiguous"   // chest, and an age that the network was never taught (13…17 by default)
	ReasonBlank          Reason = "blank"           // the plate carries no picture (all its pixels are alike)
)

// Agreement compares the picture's class with the tag BodyPartExamined (0018,0015).
type Agreement string

// The outcomes of that comparison. Only this word is kept, never the tag's value.
const (
	TagAgrees    Agreement = "agrees"
	TagDisagrees Agreement = "disagrees"
	TagMissing   Agreement = "missing" // no tag, or an empty one
	TagUnknown   Agreement = "unknown" // a value that maps to no class, such as "PORT"
)

// Result is what the router holds about one content of one instance. It carries Orthanc identifiers only, no patient data.
type Result struct {
	Prediction
	InstanceID   string    `json:"-"`       // Orthanc's identifier
	ContentMD5   string    `json:"-"`       // MD5 of the stored DICOM attachment
	Model        string    `json:"model"`   // name@version
	Review       bool      `json:"review"`  // true: no class rule forwards it
	Reasons      []Reason  `json:"reasons"` // why, empty unless Review
	Tag          Agreement `json:"tag"`
	ClassifiedAt time.Time `json:"classified_at"`
}

// Label returns the one label that this result asks for.
func (r Result) Label(prefix string) string {
	if r.Review {
		return ReviewLabel(prefix)
	}
	return r.Class.Label(prefix)
}

// Policy holds the limits by which a prediction becomes a result or a case for review.
type Policy struct {
	Thresholds   map[Class]float64 // least confidence, 0…1; a class that is not named has 0
	ChildUpTo    float64           // years, inclusive of the whole year: up to here a patient is a child (default 12)
	AmbiguousMin float64           // years, inclusive (default 13); AmbiguousMin > AmbiguousMax switches the rule off
	AmbiguousMax float64           // years, inclusive of the whole year (default 17)
}

// Evidence is what is known about a picture beside the network's word.
type Evidence struct {
	AgeYears float64 // PatientAge (0010,1010) in years; meaningful only when AgeKnown
	AgeKnown bool
	Blank    bool // the plate carries no picture
}

// Decide says whether a person must look at the prediction, and why. It is a pure function of its arguments.
func (p Policy) Decide(pred Prediction, ev Evidence) (review bool, reasons []Reason) {
	if ev.Blank {
		reasons = append(reasons, ReasonBlank)
	}
	if pred.Confidence < p.Thresholds[pred.Class] {
		reasons = append(reasons, ReasonLowConfidence)
	}
	if ev.AgeKnown && (pred.Class == AdultChest || pred.Class == PediatricChest) {
		child := ev.AgeYears < p.ChildUpTo+1
		switch {
		case ev.AgeYears >= p.AmbiguousMin && ev.AgeYears < p.AmbiguousMax+1:
			reasons = append(reasons, ReasonAgeAmbiguous)
		case child != (pred.Class == PediatricChest):
			reasons = append(reasons, ReasonAgeContradicts)
		}
	}
	return len(reasons) > 0, reasons
}

// CompareTag compares a class with the value of BodyPartExamined (0018,0015; defined terms in PS3.16 Annex L). The chest
// classes both agree with CHEST: the tag does not know the patient's age. Spine agrees with every spinal region.
func CompareTag(c Class, tag string) Agreement {
	tag = strings.ToUpper(strings.TrimSpace(tag))
	if tag == "" {
		return TagMissing
	}
	var tagged Class
	switch strings.NewReplacer("_", "", " ", "", "-", "").Replace(tag) {
	case "CHEST", "THORAX", "LUNG", "LUNGS", "HEART":
		tagged = AdultChest
	case "ABDOMEN", "ABDOMENPELVIS", "ABDOMINAL", "KUB":
		tagged = Abdominal
	case "SPINE", "CSPINE", "TSPINE", "LSPINE", "SSPINE", "TLSPINE", "LSSPINE", "CTSPINE", "WSPINE", "WHOLESPINE", "CERVICALSPINE",
		"THORACICSPINE", "LUMBARSPINE", "SACRUM", "COCCYX":
		tagged = Spine
	case "SKULL", "HEAD", "NECK", "SHOULDER", "CLAVICLE", "SCAPULA", "HUMERUS", "ELBOW", "FOREARM", "ARM", "WRIST", "HAND", "FINGER",
		"THUMB", "PELVIS", "HIP", "FEMUR", "THIGH", "LEG", "KNEE", "PATELLA", "TIBIA", "FIBULA", "TIBFIB", "ANKLE", "FOOT", "TOE",
		"CALCANEUS", "HEEL", "JAW", "MAXILLA", "MANDIBLE", "FACE", "NOSE", "ORBIT", "TEETH", "TOOTH", "BREAST", "EXTREMITY", "RIB",
		"RIBS", "STERNUM", "ZYGOMA", "SINUS", "TMJ", "HAND-WRIST":
		tagged = Others
	default:
		return TagUnknown
	}
	if c == PediatricChest {
		c = AdultChest
	}
	if c == tagged {
		return TagAgrees
	}
	return TagDisagrees
}
