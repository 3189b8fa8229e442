// SPDX-License-Identifier: Apache-2.0

// Command rows walks the rows of the contract, what a service proxy owes its
// cluster, and fails when a row has no test. With -run it runs the tests, and
// prints row, test and result.
//
// A test claims a row by its name, as TestRow6Start does, or by the beginning of
// its doc comment ("TestAffinity, of contract 27: ..", "Rows 21 and 22: .."), and
// several by a line of that:
//
//	// TestAffinity leads a client to the endpoint that it had before.
//	//
//	// Contract: 27.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	run := flag.Bool("run", false, "run the tests")
	show := flag.String("show", "", "the test whose output is shown even if it passes")
	dir := flag.String("dir", ".", "the module's directory")
	flag.Parse()
	if err := walk(*dir, *run, *show); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func walk(dir string, run bool, show string) error {
	claims, err := findClaims(dir)
	if err != nil {
		return err
	}
	results := map[test]result{}
	if run {
		if results, err = runTests(dir, claims.tests(), show); err != nil {
			return err
		}
	}
	fmt.Print(claims.table(results, run))
	return claims.verdict(results, run)
}
