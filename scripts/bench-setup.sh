#!/usr/bin/env bash
# Installs what `make bench` compares with: peers of the Linux distribution, and one Python package for the encodings, outside of .venv.
# Nothing of it is needed to run or test DaemonEye; a bench says what is absent. Needs root or sudo for the packages.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache=$HOME/.cache/daemoneye-bench

if command -v apt-get >/dev/null; then
    as_root=()
    if [[ $(id -u) -ne 0 ]]; then as_root=(sudo); fi
    missing=()
    for package in bpftrace libbpf-tools auditd linux-perf gcc libc6-dev; do
        [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == ii* ]] || missing+=("$package")
    done
    if [[ ${#missing[@]} -gt 0 ]]; then
        "${as_root[@]}" apt-get -qq update >&2
        # auditd's package would start a daemon that holds the kernel's audit socket; the bench runs its own.
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq install -y --no-install-recommends "${missing[@]}" >&2 ||
            echo "bench-setup: could not install: ${missing[*]}; the bench leaves them out" >&2
    fi
fi
# Peers attach to system call tracepoints by name (ours are raw and need no tracefs).
if [[ $(id -u) -eq 0 ]] && ! grep -q ' /sys/kernel/tracing tracefs ' /proc/mounts; then mount -t tracefs tracefs /sys/kernel/tracing; fi
mkdir -p "$cache"
.venv/bin/uv --quiet pip install --target "$cache" ormsgpack >&2 || python3 -m pip install --quiet --target "$cache" ormsgpack >&2 ||
    echo "bench-setup: could not install ormsgpack; the bench leaves it out" >&2
