package rules

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"imagingrouter/sidecar/internal/bodypart"
)

// Context is what an expression can ask about one result. The names in parentheses are those of the expression. What has to be fetched is
// fetched when the first expression that is really evaluated asks for it, at most once for all rules; a nil function stands for nothing known.
type Context struct {
	Class         bodypart.Class             // (class) one of the five classes
	Confidence    float64                    // (confidence) the class's calibrated probability, 0…1
	Probabilities map[bodypart.Class]float64 // (probabilities) of all five classes; a class that is absent here counts as 0
	Review        bool                       // (review) a person must look at the picture first
	Agrees        bool                       // (agrees) BodyPartExamined names the body part that the class stands for
	Now           time.Time                  // (now) zero is the time of the evaluation
	Copy          bool                       // made by Orthanc's modify or anonymise: only rules that say so match it

	Tags    func(context.Context) (Tags, error)    // (tags, tag_body_part, modality, station, age_years, age_known)
	Arrival func(context.Context) (Arrival, error) // (remote_aet, called_aet, origin)
	Study   func(context.Context) (Study, error)   // (study.classes, study.instances)

	// HideTags keeps the values of DICOM tags out of the verdicts: they say "present" or "absent".
	HideTags bool
}

// Tags are the DICOM tags of an instance.
type Tags struct {
	Values   map[string]string // by keyword: "StudyDescription"; what is empty or a sequence may be left out
	AgeYears float64           // of the patient, when AgeKnown
	AgeKnown bool
}

// Arrival is how the instance came into Orthanc.
type Arrival struct {
	RemoteAET, CalledAET string // of DICOM; empty otherwise
	Origin               string // Orthanc's word: DicomProtocol, RestApi, Plugins, Lua, WebDav
}

// Study is what is known of the instance's study so far.
type Study struct {
	Classes   []bodypart.Class // of its results that are not under review
	Instances int              // that Orthanc holds
}

// The variables of an expression.
const (
	varClass          = "class"
	varConfidence     = "confidence"
	varProbabilities  = "probabilities"
	varReview         = "review"
	varAgrees         = "agrees"
	varTagBodyPart    = "tag_body_part"
	varAgeYears       = "age_years"
	varAgeKnown       = "age_known"
	varModality       = "modality"
	varStation        = "station"
	varRemoteAET      = "remote_aet"
	varCalledAET      = "called_aet"
	varOrigin         = "origin"
	varTags           = "tags"
	varStudyClasses   = "study.classes"
	varStudyInstances = "study.instances"
	varNow            = "now"
)

// variables lists them in the order in which messages and verdicts name them.
var variables = []struct {
	name string
	kind *cel.Type
}{
	{varClass, cel.StringType}, {varConfidence, cel.DoubleType}, {varProbabilities, cel.MapType(cel.StringType, cel.DoubleType)},
	{varReview, cel.BoolType}, {varAgrees, cel.BoolType}, {varTagBodyPart, cel.StringType}, {varAgeYears, cel.DoubleType},
	{varAgeKnown, cel.BoolType}, {varModality, cel.StringType}, {varStation, cel.StringType}, {varRemoteAET, cel.StringType},
	{varCalledAET, cel.StringType}, {varOrigin, cel.StringType}, {varTags, cel.MapType(cel.StringType, cel.StringType)},
	{varStudyClasses, cel.ListType(cel.StringType)}, {varStudyInstances, cel.IntType}, {varNow, cel.TimestampType},
}

func variableNames() []string {
	names := make([]string, len(variables))
	for i, v := range variables {
		names[i] = v.name
	}
	return names
}

// facts answers an evaluation's questions about one result and remembers what it has fetched. It implements cel.Activation.
type facts struct {
	ctx           context.Context //nolint:containedctx // CEL passes none to an activation, and facts live for one call
	c             Context
	probabilities map[string]float64
	tags          *Tags
	arrival       *Arrival
	study         *Study
	err           error // of the fetch that failed
}

func newFacts(ctx context.Context, c Context) *facts {
	f := &facts{ctx: ctx, c: c, probabilities: make(map[string]float64, len(bodypart.Classes()))}
	for _, class := range bodypart.Classes() {
		f.probabilities[string(class)] = c.Probabilities[class]
	}
	return f
}

// Parent implements cel.Activation.
func (f *facts) Parent() cel.Activation { return nil }

