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

// tagKeywords returns the DICOM keywords that an expression looks up in tags, and those that do not exist.
func tagKeywords(a *cel.Ast) (known []string, slips []slip) {
	info := a.NativeRep().SourceInfo()
	fail := func(at ast.Expr, format string, args ...any) {
		where := info.GetStartLocation(at.ID())
		slips = append(slips, slip{line: where.Line(), column: where.Column() + 1, message: fmt.Sprintf(format, args...)})
	}
	check := func(at ast.Expr, word string) {
		if !isKeyword(word) {
			hint := " (a tag is named by its keyword, such as \"StudyDescription\")"
			if near, found := suggest.Nearest(word, keywords()); found {
				hint = fmt.Sprintf(", did you mean %q?", near)
			}
			fail(at, "%q is not the keyword of a DICOM tag%s", word, hint)
		} else if !slices.Contains(known, word) {
			known = append(known, word)
		}
	}
	ast.PreOrderVisit(a.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch {
		case e.Kind() == ast.SelectKind && isVariable(e.AsSelect().Operand(), varTags):
			name := e.AsSelect().FieldName()
			if e.AsSelect().IsTestOnly() {
				fail(e.AsSelect().Operand(), "has() is always true here, since a missing tag is empty: write tags[%q] != \"\"", name)
				return
			}
			check(e.AsSelect().Operand(), name)
		case e.Kind() == ast.CallKind && len(e.AsCall().Args()) == 2:
			left, right := e.AsCall().Args()[0], e.AsCall().Args()[1]
			switch e.AsCall().FunctionName() {
			case operators.Index:
				if word, ok := text(right); ok && isVariable(left, varTags) {
					check(right, word)
				}
			case operators.In:
				if word, ok := text(left); ok && isVariable(right, varTags) {
					check(left, word)
				}
			}
		}
	}))
	return known, slips
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
