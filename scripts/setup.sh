#!/usr/bin/env bash
# Prepares this machine and the tree's own environment (.venv). Idempotent, and quick when there is nothing to do.
#   1. apt packages on Debian and Ubuntu, as root or through sudo; elsewhere and without root it says what is missing
#   2. .venv from /usr/bin/python3 (BCC's Python module is built for that one), filled from the locked requirements
#   3. the six distributions, editable
# It mounts nothing and changes no kernel setting: the sensor does that when it starts.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
venv=$root/.venv
python=${DAEMONEYE_PYTHON:-/usr/bin/python3}
dists=(core sensor analytics cli operator dissect)

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 3
}

# ── 1. packages of the Linux distribution ───────────────────────────────────────────────────────────────────────────
as_root=()
may_root=yes
if [[ $(id -u) -ne 0 ]]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
        as_root=(sudo)
    else
        may_root=
    fi
fi

installed() { [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null) == ii* ]]; }

have_headers() {
    [[ -e /lib/modules/$(uname -r)/build/include/linux/kconfig.h ]] && return 0
    # Any version serves: programs take kernel fields by the offsets of the running kernel's BTF, not from headers.
    compgen -G '/usr/src/linux-headers-*/include/generated/autoconf.h' >/dev/null
}

headers_package() { # after `apt-get update`
    local exact arch
    exact=linux-headers-$(uname -r)
    arch=$(dpkg --print-architecture)
    if apt-cache show "$exact" >/dev/null 2>&1; then
        echo "$exact"
    elif [[ $distribution == *ubuntu* ]]; then
        echo linux-headers-generic
    else
        echo "linux-headers-$arch"
    fi
}

