// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/waggle-lb/waggle/bpf"
)

// DropStale walks one family's UDP flows, removes the clients' records of those whose endpoint no
// longer serves, and counts the flows of both kinds. It takes time in proportion to the table.
func (d *Datapath) DropStale(ipv6 bool) (bpf.StaleCensus, error) {
	d.walk.Lock()
	defer d.walk.Unlock()
	var census bpf.StaleCensus
	err := runWalk(d.Program(familyProgram("waggle_stale", ipv6)), census, &census)
	return census, err
}

// aborter is the one program that some kernels lack. It isn't pinned: only an agent starts it.
type aborter struct {
	program *ebpf.Program
	iter    *link.Iter
	err     error // why the program is not loaded
}

func newAborter(from extraPrograms) *aborter {
	var a aborter
	if a.program, a.err = from.take(bpf.AbortProgram); a.err == nil {
		a.iter, a.err = link.AttachIter(link.IterOptions{Program: a.program})
	}
	return &a
}

// CanAbortSockets returns nil if AbortStaleSockets works, else the reason why it can't.
func (d *Datapath) CanAbortSockets() error {
	if d.aborter.err == nil {
		return nil
	}
	return fmt.Errorf("the kernel can't abort them (Linux 6.5, with CONFIG_DEBUG_INFO_BTF): %w", d.aborter.err)
}

// AbortStaleSockets aborts the connected UDP sockets of the calling thread's network namespace that
// the socket hooks have connected to an endpoint which no longer serves: their applications get
// ECONNABORTED. It returns the number of these sockets.
func (d *Datapath) AbortStaleSockets() (aborted int, err error) {
	if err := d.CanAbortSockets(); err != nil {
		return 0, err
	}
	walk, err := d.aborter.iter.Open()
	if err != nil {
		return 0, err
	}
	done, err := io.ReadAll(walk)
	return len(done), errors.Join(err, walk.Close())
}

func (a *aborter) close() {
	if a == nil {
		return
	}
	if a.iter != nil {
		a.iter.Close()
	}
	if a.program != nil {
		a.program.Close()
	}
}
