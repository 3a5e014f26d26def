#!/bin/bash
# Runs a command on another kernel: this machine's root, read only under an overlay, in an emulated machine (qemu,
# without KVM) that has no network. See README.md.
#
#     tests/kernel/vm/run.sh KERNEL COMMAND [ARGUMENT...]
#
# KERNEL   folder of an unpacked kernel package: boot/vmlinuz-*, lib/modules/*
# COMMAND  run as root in the root of this clone; it prints to this terminal, and its exit status is this script's
set -euo pipefail

# What tests use is loaded before they begin: nothing in the guest loads modules.
MODULES="virtio_pci 9pnet_virtio 9p overlay virtio_rng veth bridge dummy tun sch_ingress sch_netem cls_bpf nf_tables
    nft_chain_nat xt_conntrack ip_tables iptable_filter ip6table_filter udp_diag tcp_diag"

fail() {
    echo "run.sh: $1" >&2
    exit 2
}

# The initramfs: busybox, and the modules in the order of their needs.
initramfs() { # KERNEL RELEASE FOLDER
    local name module count=100
    declare -A had=()
    mkdir -p "$3"/{bin,dev,proc,modules}
    cp "$(command -v busybox)" "$3/bin/"
    for name in sh mount mkdir insmod switch_root ip hostname poweroff echo; do ln -s busybox "$3/bin/$name"; done
    install -m 755 "$here/init" "$3/init"
    [ -e "$1/lib/modules/$2/modules.dep" ] || depmod -b "$1" "$2"
    for name in $MODULES; do
        while read -r _ module _; do
            [ -z "${had[$module]:-}" ] || continue
            had[$module]=yes
            cp "$module" "$3/modules/$((count++))-${module##*/}"
        done < <(modprobe -d "$1" -S "$2" --show-depends "$name" 2>/dev/null | grep ^insmod) # built in, or unknown: none
    done
    (cd "$3" && find . | cpio -o -H newc --quiet | gzip -1)
}

main() {
    [ $# -ge 2 ] || { sed -n '2,8s/^# \?//p' "$0" >&2; exit 2; }
    local clone kernel image tool
    here=$(cd "$(dirname "$0")" && pwd)
    clone=$(cd "$here/../../.." && pwd)
    kernel=$(cd "$1" && pwd)
    shift
    for tool in qemu-system-x86_64 busybox cpio modprobe depmod; do
        command -v "$tool" >/dev/null || fail "needs $tool: install qemu-system-x86, busybox-static, cpio and kmod"
    done
    image=$(find "$kernel/boot" -name 'vmlinuz-*' -print -quit)
    [ -n "$image" ] || fail "no boot/vmlinuz-* in $kernel: unpack a kernel package there"
    scratch=$(mktemp -d)
    machine=
    trap '[ -z "$machine" ] || kill "$machine" 2>/dev/null || true; rm -rf "$scratch"' EXIT
    mkdir "$scratch/out"
    initramfs "$kernel" "${image##*/vmlinuz-}" "$scratch/initramfs" >"$scratch/initrd"

    # The command, and how it ended, in a folder that both machines share.
    {
        echo 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8'
        printf 'cd %q\n' "$clone"
        printf '%q ' "$@"
        printf '\necho $? >/out/status\nsync\necho o >/proc/sysrq-trigger\nsleep 60\n'
    } >"$scratch/out/first"
    qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp "${CPUS:-2}" -m "${MEMORY:-4G}" -nic none -no-reboot \
        -display none -monitor none -serial stdio -device virtio-rng-pci \
        -kernel "$image" -initrd "$scratch/initrd" -append 'console=ttyS0 quiet panic=-1' \
        -virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap \
        -virtfs local,path="$scratch/out",mount_tag=out,security_model=none </dev/null &
    machine=$!
    wait "$machine" || true
    machine=
    exit "$(cat "$scratch/out/status" 2>/dev/null || echo 1)" # no status: it ended before the command did
}

main "$@"
