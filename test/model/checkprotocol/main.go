// SPDX-License-Identifier: Apache-2.0

// Command checkprotocol explores models of protocols with the checker spin: of the flow table, test/model/flowtable.pml, of
// direct datagrams beside a flow to a service, test/model/direct.pml, and of who announces an address,
// test/model/announce.pml. It fails if a sound variant violates an invariant or is not explored
// completely, or if a broken variant is not detected.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

var (
	models = flag.String("models", "test/model", "the directory of the models")
	all    = flag.Bool("all", false, "also the largest scenarios (4 minutes, 8 GiB)")
	only   = flag.String("only", "", "a regular expression: only what has a name that it matches")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	dirOfModels, err := filepath.Abs(*models)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "waggle-protocol")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return checkAll(dirOfModels, dir, chosen(wanted))
}

// chosen returns the variants to check, the largest first.
func chosen(wanted *regexp.Regexp) []variant {
	var list []variant
	for _, v := range variants {
		if (*all || !v.large) && wanted.MatchString(v.name) {
			list = append(list, v)
		}
	}
	return list
}

// checkAll checks one variant on each CPU at a time.
func checkAll(models, dir string, list []variant) error {
	var (
		work   = make(chan int)
		errs   = make([]error, len(list))
		output sync.Mutex
		wg     sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range work {
				r := check(models, filepath.Join(dir, fmt.Sprint(i)), list[i])
				errs[i] = r.err
				output.Lock()
				fmt.Println(r)
				output.Unlock()
			}
		})
	}
	for i := range list {
		work <- i
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

// result is the result of one variant.
type result struct {
	name   string
	states string
	took   time.Duration
	says   string
	err    error
}

func (r result) String() string {
	says := r.says
	if r.err != nil {
		says = "FAILS: " + r.err.Error()
	}
	return fmt.Sprintf("%-34s %10s states %6.1f s  %s", r.name, r.states, r.took.Seconds(), says)
}

func check(models, dir string, v variant) result {
	start := time.Now()
	r := result{name: v.name, states: "-"}
	report, err := explore(filepath.Join(models, v.model()+".pml"), dir, v)
	if err == nil {
		r.states = submatch(statesLine, report)
		r.says, err = judge(v, report)
	}
	if err != nil {
		r.err = fmt.Errorf("%s: %w", v.name, err)
	}
	r.took = time.Since(start)
	return r
}

// explore compiles a checker of the model, and returns its report.
func explore(source, dir string, v variant) (string, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	spin := append([]string{"-a"}, v.macros()...)
	if out, err := command(dir, "spin", append(spin, source)...); err != nil {
		return "", fmt.Errorf("spin: %w\n%s", err, out)
	}
	memory := 1900
	if v.large {
		memory = 6000
	}
	limit := fmt.Sprintf("-DMEMLIM=%d", memory)
	optimize := "-O2"
	if v.caughtBy != "" {
		optimize = "-O0" // an error in a broken variant is found soon
	}
	if out, err := command(dir, "gcc", optimize, "-w", "-DSAFETY", "-DVECTORSZ=512", limit, "-o", "pan", "pan.c"); err != nil {
		return "", fmt.Errorf("gcc: %w\n%s", err, out)
	}
	// the checker exits with an error if it finds one
	out, err := command(dir, "./pan", "-m10000", "-w24")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	return out, nil
}

func command(dir, name string, args ...string) (string, error) {
	c := exec.Command(name, args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	return string(out), err
}

var (
	statesLine   = regexp.MustCompile(`(?m)^\s*(\d+) states, stored`)
	errorsLine   = regexp.MustCompile(`errors: (\d+)`)
	assertion    = regexp.MustCompile(`assertion violated (\S+)`)
	firstProblem = regexp.MustCompile(`(?m)^pan:1: (.*)$`)
	incomplete   = regexp.MustCompile(`max search depth too small|Search not completed|reached -DMEMLIM|out of memory|VECTORSZ too small`)
)

func submatch(r *regexp.Regexp, s string) string {
	if m := r.FindStringSubmatch(s); m != nil {
		return m[1]
	}
	return ""
}

// judge summarises a report. It returns an error if the report is not as it must be.
func judge(v variant, report string) (string, error) {
	problem := submatch(firstProblem, report)
	if v.caughtBy == "" {
		return judgeSound(problem, report)
	}
	switch by := submatch(assertion, problem); {
	case problem == "":
		return "", errors.New("is broken, and is not caught")
	case by != v.caughtBy:
		return "", fmt.Errorf("%s, expected %s", problem, v.caughtBy)
	default:
		return "caught: " + by, nil
	}
}

func judgeSound(problem, report string) (string, error) {
	if problem != "" {
		return "", errors.New(problem)
	}
	if why := incomplete.FindString(report); why != "" {
		return "", fmt.Errorf("not explored completely: %s", why)
	}
	if submatch(errorsLine, report) != "0" {
		return "", fmt.Errorf("no result:\n%s", report)
	}
	return "holds", nil
}

// macros returns the options of spin that make the model this variant.
func (v variant) macros() []string {
	var list []string
	for _, m := range strings.Fields(v.with) {
		list = append(list, "-D"+m)
	}
	return list
}
