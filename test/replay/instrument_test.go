// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// flowTests is the function of kube-proxy's tests that is given the rows.
const flowTests = "runPacketFlowTests"

// calls are put at the beginning of functions: their arguments are those of the function by number,
// and anything else as it is. A method's receiver is number 0.
var calls = map[string][]string{
	"OnServiceUpdate":       {"recordService", "0", "1", "2"},
	"OnEndpointSliceAdd":    {"recordSlice", "0", "1", "false"},
	"OnEndpointSliceUpdate": {"recordSlice", "0", "2", "false"},
	"OnEndpointSliceDelete": {"recordSlice", "0", "1", "true"},
	flowTests:               {"recordRows", "1", "3", "4", "5"},
}

// instrument returns the files of a package of kube-proxy with calls of the recorder in them, by
// name, nil where a file is as it was. Of its tests those without rows are left out, and what only
// they use: that would need modules that nothing else here does.
func instrument(dir string) (map[string][]byte, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	fset, out, missing := token.NewFileSet(), map[string][]byte{}, map[string]bool{}
	for name := range calls {
		missing[name] = true
	}
	parsed, tests := map[string]*ast.File{}, map[string]*ast.File{}
	for _, name := range names {
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		out[filepath.Base(name)] = nil
		if strings.HasSuffix(name, "_test.go") {
			tests[name] = file
		}
		if insertCalls(file, missing) || tests[name] != nil {
			parsed[name] = file
		}
	}
	for name := range missing {
		return nil, fmt.Errorf("%s has no function %s, whose arguments were to be recorded", dir, name)
	}
	prune(tests)
	for name, file := range parsed {
		var text bytes.Buffer
		if err := printer.Fprint(&text, fset, file); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[filepath.Base(name)] = text.Bytes()
	}
	return out, nil
}

// insertCalls returns whether it has changed the file.
func insertCalls(file *ast.File, missing map[string]bool) (changed bool) {
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || calls[fn.Name.Name] == nil {
			continue
		}
		call := &ast.CallExpr{Fun: ast.NewIdent(calls[fn.Name.Name][0])}
		params := parameters(fn)
		for _, arg := range calls[fn.Name.Name][1:] {
			if number := int(arg[0] - '0'); number < len(params) {
				arg = params[number]
			}
			call.Args = append(call.Args, ast.NewIdent(arg))
		}
		fn.Body.List = append([]ast.Stmt{&ast.ExprStmt{X: call}}, fn.Body.List...)
		delete(missing, fn.Name.Name)
		changed = true
	}
	return changed
}

// parameters are the names of a function's receiver, which may be "", and its parameters.
func parameters(fn *ast.FuncDecl) []string {
	names := []string{""}
	if fn.Recv != nil {
		names[0] = fn.Recv.List[0].Names[0].Name
	}
	for _, field := range fn.Type.Params.List {
		for _, name := range field.Names {
			names = append(names, name.Name)
		}
	}
	return names
}

// prune leaves of test files what the tests with rows need.
func prune(files map[string]*ast.File) {
	declared := map[string][]ast.Decl{}
	for _, file := range files {
		for _, decl := range file.Decls {
			for _, name := range declares(decl) {
				declared[name] = append(declared[name], decl)
			}
		}
	}
	needed := map[ast.Decl]bool{}
	for name, decls := range declared {
		if strings.HasPrefix(name, "Test") && uses(decls[0])[flowTests] {
			need(name, declared, needed)
		}
	}
	for _, file := range files {
		var kept []ast.Decl
		used := map[string]bool{}
		for _, decl := range file.Decls {
			if needed[decl] {
				kept = append(kept, decl)
				for name := range uses(decl) {
					used[name] = true
				}
			}
		}
		file.Decls = append(imports(file, used), kept...)
	}
}

// need marks what declares a name, and all that it uses.
func need(name string, declared map[string][]ast.Decl, needed map[ast.Decl]bool) {
	for _, decl := range declared[name] {
		if needed[decl] {
			continue
		}
		needed[decl] = true
		for used := range uses(decl) {
			need(used, declared, needed)
		}
	}
}

// declares lists the names that a declaration makes; a method belongs to its type.
func declares(decl ast.Decl) (names []string) {
	if fn, ok := decl.(*ast.FuncDecl); ok {
		if fn.Recv == nil {
			return []string{fn.Name.Name}
		}
		for name := range uses(fn.Recv) {
			names = append(names, name)
		}
		return names
	}
	for _, spec := range decl.(*ast.GenDecl).Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			names = append(names, spec.Name.Name)
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				names = append(names, name.Name)
			}
		}
	}
	return names
}

// uses are all identifiers below a node.
func uses(node ast.Node) map[string]bool {
	names := map[string]bool{}
	ast.Inspect(node, func(n ast.Node) bool {
		if ident, ok := n.(*ast.Ident); ok {
			names[ident.Name] = true
		}
		return true
	})
	return names
}

// imports are the declarations of those imports of a file whose names are used.
func imports(file *ast.File, used map[string]bool) (decls []ast.Decl) {
	for _, spec := range file.Imports {
		if used[importName(spec)] {
			decls = append(decls, &ast.GenDecl{Tok: token.IMPORT, Specs: []ast.Spec{spec}})
		}
	}
	return decls
}

// majorVersion is the end of a module's path, but not of an API's v1.
var majorVersion = regexp.MustCompile(`/v([2-9]|[1-9][0-9]+)$`)

// importName is what an import is known by: a name of its own, or the last element of its path.
func importName(spec *ast.ImportSpec) string {
	if spec.Name != nil {
		return spec.Name.Name
	}
	return path.Base(majorVersion.ReplaceAllString(strings.Trim(spec.Path.Value, `"`), ""))
}

// asPackage is a Go file in another package.
func asPackage(name, pkg string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.PackageClauseOnly)
	if err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(text, []byte(file.Name.Name), []byte(pkg)), nil
}
