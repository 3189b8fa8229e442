// SPDX-License-Identifier: Apache-2.0

// Command demo shows waggle at work: it makes a small network of namespaces, runs an agent on each
// of its nodes from a directory of Kubernetes YAML, sends real traffic by all ways to a service, and
// checks every answer. It ends with status 1 if one of them was wrong.
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
	binary := flag.String("waggle", "build/waggle", "the waggle command to show; built if the file does not exist")
	hold := flag.Bool("hold", os.Getenv("HOLD") != "" && os.Getenv("HOLD") != "0",
		"keep the network up after the checks, until Ctrl-C (also by HOLD=1 in the environment)")
	flag.Parse()
	if err := run(*binary, *hold); err != nil {
		if err != errWrong { // the summary has said that
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
	d.style = styleOf(os.Stdout)
	err = d.show(ctx, hold)
	if ctx.Err() != nil {
		d.print("\nEnding: the demo removes everything that it has made.")
		if !errors.Is(err, errWrong) && err != nil {
			err = errEnded // the signal is the cause of other errors
		}
	}
	return d.end(err)
}

// show is the whole demo. It returns errWrong if a check of waggle failed. Any other error means that the
// demo itself could not run all checks.
func (d *demo) show(ctx context.Context, hold bool) error {
	started := time.Now()
	d.progress("Making a network of namespaces: two nodes, a laptop, pods ...")
	if err := d.build(); err != nil {
		return err
	}
	d.draw()
	d.progress("Starting an agent on each node ...")
	if err := d.startAgents(); err != nil {
		return err
	}
	if err := d.listServices(); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{d.checkPaths, d.checkNames, d.checkChanges, d.checkMoves} {
		if err := part(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	d.summary.elapsed = time.Since(started)
	d.summarize(hold)
	if hold {
		d.hold(ctx)
	}
	if d.summary.totals().wrong > 0 {
		return errWrong
	}
	return nil
}

// end removes everything. If something went wrong, it keeps what the agents wrote, until the next demo.
func (d *demo) end(err error) error {
	d.progress("Removing the network ...")
	failed := d.tearDown()
	d.done()
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

// lock keeps two demos from removing each other's network, which has a fixed name.
func lock() (unlock func(), err error) {
	file, err := os.OpenFile("/run/waggle-demo.lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, errors.New("another demo runs on this machine: end it first, by Ctrl-C in its terminal")
	}
	return func() { file.Close() }, nil
}

// executable returns the path of the command, and builds the command if it does not exist.
func executable(path, dir string) (string, error) {
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		return filepath.Abs(path)
	}
	return cluster.Build(dir)
}
