#!/bin/bash
# Boots this host's own systemd in throwaway namespaces, on an overlay of this host's files.
# boot.sh FOLDER GROUP: an empty tmpfs of the caller, but for FOLDER/install, which is laid over
# all, and the name of a control group.
# Nothing outlives the process: it is the first one of its process namespace, and kernel
# settings and devices are out of its reach.
set -eu
cd "$1"
mkdir upper work root cgroup

# A group of its own, so that systemd may divide it as it likes.
mount -t cgroup2 cgroup2 cgroup
mkdir -p "cgroup/$2"
echo $$ > "cgroup/$2/cgroup.procs"

exec unshare --pid --fork --kill-child --net --ipc --uts --cgroup --mount bash -eu -c '
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
umount cgroup
cp -r install/. root/
cd root
: > etc/fstab
# What a guest has no business with.
for unit in apparmor systemd-{binfmt,logind,modules-load,sysctl,udevd,udev-settle,udev-trigger}; do
    ln -sf /dev/null "etc/systemd/system/$unit.service"
done
printf "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\nAllowIsolate=yes\n" \
    > etc/systemd/system/guest.target

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf -o mode=0700 bpf sys/fs/bpf
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for device in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"
done

mkdir -p mnt
pivot_root . mnt
umount -l /mnt
exec env -i container=guest PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=guest.target --log-target=null --show-status=no
'
