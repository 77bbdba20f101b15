package rules

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"

	"imagingrouter/sidecar/internal/suggest"
)

// Place is a spot in the list of rules, counted from 0, so that the caller can name file, line and column.
type Place struct {
	Rule   int    // index in the list
	Key    string // "name", "when", "to", "priority", "level", "wait_at_most", "on_timeout", "on_review", "stop", "schedule.from", "schedule.to", "schedule.days", "schedule.zone"
	Item   int    // index in "to" and "schedule.days"
	Line   int    // in "when": line of the expression, from 1
	Column int    // in "when": column of that line in characters, from 1
}

// Locator turns a place into text such as "config.yaml:31:11". Compile uses Place.String when it is nil.
type Locator func(Place) string

// String names the place without a file, for example "rules[2].when:1:4".
func (p Place) String() string {
	switch p.Key {
	case "when":
		return fmt.Sprintf("rules[%d].when:%d:%d", p.Rule, p.Line, p.Column)
	case "to", "schedule.days":
		return fmt.Sprintf("rules[%d].%s[%d]", p.Rule, p.Key, p.Item)
	default:
		return fmt.Sprintf("rules[%d].%s", p.Rule, p.Key)
	}
}

// Problem is one reason why a list of rules cannot be used.
type Problem struct {
	At      string // from the Locator
	Message string // names the rule, and what exists instead
}

// Error reads "at: message".
func (p Problem) Error() string { return p.At + ": " + p.Message }

// Compile checks the whole list against the names of the destinations and returns it ready for use. The error joins every
// Problem that was found (errors.Join), so that one run shows all of them.
func Compile(list []Rule, destinations []string, locate Locator) (*Set, error) {
	if locate == nil {
		locate = Place.String
	}
	env, err := newEnv()
	if err != nil {
		return nil, fmt.Errorf("prepare the rule language: %w", err)
	}
	c := compiler{env: env, destinations: destinations, locate: locate, names: map[string]int{}}
	set := &Set{}
	for i, rule := range list {
		if r, ok := c.rule(i, rule); ok {
			set.rules = append(set.rules, r)
		}
	}
	if len(c.problems) > 0 {
		return nil, errors.Join(c.problems...)
	}
	return set, nil
}

func newEnv() (*cel.Env, error) {
	options := []cel.EnvOption{
		// "confidence >= 1" is a sensible thing to write.
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(10_000),
	}
	for _, v := range variables {
		options = append(options, cel.Variable(v.name, v.kind))
	}
	return cel.NewEnv(options...)
}

type compiler struct {
	env          *cel.Env
	destinations []string
	locate       Locator
	names        map[string]int
	problems     []error
}

func (c *compiler) fail(at Place, rule Rule, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if rule.Name != "" {
		message = fmt.Sprintf("rule %q: %s", rule.Name, message)
	}
	c.problems = append(c.problems, Problem{At: c.locate(at), Message: message})
}

func (c *compiler) rule(i int, rule Rule) (compiled, bool) {
	before := len(c.problems)
	r := compiled{Rule: rule}
	r.To = slices.Clone(rule.To)
	c.name(i, rule)
	c.when(i, rule, &r)
	c.to(i, rule)
	c.whole(i, rule)
	c.turn(i, rule, &r)
	return r, len(c.problems) == before
}

func (c *compiler) name(i int, rule Rule) {
	at := Place{Rule: i, Key: "name"}
	if strings.TrimSpace(rule.Name) == "" {
		c.fail(at, rule, "needs a name")
		return
	}
	if first, taken := c.names[rule.Name]; taken {
		c.fail(at, rule, "the name is already taken by rules[%d]", first)
		return
	}
	c.names[rule.Name] = i
}

func (c *compiler) to(i int, rule Rule) {
	if len(rule.To) == 0 {
		c.fail(Place{Rule: i, Key: "to"}, rule, "names no destination in \"to\"")
	}
	for k, d := range rule.To {
		switch {
		case len(c.destinations) == 0:
			c.fail(Place{Rule: i, Key: "to", Item: k}, rule, "unknown destination %q: the configuration has no destinations", d)
		case !slices.Contains(c.destinations, d):
			c.fail(Place{Rule: i, Key: "to", Item: k}, rule, "unknown destination %q%s", d, suggest.DidYouMean(d, c.destinations))
		case slices.Index(rule.To, d) < k:
			c.fail(Place{Rule: i, Key: "to", Item: k}, rule, "destination %q is named twice", d)
		}
	}
}

