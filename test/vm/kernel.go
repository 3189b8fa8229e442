// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// launcherVersion of virtme-ng is trixie's, which needs nothing that bookworm hasn't.
const launcherVersion = "1.35-1"

// unpackLauncher returns where the Python modules of virtme-ng are.
func unpackLauncher(debian archive, dir string) (string, error) {
	modules := filepath.Join(dir, "usr/lib/python3/dist-packages")
	if _, err := os.Stat(modules); err == nil {
		return modules, nil
	}
	deb, err := debian.download("virtme-ng", launcherVersion)
	if err != nil {
		return "", err
	}
	_, err = output(".", "dpkg-deb", "-x", deb, dir)
	return modules, err
}

// kernel is an unpacked one: dir/boot/vmlinuz-RELEASE and dir/lib/modules/RELEASE.
type kernel struct{ dir, release string }

func (k kernel) image() string { return filepath.Join(k.dir, "boot/vmlinuz-"+k.release) }

// unpackKernel takes the newest of a version, like 6.1.
func unpackKernel(debian archive, dir, version string) (kernel, error) {
	names, err := debian.cache("pkgnames", "linux-image-")
	if err != nil {
		return kernel{}, err
	}
	release, err := choose(names, debian.arch, version, hostRelease())
	if err != nil {
		return kernel{}, err
	}
	k := kernel{filepath.Join(dir, release), release}
	if _, err := os.Stat(filepath.Join(k.dir, "lib/modules", release, "modules.dep")); err == nil {
		return k, nil
	}
	deb, err := debian.download("linux-image-"+release, "")
	if err != nil {
		return k, err
	}
	if err := errors.Join(os.RemoveAll(k.dir), os.MkdirAll(k.dir, 0o755)); err != nil {
		return k, err
	}
	_, err = output(k.dir, "sh", "-euc", unpackScript, "sh", deb, release)
	return k, err
}

// Of the modules, those of networks, and those that the machine is made of. They are
// decompressed, which the initial RAM disk's insmod could not do.
const unpackScript = `
dpkg-deb --fsys-tarfile "$1" | tar -x --wildcards --transform 's,^\./usr/lib/,./lib/,' \
	'./boot/*' '*/modules.builtin*' '*/modules.order' \
	'*/kernel/net/*' '*/kernel/lib/*' '*/kernel/crypto/*' '*/kernel/arch/*' '*/kernel/drivers/virtio/*' \
	'*/kernel/fs/*' '*/kernel/drivers/char/*' '*/kernel/drivers/net/*'
rm -r lib/modules/"$2"/kernel/drivers/net/ethernet lib/modules/"$2"/kernel/drivers/net/wireless
find lib -name '*.ko.xz' -exec xz -d {} +
depmod -b . "$2"
`

var imageName = regexp.MustCompile(`^linux-image-((\d+\.\d+[0-9.]*(?:-\d+)?(?:\+deb\d+)?)-([a-z0-9]+(?:-16k)?))$`)

// candidate is a kernel that Debian has.
type candidate struct {
	release string
	minor   int // 1000 a major version
	numbers []int
}

// choose returns the release, like 6.1.0-56-amd64, of the newest kernel of a version among the
// names of packages. One of other pages than usual has a suffix, like 6.12-16k. The host's is the only one that is matched by the nearest, too.
func choose(names, arch, version, host string) (string, error) {
	wanted := version
	if version == hostLike {
		wanted = host
	} else if number, flavour, ok := strings.Cut(version, "-"); ok {
		wanted, arch = number, arch+"-"+flavour
	}
	var major, minor int
	if _, err := fmt.Sscanf(wanted, "%d.%d", &major, &minor); err != nil {
		return "", fmt.Errorf("kernel version %q: want one like 6.1 or 6.12-16k, or %s", version, hostLike)
	}
	all := candidates(names, arch)
	if version != hostLike {
		all = slices.DeleteFunc(all, func(c candidate) bool { return c.minor != 1000*major+minor })
	}
	if len(all) == 0 {
		return "", fmt.Errorf("kernel %s: Debian has none of this version for %s", version, arch)
	}
	distance := func(c candidate) int { return max(c.minor-1000*major-minor, 1000*major+minor-c.minor) }
	return slices.MinFunc(all, func(a, b candidate) int {
		if d := distance(a) - distance(b); d != 0 {
			return d
		}
		return slices.Compare(b.numbers, a.numbers)
	}).release, nil
}

var digits = regexp.MustCompile(`\d+`)

func candidates(names, arch string) []candidate {
	var all []candidate
	for _, name := range strings.Fields(names) {
		m := imageName.FindStringSubmatch(name)
		if m == nil || m[3] != arch {
			continue // another flavour, unsigned, or debug symbols
		}
		c := candidate{release: m[1]}
		for _, d := range digits.FindAllString(m[2], -1) {
			n, _ := strconv.Atoi(d)
			c.numbers = append(c.numbers, n)
		}
		c.minor = 1000*c.numbers[0] + c.numbers[1]
		all = append(all, c)
	}
	return all
}

func hostRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
