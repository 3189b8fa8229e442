# Runs in the machine, as its script. Its parameters are set above; the tests are below.

touch /mnt/started
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf

# No tunl0 in each namespace after a use of ipip.
echo 1 >/proc/sys/net/core/fb_tunnels_only_for_init_net

# The kernel loads modules itself, from where they were unpacked.
cat >/tmp/modprobe <<END
#!/bin/sh
exec /sbin/modprobe -d "/srv/$kernel" "\$@"
END
chmod +x /tmp/modprobe
echo /tmp/modprobe >/proc/sys/kernel/modprobe
for module in veth bridge vxlan dummy tun cls_bpf sch_ingress nf_tables; do
	/tmp/modprobe $module || echo "module $module is missing"
done

# Tests that need one of these leave themselves out, or fail.
for tool in conntrack ip iptables-legacy iptables-nft ipvsadm nft wg; do
	command -v $tool >/dev/null || echo "the command $tool is missing"
done

# The maps of all tests of a package may be open at one time; the machine's limit is 4096.
ulimit -n 1048576

export WAGGLE_VM=1 WAGGLE_PATIENCE=$patience WAGGLE_BINARY=/tmp/waggle TMPDIR=/tmp HOME=/root
if [ -e /mnt/waggle ]; then cp /mnt/waggle /tmp/; fi
result=0
uname -srv

run() { # name, directory, flags
	name=$1
	cp "/mnt/$name.test" /tmp/
	cd "/srv/$2" || exit
	shift 2
	start=$(date +%s)
	"/tmp/$name.test" -test.v -test.timeout="$timeout" "$@" >"/mnt/$name.out" 2>&1
	status=$?
	echo $status >"/mnt/$name.status"
	[ $status = 0 ] || result=1
	echo "$name: status $status after $(($(date +%s) - start)) s"
	rm "/tmp/$name.test"
}

trap 'dmesg >/mnt/dmesg; exit $result' EXIT