// choice checks a key that has a few words to choose from; leaving it out is always one.
func choice[T ~string](c *compiler, i int, rule Rule, key string, value T, known ...T) {
	if value == "" || slices.Contains(known, value) {
		return
	}
	words := make([]string, len(known))
	for k, w := range known {
		words[k] = string(w)
	}
	c.fail(Place{Rule: i, Key: key}, rule, "unknown %s %q (known: %s)", key, string(value), strings.Join(words, ", "))
}

// whole checks what the rule sends, and how long it waits for it.
func (c *compiler) whole(i int, rule Rule) {
	choice(c, i, rule, "level", rule.Level, LevelInstance, LevelSeries, LevelStudy)
	choice(c, i, rule, "on_timeout", rule.OnTimeout, TimeoutSend, TimeoutHold)
	choice(c, i, rule, "on_review", rule.OnReview, ReviewHold, ReviewSend, ReviewSkip)
	if rule.WaitAtMost < 0 {
		c.fail(Place{Rule: i, Key: "wait_at_most"}, rule, "must not be negative (got %v)", rule.WaitAtMost)
	}
	if rule.Level.orInstance() != LevelInstance {
		return
	}
	for _, k := range []struct {
		key string
		set bool
	}{{"wait_at_most", rule.WaitAtMost != 0}, {"on_timeout", rule.OnTimeout != ""}, {"on_review", rule.OnReview != ""}} {
		if k.set {
			c.fail(Place{Rule: i, Key: k.key}, rule, "only a rule that waits can have this: add \"level: study\" or \"level: series\"")
		}
	}
}

// turn checks when and in which order the rule's deliveries go.
func (c *compiler) turn(i int, rule Rule, r *compiled) {
	choice(c, i, rule, "priority", rule.Priority, High, Normal, Low)
	if rule.Stop && rule.Fallback {
		c.fail(Place{Rule: i, Key: "stop"}, rule, "a fallback has the last word already: leave \"stop\" out")
	}
	r.schedule = rule.Schedule.compile(func(key string, item int, format string, args ...any) {
		c.fail(Place{Rule: i, Key: key, Item: item}, rule, format, args...)
	})
}

func (c *compiler) when(i int, rule Rule, r *compiled) {
	start := Place{Rule: i, Key: "when", Line: 1, Column: 1}
	if strings.TrimSpace(rule.When) == "" {
		c.fail(start, rule, "needs an expression in \"when\" (\"true\" matches every result that is not under review)")
		return
	}
	ast, issues := c.env.Compile(rule.When)
	if issues.Err() != nil {
		for _, e := range issues.Errors() {
			at := start
			at.Line, at.Column = e.Location.Line(), e.Location.Column()+1
			c.fail(at, rule, "%s", explain(e))
			if strings.HasPrefix(e.Message, syntaxError) {
				break // what follows the first one is usually its consequence
			}
		}
		return
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) {
		c.fail(start, rule, "the expression must be true or false, it is of type %s", t)
		return
	}
	r.mention = mentioned(ast)
	found := wrongClasses(ast)
	var wrong []slip
	r.tags, wrong = tagKeywords(ast)
	for _, slip := range append(found, wrong...) {
		at := start
		at.Line, at.Column = slip.line, slip.column
		c.fail(at, rule, "%s", slip.message)
	}
	program, err := c.env.Program(ast, cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		c.fail(start, rule, "%v", err)
		return
	}
	r.program = program
}

// syntaxError begins the messages of CEL's parser.
const syntaxError = "Syntax error: "

var (
	undeclared = regexp.MustCompile(`^undeclared reference to '([^']+)'`)
	noOverload = regexp.MustCompile(`^found no matching overload for '(?:_?)([^'_]+|_[^']*_)(?:_?)' applied to '([^']*)'`)
)

// explain turns CEL's message into one that says what exists instead.
func explain(e *common.Error) string {
	if m := undeclared.FindStringSubmatch(e.Message); m != nil {
		text := fmt.Sprintf("%q does not exist", m[1])
		if near, ok := suggest.Nearest(m[1], variableNames()); ok {
			text += fmt.Sprintf(", did you mean %q?", near)
		}
		return text + " (a rule can use: " + strings.Join(variableNames(), ", ") + ")"
	}
	if m := noOverload.FindStringSubmatch(e.Message); m != nil {
		return fmt.Sprintf("%s cannot be used with values of these types: %s", m[1], strings.Trim(m[2], "()"))
	}
	message, _, _ := strings.Cut(e.Message, "\n")
	message = strings.TrimPrefix(message, syntaxError)
	if strings.HasPrefix(message, "token recognition error at: '=") {
		return "a single = compares nothing, write =="
	}
	if strings.HasPrefix(message, "mismatched input '<EOF>'") {
		return "the expression ends too early"
	}
	return message
}
