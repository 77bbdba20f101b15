package rules

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"imagingrouter/sidecar/internal/bodypart"
	"imagingrouter/sidecar/internal/suggest"
)

// mentioned returns the variables that an expression names anywhere.
func mentioned(a *cel.Ast) map[string]bool {
	names := map[string]bool{}
	ast.PreOrderVisit(a.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.IdentKind {
			names[e.AsIdent()] = true
		}
	}))
	return names
}

// slip is a comparison that type-checks and can never be true, such as class == "chest".
type slip struct {
	line, column int
	message      string
}

// wrongClasses finds the constants that stand for a class and are none: compared with class by ==, != or in, and used as a
// key of probabilities. CEL cannot find them, since a class is a string to it.
func wrongClasses(a *cel.Ast) []slip {
	var slips []slip
	info := a.NativeRep().SourceInfo()
	add := func(at ast.Expr, word string) {
		where := info.GetStartLocation(at.ID())
		hint := ""
		if near, ok := suggest.Nearest(word, classNames()); ok {
			hint = fmt.Sprintf(", did you mean %q?", near)
		}
		slips = append(slips, slip{line: where.Line(), column: where.Column() + 1,
			message: fmt.Sprintf("%q is not a class%s (classes: %s)", word, hint, strings.Join(classNames(), ", "))})
	}
	check := func(e ast.Expr) {
		if word, ok := text(e); ok && !slices.Contains(classNames(), word) {
			add(e, word)
		}
	}
	ast.PreOrderVisit(a.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch {
		case e.Kind() == ast.SelectKind && isVariable(e.AsSelect().Operand(), varProbabilities):
			if name := e.AsSelect().FieldName(); !slices.Contains(classNames(), name) {
				add(e.AsSelect().Operand(), name)
			}
		case e.Kind() == ast.CallKind && len(e.AsCall().Args()) == 2:
			call := e.AsCall()
			left, right := call.Args()[0], call.Args()[1]
			switch call.FunctionName() {
			case operators.Equals, operators.NotEquals:
				if isVariable(left, varClass) {
					check(right)
				} else if isVariable(right, varClass) {
					check(left)
				}
			case operators.In:
				if isVariable(left, varClass) && right.Kind() == ast.ListKind {
					for _, element := range right.AsList().Elements() {
						check(element)
					}
				} else if isVariable(right, varProbabilities) {
					check(left)
				}
			case operators.Index:
				if isVariable(left, varProbabilities) {
					check(right)
				}
			}
		}
	}))
	return slips
}

func isVariable(e ast.Expr, name string) bool {
	return e.Kind() == ast.IdentKind && e.AsIdent() == name
}

func text(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

func classNames() []string {
	names := make([]string, 0, 5)
	for _, c := range bodypart.Classes() {
		names = append(names, string(c))
	}
	return names
}
