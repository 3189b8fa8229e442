// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// Datapath is the loaded datapath. Its methods may be called concurrently, but act in the network
// namespace of the thread that calls them.
type Datapath struct {
	mu          sync.Mutex
	walk        sync.Mutex // held while a program walks over the flows
	pins        pinDir
	links       *linkPins // of devices
	lock        *os.File
	collection  *ebpf.Collection
	programs    sync.RWMutex                         // guards collection.Programs, which more come to
	compiled    func() (*ebpf.CollectionSpec, error) // bpf.Whole, or a test's
	kept        atomic.Pointer[parts]                // the object that Load has made the programs of, until Loaded
	old         map[string]*ebpf.Map                 // of the previous release, whose flows are to be converted
	aborter     *aborter
	recordsMade atomic.Uint64 // see RecordsMade
	hz          uint32
	clsact      bool         // TCX is missing, or not wanted
	leftClsact  map[int]bool // devices that had a clsact qdisc when we first attached by TCX; nil before
	names       programNames // of our programs; nil before they are asked for
	cgroup      string       // whose sockets are served; empty: none's
	log         *logrus.Entry
}

// Load verifies and pins the datapath, and attaches nothing. LoadRest completes that. Only one process at a time holds a pin
// directory. When Load fails, what an earlier process left running is as it was.
func Load(opts Options) (*Datapath, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	if err := checkPrivileges(); err != nil {
		return nil, err
	}
	read := readParts(bpf.Whole) // beside what waits for the kernel
	if err := checkKernel(); err != nil {
		return nil, err
	}
	pins := pinDir(opts.PinDir)
	if err := pins.create(); err != nil {
		return nil, err
	}
	lock, err := pins.lock()
	if err != nil {
		return nil, err
	}
	if opts.Claimed != nil {
		opts.Claimed()
	}
	d := &Datapath{pins: pins, lock: lock, compiled: bpf.Whole, clsact: opts.ForceClsact, log: opts.Log}
	if err := d.load(opts, read); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// parts are what programs are made of.
type parts struct {
	spec  *ebpf.CollectionSpec
	types *btf.Cache // the kernel's, which are read once, and given back when all is loaded
}

// readParts reads both at the same time. What it returns waits for them.
func readParts(compiled func() (*ebpf.CollectionSpec, error)) (wait func() (parts, error)) {
	p := parts{types: btf.NewCache()}
	var group errgroup.Group
	group.Go(func() (err error) {
		p.spec, err = compiled()
		return err
	})
	group.Go(func() error {
		_, _ = p.types.Kernel() // a caller that needs it asks again, and fails then
		return nil
	})
	return func() (parts, error) {
		err := group.Wait()
		return p, err
	}
}

// configured is the spec of the datapath and of the optional programs, with what is known before anything of
// an earlier process is.
func (d *Datapath) configured(opts Options, read func() (parts, error)) (parts, error) {
	p, err := read()
	if err != nil {
		return p, err
	}
	if d.hz, err = tickRate(); err != nil {
		return p, err
	}
	if err := configure(p.spec, opts, d.hz, p.types); err != nil {
		return p, err
	}
	return p, resizeMaps(p.spec, opts.MapSizes)
}

func (d *Datapath) load(opts Options, read func() (parts, error)) error {
	parts, err := d.configured(opts, read)
	if err != nil {
		return err
	}
	spec, types := parts.spec, parts.types
	layouts, err := d.pins.openLayouts(nil)
	if err != nil {
		return err
	}
	defer func() { layouts.close() }()
	names := takePinning(spec)
	found, err := d.pins.openMaps(spec, names, layouts, d.log)
	if err != nil {
		return err
	}
	defer closeMaps(found.pinned)
	d.old = found.old
	if err := bpf.Fit(spec); err != nil {
		return err
	}
	if d.collection, err = makeMaps(spec, names, found.pinned, types); err != nil {
		return fmt.Errorf("make the maps of the datapath: %w", err)
	}
	extra, err := d.loadAtStart(spec, types, opts.PodsLater)
	if err != nil {
		return err
	}
	defer extra.close()
	if err := d.seed(); err != nil {
		return err
	}
	d.aborter = newAborter(extra)
	if layouts, err = d.pins.makeLayouts(layouts); err != nil {
		return err
	}
	if err := d.pinAll(names, found, layouts); err != nil {
		return err
	}
	if err := d.convertMaps(names, found.pinned, layouts); err != nil {
		return err
	}
	d.kept.Store(&parts)
	return d.sweep()
}

// Loaded frees what only loading needs. Programs that are loaded afterwards take longer.
func (d *Datapath) Loaded() { d.kept.Store(nil) }

// parts returns those of which Load has made the programs or, after Loaded, reads them again. The programs' constants
// are in the maps.
func (d *Datapath) parts() (parts, error) {
	if kept := d.kept.Load(); kept != nil {
		return *kept, nil
	}
	spec, err := d.compiled()
	if err != nil {
		return parts{}, err
	}
	for name, m := range d.collection.Maps {
		if resizable(spec.Maps[name]) {
			spec.Maps[name].MaxEntries = m.MaxEntries()
		}
	}
	takePinning(spec)
	return parts{spec, btf.NewCache()}, nil
}

// loadAtStart loads the programs, but for those that LoadRest or a device loads. What is returned are the
// optional ones.
func (d *Datapath) loadAtStart(spec *ebpf.CollectionSpec, types *btf.Cache, podsLater bool) (extraPrograms, error) {
	loaded, refused := loadPrograms(spec, wantedAtStart(spec, len(d.old) > 0, podsLater), d.collection.Maps, types)
	extra := takeOptional(loaded, refused)
	d.collection.Programs = loaded
	if len(refused) > 0 {
		extra.close()
		return extraPrograms{}, refusal(refused)
	}
	return extra, nil
}

// configure sets the programs' constants.
func configure(spec *ebpf.CollectionSpec, opts Options, hz uint32, types *btf.Cache) error {
	cookie, err := NetnsCookie()
	if err != nil {
		return err
	}
	values := map[string]any{
		"hz":                hz,
		"nodeport_min":      opts.NodePortMin,
		"nodeport_max":      opts.NodePortMax,
		"snat_min":          opts.SNATMin,
		"snat_max":          opts.SNATMax,
		"host_netns_cookie": cookie,
		"masquerade_all":    opts.MasqueradeAll,
		"answer_ping":       opts.AnswerPing,
		"socket_lb_host":    opts.SocketLBHost,
		"fib_takes_mark":    fibTakesMark(),
		"kernel_has_mptcp":  kernelHasMPTCP(types),
	}
	timeouts, err := opts.Timeouts.inJiffies(hz)
	if err != nil {
		return err
	}
	for name, jiffies := range timeouts {
		values[name] = jiffies
	}
	for name, value := range values {
		variable, ok := spec.Variables[name]
		if !ok {
			return fmt.Errorf("the datapath has no variable %s", name)
		}
		if err := variable.Set(value); err != nil {
			return fmt.Errorf("set variable %s: %w", name, err)
		}
	}
	return nil
}

// seed makes the hash that places flows a secret, for as long as the maps live.
func (d *Datapath) seed() error {
	m := d.Map("runtime")
	var state bpf.RuntimeState
	if err := m.Lookup(uint32(0), &state); err != nil {
		return fmt.Errorf("read the map runtime: %w", err)
	}
	if state.Seed != 0 {
		return nil
	}
	state.Seed = secret()
	if err := m.Put(uint32(0), &state); err != nil {
		return fmt.Errorf("write the map runtime: %w", err)
	}
	return nil
}

// secret is a random number that can't be guessed. It is not 0, the content of unused memory.
func secret() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.NativeEndian.Uint64(b[:]) | 1
}

// NetnsCookie identifies the network namespace of the calling thread: the agent's is the node's.
func NetnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read the network namespace's cookie (Linux 5.14): %w", err)
	}
	return cookie, nil
}

// Map returns a map by its name in bpf/*.h, or nil. It is closed by Close.
func (d *Datapath) Map(name string) *ebpf.Map { return d.collection.Maps[name] }

// Program returns a program by its name in bpf/*.c, or nil if it is not loaded: some are with the first device
// that runs them. It is closed by Close.
func (d *Datapath) Program(name string) *ebpf.Program {
	d.programs.RLock()
	defer d.programs.RUnlock()
	return d.collection.Programs[name]
}

// Close gives up the pin directory. What is attached goes on working.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aborter.close()
	closeMaps(d.old)
	d.old = nil
	if d.collection != nil {
		d.collection.Close()
	}
	if d.lock == nil {
		return nil
	}
	lock := d.lock
	d.lock = nil
	return lock.Close()
}
