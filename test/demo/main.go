// SPDX-License-Identifier: Apache-2.0

// Command demo shows waggle at work: it makes a small network of namespaces, runs an agent on each
// of its nodes from a directory of Kubernetes YAML, sends real traffic by every way there is to a
// service, and checks every answer. It ends with status 1 if one of them was wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

func main() {
	topo.Main()
	binary := flag.String("waggle", "build/waggle", "the command to show; it is built if it isn't there")
	hold := flag.Bool("hold", os.Getenv("HOLD") != "" && os.Getenv("HOLD") != "0",
		"keep the network up after the checks, until Ctrl-C (also by HOLD=1 in the environment)")
	flag.Parse()
	if err := run(*binary, *hold); err != nil {
		if err != errWrong { // which the verdict has told
			fmt.Fprintln(os.Stderr, "demo: "+err.Error())
		}
		os.Exit(1)
	}
}

var (
	errWrong = errors.New("not everything was as it should be")
	errEnded = errors.New("ended before everything was checked")
)

func run(binary string, hold bool) error {
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces and loads eBPF programs: run it as root (sudo make demo)")
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	dir, err := newDir()
	if err != nil {
		return err
	}
	if binary, err = executable(binary, dir); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	d := newDemo(os.Stdout, dir, binary)
	err = d.show(ctx, hold)
	if ctx.Err() != nil {
		fmt.Fprintln(d.out, "\nEnding; everything is being removed.")
		if !errors.Is(err, errWrong) && err != nil {
			err = errEnded // what failed then, failed by that
		}
	}
	return d.end(err)
}

// show is the whole demo. What is wrong with waggle is errWrong; any other error means that the
// demo itself didn't get far enough to tell.
func (d *demo) show(ctx context.Context, hold bool) error {
	started := time.Now()
	if err := d.build(); err != nil {
		return err
	}
	d.draw()
	if err := d.startAgents(); err != nil {
		return err
	}
	if err := d.listServices(); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{d.checkPaths, d.checkNames, d.checkChanges} {
		if err := part(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	d.verdict(time.Since(started))
	if hold {
		d.hold(ctx)
	}
	if d.wrong > 0 {
		return errWrong
	}
	return nil
}

func (d *demo) verdict(elapsed time.Duration) {
	seconds := elapsed.Round(100 * time.Millisecond)
	if d.wrong > 0 {
		fmt.Fprintf(d.out, "\nWRONG: %d of %d checks failed (%d requests, %s). Manifests, and the logs of the agents: %s\n",
			d.wrong, d.checks, d.requests, seconds, d.dir)
		return
	}
	fmt.Fprintf(d.out, "\nOK: all %d checks passed, %d requests were answered as they should be, none failed (%s).\n",
		d.checks, d.requests, seconds)
}

// end removes everything. What the agents wrote is kept, until the next demo, if something went
// wrong.
func (d *demo) end(err error) error {
	failed := d.tearDown()
	switch {
	case failed == nil && err == errWrong:
		return err
	case failed == nil && (err == nil || err == errEnded):
		return errors.Join(err, os.RemoveAll(d.dir))
	}
	return fmt.Errorf("%w\ndemo: manifests, and the logs of the agents: %s", errors.Join(err, failed), d.dir)
}

// newDir makes the directory of all files of a demo, and removes those of earlier ones.
func newDir() (string, error) {
	const pattern = "waggle-demo-*"
	old, err := filepath.Glob(filepath.Join(os.TempDir(), pattern))
	if err != nil {
		return "", err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	return os.MkdirTemp("", pattern)
}

// lock keeps two demos from pulling down each other's network, which has a fixed name.
func lock() (unlock func(), err error) {
	file, err := os.OpenFile("/run/waggle-demo.lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, errors.New("another demo is running on this machine; end it first, by Ctrl-C in its terminal")
	}
	return func() { file.Close() }, nil
}

// executable returns where the command is, and builds it if it is nowhere yet.
func executable(path, dir string) (string, error) {
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		return filepath.Abs(path)
	}
	return cluster.Build(dir)
}