// ResolveName implements cel.Activation.
func (f *facts) ResolveName(name string) (any, bool) {
	switch name {
	case varClass:
		return string(f.c.Class), true
	case varConfidence:
		return f.c.Confidence, true
	case varProbabilities:
		return f.probabilities, true
	case varReview:
		return f.c.Review, true
	case varAgrees:
		return f.c.Agrees, true
	case varNow:
		return f.c.Now, true
	case varTagBodyPart, varAgeYears, varAgeKnown, varModality, varStation, varTags:
		return fetched(f, &f.tags, f.c.Tags, func(t *Tags) any { return t.answer(name) })
	case varRemoteAET, varCalledAET, varOrigin:
		return fetched(f, &f.arrival, f.c.Arrival, func(a *Arrival) any {
			return map[string]string{varRemoteAET: a.RemoteAET, varCalledAET: a.CalledAET, varOrigin: a.Origin}[name]
		})
	case varStudyClasses, varStudyInstances:
		return fetched(f, &f.study, f.c.Study, func(s *Study) any {
			if name == varStudyInstances {
				return s.Instances
			}
			return s.classes()
		})
	default:
		return nil, false
	}
}

// fetched answers from what was fetched already, or fetches it.
func fetched[T any](f *facts, kept **T, fetch func(context.Context) (T, error), answer func(*T) any) (any, bool) {
	if f.err == nil && *kept == nil {
		var v T
		if fetch != nil {
			v, f.err = fetch(f.ctx)
		}
		if f.err == nil {
			*kept = &v
		}
	}
	if f.err != nil {
		return types.NewErr("a fact could not be fetched"), true
	}
	return answer(*kept), true
}

func (t *Tags) answer(name string) any {
	switch name {
	case varTagBodyPart:
		return t.Values["BodyPartExamined"]
	case varModality:
		return t.Values["Modality"]
	case varStation:
		return t.Values["StationName"]
	case varAgeKnown:
		return t.AgeKnown
	case varAgeYears:
		if !t.AgeKnown {
			return -1.0
		}
		return t.AgeYears
	default:
		present := make(map[string]string, len(t.Values))
		for keyword, value := range t.Values {
			if value != "" {
				present[keyword] = value
			}
		}
		return tagMap{types.NewStringStringMap(types.DefaultTypeAdapter, present)}
	}
}

func (s *Study) classes() []string {
	names := make([]string, 0, len(s.Classes))
	for _, class := range s.Classes {
		names = append(names, string(class))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// tagMap is a map in which every text has a value: that of a tag that is missing is empty, and no error.
type tagMap struct{ traits.Mapper }

// Find implements traits.Mapper.
func (m tagMap) Find(key ref.Val) (ref.Val, bool) {
	if v, found := m.Mapper.Find(key); found {
		return v, true
	}
	return types.String(""), true
}

// Get implements traits.Indexer.
func (m tagMap) Get(key ref.Val) ref.Val {
	v, _ := m.Find(key)
	return v
}

// show writes the values of a variable for a verdict; what was never asked for has none.
func (f *facts) show(name string, keywords []string) []string {
	switch name {
	case varProbabilities:
		var parts []string
		for _, class := range bodypart.Classes() {
			parts = append(parts, fmt.Sprintf("probabilities[%q] = %.4f", class, f.probabilities[string(class)]))
		}
		return parts
	case varConfidence:
		return []string{fmt.Sprintf("confidence = %.4f", f.c.Confidence)}
	case varNow:
		return []string{"now = " + f.c.Now.UTC().Format(time.RFC3339)}
	case varClass, varReview, varAgrees:
	case varTagBodyPart, varAgeYears, varAgeKnown, varModality, varStation, varTags:
		return f.showTag(name, keywords)
	case varRemoteAET, varCalledAET, varOrigin:
		if f.arrival == nil {
			return nil
		}
	default:
		if f.study == nil {
			return nil
		}
	}
	switch value, _ := f.ResolveName(name); v := value.(type) {
	case string:
		return []string{fmt.Sprintf("%s = %q", name, v)}
	case []string:
		return []string{fmt.Sprintf("%s = [%s]", name, strings.Join(v, ", "))}
	default:
		return []string{fmt.Sprintf("%s = %v", name, v)}
	}
}

func (f *facts) showTag(name string, keywords []string) []string {
	if f.tags == nil {
		return nil
	}
	text := func(name, value string) string {
		switch {
		case !f.c.HideTags:
			return fmt.Sprintf("%s = %q", name, value)
		case value == "":
			return name + " absent"
		default:
			return name + " present"
		}
	}
	switch value := f.tags.answer(name).(type) {
	case string:
		return []string{text(name, value)}
	case bool:
		return []string{fmt.Sprintf("%s = %t", name, value)}
	case float64:
		if f.c.HideTags {
			return []string{text(name, map[bool]string{true: "known"}[f.tags.AgeKnown])}
		}
		return []string{fmt.Sprintf("%s = %.2f", name, value)}
	default:
		var parts []string
		for _, keyword := range keywords {
			parts = append(parts, text(fmt.Sprintf("tags[%q]", keyword), f.tags.Values[keyword]))
		}
		return parts
	}
}
