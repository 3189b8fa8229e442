// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// test is a Test function.
type test struct {
	pkg  string // its directory, as ./test/kube
	name string
}

// claims are the tests of each row.
type claims map[int][]test

var claimLine = regexp.MustCompile(`(?m)^Contract:((?: ?\d+,?\s?)+)\.?$`)

// otherClaims are the other ways in which a test, or its doc comment, names its rows.
var otherClaims = []*regexp.Regexp{
	regexp.MustCompile(`^TestRow(\d+)`),
	regexp.MustCompile(`^Test\w+, of contract (\d+(?:(?:, | and )\d+)*):`),
	regexp.MustCompile(`^Rows? (\d+(?:(?:, | and )\d+)*)[.:,]`),
}

var number = regexp.MustCompile(`\d+`)

// findClaims reads the doc comments of all tests of a module.
func findClaims(root string) (claims, error) {
	all := claims{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "build") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		relative, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		return all.addFile(path, "./"+filepath.ToSlash(relative))
	})
	return all, err
}

func (c claims) addFile(path, pkg string) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") {
			continue
		}
		if err := c.add(test{pkg, fn.Name.Name}, fn.Doc.Text()); err != nil {
			return fmt.Errorf("%s: %s: %w", path, fn.Name.Name, err)
		}
	}
	return nil
}

func (c claims) add(t test, doc string) error {
	var rows string
	if found := claimLine.FindStringSubmatch(doc); found != nil {
		rows = found[1]
	} else if strings.Contains(doc, "Contract:") {
		return fmt.Errorf(`want a line of its own as "Contract: 14, 15."`)
	}
	for _, other := range otherClaims {
		for _, text := range []string{t.name, doc} {
			if found := other.FindStringSubmatch(text); found != nil {
				rows += " " + found[1]
			}
		}
	}
	for _, text := range number.FindAllString(rows, -1) {
		row, err := strconv.Atoi(text)
		if err != nil || !owed(row) {
			return fmt.Errorf("row %s is not in the contract, see contract.go", text)
		}
		if !slices.Contains(c[row], t) {
			c[row] = append(c[row], t)
		}
	}
	return nil
}

func owed(number int) bool {
	return slices.ContainsFunc(contract, func(r row) bool { return r.number == number })
}

// tests are all that claim a row.
func (c claims) tests() (all []test) {
	for _, r := range contract {
		for _, t := range c[r.number] {
			if !slices.Contains(all, t) {
				all = append(all, t)
			}
		}
	}
	return all
}

// verdict is nil if each row has a test and, if they ran, all have passed.
func (c claims) verdict(results map[test]result, ran bool) error {
	var without, failed []string
	for _, r := range contract {
		if len(c[r.number]) == 0 {
			without = append(without, fmt.Sprintf("%d (%s)", r.number, r.title))
		}
		for _, t := range c[r.number] {
			if got := resultOf(results, t, r.number); ran && got != pass {
				failed = append(failed, fmt.Sprintf("%d (%s: %s)", r.number, t.name, got))
			}
		}
	}
	switch {
	case len(without) > 0 && len(failed) > 0:
		return fmt.Errorf("rows without a test: %s; rows not met: %s", strings.Join(without, ", "), strings.Join(failed, ", "))
	case len(without) > 0:
		return fmt.Errorf("rows without a test: %s", strings.Join(without, ", "))
	case len(failed) > 0:
		return fmt.Errorf("rows not met: %s", strings.Join(failed, ", "))
	}
	return nil
}
