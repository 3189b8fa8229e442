// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/waggle-lb/waggle/control/atomicfile"
)

const (
	allocationFileVersion = 1
	// pooledFileVersion is the version of a file with addresses of pools. An agent that does not know them
	// refuses the file, and so does not drop them.
	pooledFileVersion = 2

	lockSuffix    = ".lock"
	corruptSuffix = ".corrupt"

	lockPatience = 2 * time.Second
	lockPoll     = 5 * time.Millisecond
)

// allocationFile is the format on disk.
type allocationFile struct {
	Version  int              `json:"version"`
	Services map[string]entry `json:"services"`
}

// errCorrupt is returned by read for a file that is not in the format of allocations, or no longer.
var errCorrupt = errors.New("is corrupt")

// store keeps the allocations in a file, which several agents may share.
type store struct {
	path     string
	readOnly bool

	known [sha256.Size]byte // of the file as last read or written
}

// lock keeps other agents from writing. It waits only for a short time: an agent that hangs must
// not stop the others from serving.
func (s *store) lock(ctx context.Context) (unlock func(), err error) {
	file, err := os.OpenFile(s.path+lockSuffix, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil // which gives up the lock
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: held by another process", file.Name())
		case <-time.After(lockPoll):
		}
	}
}

// read returns the entries of the file if it has changed since it was last read or written. A
// file that is missing has no entries. The error is errCorrupt if the file is not in the format of allocations.
func (s *store) read() (entries map[string]entry, changed bool, err error) {
	data, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	sum := sha256.Sum256(data)
	if sum == s.known {
		return nil, false, nil
	}
	if len(data) > 0 {
		if entries, err = decodeAllocations(data); err != nil {
			return nil, false, err
		}
	}
	s.known = sum
	return entries, true, nil
}

func decodeAllocations(data []byte) (map[string]entry, error) {
	var file allocationFile
	stream := json.NewDecoder(bytes.NewReader(data))
	stream.DisallowUnknownFields()
	if err := json.Unmarshal(data, &struct{ Version *int }{&file.Version}); err != nil {
		return nil, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	if file.Version != allocationFileVersion && file.Version != pooledFileVersion {
		return nil, fmt.Errorf("is of version %d, not %d or %d", file.Version, allocationFileVersion, pooledFileVersion)
	}
	if err := stream.Decode(&file); err != nil {
		return nil, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	for name, e := range file.Services {
		if err := e.validate(); err != nil {
			return nil, fmt.Errorf("%w: service %s: %w", errCorrupt, name, err)
		}
	}
	return file.Services, nil
}

func encodeAllocations(entries map[string]entry) ([]byte, error) {
	version := allocationFileVersion
	for _, e := range entries {
		if len(e.LoadBalancerIPs) > 0 {
			version = pooledFileVersion
		}
	}
	data, err := json.MarshalIndent(allocationFile{Version: version, Services: entries}, "", "  ")
	return append(data, '\n'), err
}

func (e entry) validate() error {
	for _, a := range e.ClusterIPs {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			return fmt.Errorf("clusterIPs: %q is no cluster IP", a)
		}
	}
	for _, p := range e.NodePorts {
		if !protocols.Has(p.Protocol) {
			return fmt.Errorf("nodePorts: protocol %q is not one of %q", p.Protocol, sets.List(protocols))
		}
		if p.NodePort < 1 || p.NodePort > maxPort {
			return fmt.Errorf("nodePorts: %d is no port", p.NodePort)
		}
	}
	if e.HealthCheckNodePort < 0 || e.HealthCheckNodePort > maxPort {
		return fmt.Errorf("healthCheckNodePort: %d is no port", e.HealthCheckNodePort)
	}
	return validatePooled(e.LoadBalancerIPs)
}

// setAside renames a corrupt file, so that the administrator can look at it.
func (s *store) setAside() error {
	s.known = [sha256.Size]byte{}
	return os.Rename(s.path, s.path+corruptSuffix)
}

// wasSetAside reports whether there is a corrupt file that was set aside.
func (s *store) wasSetAside() bool {
	_, err := os.Lstat(s.path + corruptSuffix)
	return err == nil
}

// write replaces the file if its contents differ. The caller holds the lock.
func (s *store) write(entries map[string]entry) error {
	data, err := encodeAllocations(entries)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	if sum == s.known {
		return nil
	}
	if err := atomicfile.Write(s.path, data, 0o644); err != nil {
		return err
	}
	s.known = sum
	return nil
}
