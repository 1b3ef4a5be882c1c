#!/bin/sh
# The first process of a guest. Runs what /xknock/plan lists and reports over the second
# serial port, line by line; the first one is the console.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
chmod 1777 /tmp /dev/shm
ln -s /proc/self/fd /dev/fd
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
# As at the start of any system: `ip netns` makes mounts that namespaces share.
mount --make-rshared /
hostname guest
ip link set lo up

stty -F /dev/ttyS1 raw -echo
exec >/dev/ttyS1 2>&1

echo "@booted $(uname -r)"

modules=/usr/lib/modules/$(uname -r)

# What a test program needs of the kernel besides BPF.
lacks() {
    for need in $(echo "$1" | tr , ' '); do
        case $need in
        -) ;;
        btf) [ -e /sys/kernel/btf/vmlinux ] || echo "type information (BTF)" ;;
        suspend) grep -q deep /sys/power/mem_sleep || echo "suspend to memory" ;;
        *)
            if ! grep -qs "/$need\.ko" "$modules/modules.dep" "$modules/modules.builtin"; then
                echo "the module $need"
            elif ! modprobe "$need" >&2; then
                # That is no lack: the test program runs, and says what it misses.
                echo "$need is there and does not load" >&2
            fi
            ;;
        esac
    done
}

tab=$(printf '\t')
while IFS=$tab read -r name needs line; do
    lacking=$(lacks "$needs" | tr '\n' ' ')
    if [ -n "$lacking" ]; then
        echo "@skip $name${tab}this kernel lacks $lacking"
        continue
    fi
    echo "@begin $name"
    sh -c "$line" </dev/null
    status=$?
    echo
    echo "@end $name $status"
done </xknock/plan

echo "@done"
# The port is drained before the machine stops.
stty -F /dev/ttyS1 raw
sync
echo o >/proc/sysrq-trigger
sleep 60
