// SPDX-License-Identifier: Apache-2.0

package netdump

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// dumps are the functions of the netlink library that list a table. Lists of connections are
// excepted: connections come and go while they are listed.
var dumps = regexp.MustCompile(`List|Iter`)

const ofConnections = "ConntrackTableList"

// TestEveryDumpIsWhole: the repository lists tables of the kernel only by Whole.
func TestEveryDumpIsWhole(t *testing.T) {
	found := 0
	for _, dir := range []string{"cmd", "control", "loader"} {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Walk(dumpFinder{func(at token.Pos, whole bool) {
				found++
				if !whole {
					t.Errorf("%s: not by netdump.Whole", files.Position(at))
				}
			}, false}, file)
			return nil
		})
		must(t, err)
	}
	if found == 0 {
		t.Error("the test finds no dump at all")
	}
}

// dumpFinder visits the parts of a file, and notes which are arguments of Whole.
type dumpFinder struct {
	found func(at token.Pos, whole bool)
	whole bool
}

func (f dumpFinder) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.CallExpr:
		if s, ok := n.Fun.(*ast.SelectorExpr); ok && isOf(s, "netdump") {
			f.whole = true
		}
	case *ast.SelectorExpr:
		if isOf(n, "netlink") && dumps.MatchString(n.Sel.Name) && n.Sel.Name != ofConnections {
			f.found(n.Pos(), f.whole)
		}
	}
	return f
}

func isOf(s *ast.SelectorExpr, pkg string) bool {
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg
}
