// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/loader"
)

// bundle is the configuration for a container runtime.
type bundle struct {
	Root         string // an empty directory
	Binary       string
	Mounts       []bind
	Capabilities []v1.Capability
	Args         []string
	Env          []string
}

type bind struct {
	Source, Target string
	ReadOnly       bool
}

// containerVariable makes this binary a container runtime.
const containerVariable = "WAGGLE_TEST_CONTAINER"

// Mounts and capabilities are a thread's; the one that makes them must be the one that executes.
func init() {
	if os.Getenv(containerVariable) != "" {
		runtime.LockOSThread()
	}
}

// containerMain does what container runtimes do for a pod that is not privileged, in the host's
// namespaces of processes and of the network, and becomes its process.
func containerMain() {
	raw := os.Getenv(containerVariable)
	if raw == "" {
		return
	}
	var b bundle
	err := json.Unmarshal([]byte(raw), &b)
	for _, step := range []func() error{b.unshare, b.mountSystem, b.mountVolumes, b.enter, b.dropCapabilities} {
		if err == nil {
			err = step()
		}
	}
	if err == nil {
		cgroup, cgroupErr := loader.CgroupRoot()
		fmt.Printf("cgroup root %s (%v)\n", cgroup, cgroupErr)
		err = unix.Exec("/waggle", append([]string{"/waggle"}, b.Args...), b.Env)
	}
	fmt.Fprintln(os.Stderr, "container:", err)
	os.Exit(1)
}

func (b *bundle) unshare() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}

// mountSystem makes the file system of an image that holds the command only, with what each
// container gets: /proc with /proc/sys read-only, /sys read-only, the container's own cgroup.
func (b *bundle) mountSystem() error {
	if err := unix.Mount("none", b.Root, "tmpfs", 0, ""); err != nil {
		return err
	}
	binary, err := os.ReadFile(b.Binary)
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.in("/waggle"), binary, 0o755); err != nil {
		return err
	}
	for _, m := range []bind{{"/proc", "/proc", false}, {"/proc/sys", "/proc/sys", true}, {"/sys", "/sys", true}} {
		if err := b.bind(m, 0); err != nil {
			return err
		}
	}
	return unix.Mount("none", b.in("/sys/fs/cgroup"), "cgroup2", unix.MS_RDONLY, "")
}

func (b *bundle) mountVolumes() error {
	for _, m := range b.Mounts {
		if err := b.bind(m, unix.MS_REC); err != nil {
			return err
		}
	}
	return nil
}

func (b *bundle) in(path string) string { return filepath.Join(b.Root, path) }

func (b *bundle) bind(m bind, flags uintptr) error {
	if err := os.MkdirAll(b.in(m.Target), 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.Source, b.in(m.Target), "", unix.MS_BIND|flags, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.Source, m.Target, err)
	}
	if !m.ReadOnly {
		return nil
	}
	return unix.Mount("", b.in(m.Target), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}

// enter makes the image the root, read-only.
func (b *bundle) enter() error {
	if err := unix.Mount("", b.Root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := unix.Chroot(b.Root); err != nil {
		return err
	}
	return unix.Chdir("/")
}

var capabilities = map[v1.Capability]uintptr{
	"BPF": unix.CAP_BPF, "NET_ADMIN": unix.CAP_NET_ADMIN, "PERFMON": unix.CAP_PERFMON,
	"SYS_ADMIN": unix.CAP_SYS_ADMIN, "SYS_PTRACE": unix.CAP_SYS_PTRACE, "SYS_RESOURCE": unix.CAP_SYS_RESOURCE,
	"NET_RAW": unix.CAP_NET_RAW, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
}

// dropCapabilities leaves in the bounding set those of the container: root, executing, has exactly
// these then.
func (b *bundle) dropCapabilities() error {
	keep := map[uintptr]bool{}
	for _, name := range b.Capabilities {
		number, ok := capabilities[name]
		if !ok {
			return fmt.Errorf("no capability %s is known", name)
		}
		keep[number] = true
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if keep[c] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}
