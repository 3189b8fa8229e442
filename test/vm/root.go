// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
)

// What a machine with a root file system of its own has: what virtme-ng's init and the script of the
// guest call, what tests call, and busybox, of which virtme-ng makes the initial RAM disk.
var rootPackages = []string{
	"base-files", "base-passwd", "bash", "busybox-static", "coreutils", "dash", "findutils", "grep", "hostname",
	"iproute2", "kmod", "mount", "procps", "sed", "util-linux",
	"conntrack", "iptables", "ipvsadm", "nftables", "wireguard-tools",
}

// unpackRoot returns the root file system of a machine: this machine's own where its programs run,
// or else one of Debian's packages. They are unpacked and not configured, which would take an
// emulator for their scripts.
func unpackRoot(debian archive, dir string) (string, error) {
	if debian.arch == runtime.GOARCH {
		return "/", nil
	}
	list, err := debian.closure(rootPackages...)
	if err != nil {
		return "", err
	}
	// Made anew where Debian has newer packages, or the script makes something else of them.
	contents := list + rootScript
	if old, err := os.ReadFile(filepath.Join(dir, "contents")); err == nil && string(old) == contents {
		return dir, nil
	}
	fresh := dir + ".new"
	if err := errors.Join(os.RemoveAll(fresh), os.MkdirAll(fresh, 0o755)); err != nil {
		return "", err
	}
	debs, err := debian.downloadAll(dir+".debs", rootPackages...)
	if err != nil {
		return "", err
	}
	if _, err := output(fresh, "sh", append([]string{"-euc", rootScript, "sh"}, debs...)...); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(fresh, "contents"), []byte(contents), 0o644); err != nil {
		return "", err
	}
	return dir, errors.Join(os.RemoveAll(dir), os.Rename(fresh, dir), os.RemoveAll(dir+".debs"))
}

// The links to the parts of /usr come first, and last what scripts of the packages would have made.
// Of udev, virtme-ng needs only the names of the ports through which the script and the host talk.
// The real one takes minutes to go through all devices of an emulated machine.
const rootScript = `
mkdir -p usr/bin usr/sbin usr/lib dev proc sys run tmp srv mnt root etc/lvm
for d in bin sbin lib; do ln -s usr/$d $d; done
for deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink; done
cp usr/share/base-passwd/passwd.master etc/passwd
cp usr/share/base-passwd/group.master etc/group
touch etc/fstab etc/shadow etc/sudoers
test -e bin/sh || ln -s dash bin/sh
mkdir -p usr/lib/systemd
cat >usr/lib/systemd/systemd-udevd <<'END'
#!/bin/sh
mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
	ln -s "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
END
ln -s true usr/bin/udevadm
chmod +x usr/lib/systemd/systemd-udevd
`
