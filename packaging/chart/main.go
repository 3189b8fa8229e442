// SPDX-License-Identifier: Apache-2.0

// Command chart makes the template of the Helm chart from deploy/waggle.yaml, which is the one source
// of the objects: each edit replaces one of its passages with one that takes a value of the chart.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	source := flag.String("source", "../deploy/waggle.yaml", "manifest that the template is made from")
	output := flag.String("output", "../deploy/chart/waggle/templates/waggle.yaml", "template to write")
	flag.Parse()
	if err := generate(*source, *output); err != nil {
		fmt.Fprintln(os.Stderr, "chart: "+err.Error())
		os.Exit(1)
	}
}

func generate(source, output string) error {
	raw, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	template, err := apply(string(raw))
	if err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	return os.WriteFile(output, []byte(template), 0o644)
}
