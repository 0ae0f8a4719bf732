#!/bin/busybox sh
# First process of the guest: file systems, modules, the share, then `xtask guest-inside` with the chosen tests.
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /run/netns /dev/hugepages
mount -t hugetlbfs huge /dev/hugepages
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
ulimit -l unlimited
ulimit -c 0
for module in $(cat /etc/modules); do insmod "/lib/modules/$module.ko"; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 host /host
/bin/ip link set lo up
cp /host/oxide /host/xtask /bin/
dmesg -n 1
echo "@up $(uname -r)"
/bin/xtask guest-inside $(cat /host/tests) 2>&1
echo "@end $?"
sync
poweroff -f
