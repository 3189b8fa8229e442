// SPDX-License-Identifier: Apache-2.0

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// foreignFlags are those of other commands: kubectl logs, ipvsadm, kube-proxy, iptables-restore.
var foreignFlags = []string{"previous", "clear", "cleanup", "noflush"}

// TestNamedFlagsExist: each flag that a message or a help text names is one of a command of waggle's.
func TestNamedFlagsExist(t *testing.T) {
	flags := map[string]bool{"help": true}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		add := func(f *pflag.Flag) { flags[f.Name] = true }
		c.Flags().VisitAll(add)
		c.PersistentFlags().VisitAll(add)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
	named := regexp.MustCompile(`(^|[^-a-zA-Z0-9])--([a-z][a-z0-9-]*[a-z0-9])`)
	check := func(path string) error {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			text, ok := n.(*ast.BasicLit)
			if !ok || text.Kind != token.STRING {
				return true
			}
			for _, m := range named.FindAllStringSubmatch(text.Value, -1) {
				if !flags[m[2]] && !slices.Contains(foreignFlags, m[2]) {
					t.Errorf("%s: no command has the flag --%s", set.Position(text.Pos()), m[2])
				}
			}
			return true
		})
		return nil
	}
	for _, dir := range []string{".", "../../control", "../../loader", "../../maps"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			return check(path)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