replay_works="everything else works without: daemoneye run --replay FILE, analytics, the command line"
distribution=$(sed -n 's/^ID\(_LIKE\)\?=//p' /etc/os-release 2>/dev/null || true)
if [[ $distribution == *debian* || $distribution == *ubuntu* ]] && command -v apt-get >/dev/null; then
    missing=()
    packages=(python3 python3-venv python3-bpfcc make ca-certificates)
    # `setup.sh tests`: what the tests need beside that (C programs; unshare, setpriv and mount; the test cluster's programs
    # that no Go module has, what builds images, and Prometheus with promtool, which judge the chart's alerts)
    if [[ ${1:-} == tests ]]; then
        packages+=(gcc libc6-dev util-linux mount etcd-server containerd runc containernetworking-plugins iptables conntrack iproute2)
        packages+=(buildah debootstrap libpcap0.8 prometheus)
        # clients, servers and the independent readers of tests/accuracy
        packages+=(tshark tcpdump curl bind9-dnsutils dnsmasq-base gnutls-bin openssl)
        # Ubuntu has browsers as snaps only, which do not run in the tests' namespaces.
        if [[ $distribution != *ubuntu* ]]; then packages+=(chromium firefox-esr); fi
    fi
    for package in "${packages[@]}"; do
        installed "$package" || missing+=("$package")
    done
    headers_missing=
    have_headers || headers_missing=yes
    if [[ ${#missing[@]} -gt 0 || -n $headers_missing ]]; then
        if [[ -n $may_root ]]; then
            say "installing ${missing[*]}${headers_missing:+ and kernel headers}"
            # RUNLEVEL=1: etcd, containerd and Prometheus are run by the tests with their own settings, not as services of this machine.
            apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -o Dpkg::Use-Pty=0)
            "${apt[@]}" update >&2 || say "apt-get update failed; going on with the lists that are there"
            if [[ -n $headers_missing ]]; then missing+=("$(headers_package)"); fi
            if ! "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >&2; then
                say "apt-get could not install: ${missing[*]}"
                say "the kernel source needs python3-bpfcc and kernel headers; $replay_works"
            fi
        else
            say "not root and no usable sudo, so these packages are not installed: ${missing[*]}${headers_missing:+ linux-headers}"
            say "the kernel source needs python3-bpfcc and linux-headers-$(uname -r) (or the distribution's default headers); $replay_works"
        fi
    fi
else
    "$python" -c 'import bcc' 2>/dev/null || say "not a Debian or Ubuntu: install BCC's Python module for $python (Fedora: python3-bcc); $replay_works"
    have_headers || say "not a Debian or Ubuntu: install the running kernel's headers (Fedora: kernel-devel)"
fi

# ── 2. the environment ──────────────────────────────────────────────────────────────────────────────────────────────
[[ -x $python ]] || die "$python is missing: install Python 3.11 or later (Debian, Ubuntu: python3 python3-venv)"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.version_info >= (3, 11))')
[[ $version == *True ]] || die "$python is ${version% *}, DaemonEye needs 3.11 or later (Debian 12, Ubuntu 24.04)"

want=$({
    echo "$root ${version% *}"
    cat requirements/bootstrap.txt requirements/dev.txt scripts/setup.sh
    for dist in "${dists[@]}"; do cat "$dist/pyproject.toml"; done
} | sha256sum | cut -d' ' -f1)
stamp=$venv/.daemoneye-setup
# `setup.sh fuzz`: atheris besides, where there is a wheel of it.
locked=(-r requirements/dev.txt)
if [[ ${1:-} == fuzz ]] && ! "$venv/bin/python" -c 'import atheris' 2>/dev/null; then
    if [[ $(uname -m) == x86_64 ]]; then
        locked+=(-r requirements/fuzz.txt --only-binary atheris)
    else
        say "atheris has no wheel for $(uname -m): decoders are fuzzed by the property tests alone"
    fi
fi
if [[ ${#locked[@]} -eq 2 && -x $venv/bin/daemoneye && -r $stamp && $(<"$stamp") == "$want" ]]; then
    exit 0
fi

# Scripts in an environment carry its path: one that was made elsewhere and moved here is made again.
if [[ -r $venv/.daemoneye-root && $(<"$venv/.daemoneye-root") != "$root" ]]; then
    say "this tree has moved, making .venv again"
    rm -rf "$venv"
fi
if [[ ! -x $venv/bin/python ]]; then
    say "making .venv with $python ${version% *}"
    "$python" -m venv "$venv" || die "$python -m venv failed (Debian, Ubuntu: python3-venv)"
fi
echo "$root" >"$venv/.daemoneye-root"

export PIP_DISABLE_PIP_VERSION_CHECK=1
uv_version=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements/bootstrap.txt)
if [[ $("$venv/bin/uv" --version 2>/dev/null || true) != "uv $uv_version"* ]] || ! "$venv/bin/python" -c 'import hatchling' 2>/dev/null; then
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >&2
    "$venv/bin/python" -m pip install --quiet --require-hashes -r requirements/bootstrap.txt >&2
fi

# uv does not read pip's configuration: hand over what pip would use.
pip_setting() { # NAME: from the environment, else from pip's files
    local variable=PIP_${1^^}
    variable=${variable//-/_}
    if [[ -n ${!variable:-} ]]; then
        echo "${!variable}"
    elif "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        "$venv/bin/python" -m pip config get "global.$1" 2>/dev/null || true
    fi
}
hand_over() { # UV_VARIABLE pip-setting
    if [[ -z ${!1:-} ]]; then
        local value
        value=$(pip_setting "$2")
        if [[ -n $value ]]; then export "$1=$value"; fi
    fi
}
hand_over UV_DEFAULT_INDEX index-url
hand_over UV_INDEX extra-index-url
hand_over UV_FIND_LINKS find-links
hand_over SSL_CERT_FILE cert
if [[ ${UV_FIND_LINKS:-} == /* && ! -d ${UV_FIND_LINKS:-} ]]; then unset UV_FIND_LINKS; fi # pip warns, uv stops

say "installing the locked requirements"
uv=("$venv/bin/uv" --quiet pip install --python "$venv/bin/python")
"${uv[@]}" --require-hashes "${locked[@]}" >&2

# ── 3. the distributions ────────────────────────────────────────────────────────────────────────────────────────────
editable=()
for dist in "${dists[@]}"; do editable+=(--editable "./$dist"); done
"${uv[@]}" --no-deps --no-build-isolation "${editable[@]}" >&2

echo "$want" >"$stamp"
say "ready: .venv/bin/daemoneye"
