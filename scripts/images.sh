#!/usr/bin/env bash
# Builds the container images with buildah and keeps them as archives that `ctr -n k8s.io images import` takes.
#   scripts/images.sh [--size] [--fresh] [operator|analytics|sensor|nats …]
# Prints a line an image: name, size, archive. Needs root, buildah and debootstrap, which makes the base image: there may be no registry. BASE=name in
# the environment takes another base. Everything lies under ${XDG_CACHE_HOME:-~/.cache}/daemoneye-images; an archive is named by the hash of all that goes into it.
#   --size   a table for people instead
#   --fresh  forget the base system and all layers first: newest Debian packages
# The machine's apt and pip configuration is mounted into the build and stored nowhere. Elsewhere the Dockerfiles build by themselves: docs/images.md.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/daemoneye-images
suite=bookworm
made_base=localhost/daemoneye-base:$suite
base=${BASE:-$made_base}
tag=dev
kept_archives=4 # of each image
max_layers_gb=12 # of older states, too; thrown away whole, since buildah cannot tell which are of use

say() { printf 'images: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# ── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────
names=() table= fresh=
for word in "$@"; do
    case $word in
    --size) table=yes ;;
    --fresh) fresh=yes ;;
    operator | analytics | sensor | nats) names+=("$word") ;;
    *) die "unknown argument $word (known: --size --fresh operator analytics sensor nats)" ;;
    esac
done
if [[ ${#names[@]} -eq 0 ]]; then names=(operator analytics sensor nats); fi

# ── what an image is made of ────────────────────────────────────────────────────────────────────────────────────────
inputs() { # NAME: paths
    echo scripts/images.sh .dockerignore scripts/sbom.py requirements/bootstrap.txt "requirements/image-$1.txt"
    case $1 in
    nats) echo Dockerfile.operator scripts/image_site.py ;;
    operator | analytics) echo Dockerfile.operator scripts/image_system.py scripts/image_site.py core "$1" ;;
    sensor) echo Dockerfile.sensor scripts/image_system.py scripts/image_site.py scripts/image_headers.sh core sensor dissect bpf ;;
    esac
}

input_files() { # NAME: the files, sorted, without what Python leaves
    # shellcheck disable=SC2046 # paths of this repository
    find $(inputs "$1") -type f ! -path '*/__pycache__/*' ! -name '*.pyc' ! -path '*.egg-info/*' -print0 | LC_ALL=C sort -z
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' core/pyproject.toml)

revision() { # NAME: the commit that the inputs are of
    local commit
    # shellcheck disable=SC2046
    commit=$(git log -1 --format=%H -- $(inputs "$1") 2>/dev/null) || commit=
    if [[ -z $commit ]]; then
        echo unknown
    elif [[ -n $(git status --porcelain -- $(inputs "$1") 2>/dev/null) ]]; then # shellcheck disable=SC2046
        echo "$commit-modified"
    else
        echo "$commit"
    fi
}

archive() { # NAME FOLDER: path of the archive of what stands in the folder
    local hash
    hash=$({
        echo "$base $version $(revision "$1") $(dpkg --print-architecture 2>/dev/null || uname -m)"
        cd "$2"
        input_files "$1" | xargs -0 sha256sum
    } | sha256sum | cut -c1-16)
    echo "$cache/$1-$hash.tar"
}

# ── buildah, with a storage of its own ──────────────────────────────────────────────────────────────────────────────
work=
b() { buildah --root "$cache/storage" --runroot "$work/run" --storage-driver "$driver" "$@"; }

start_storage() {
    [[ $(id -u) -eq 0 ]] || die "building needs root: make images, or sudo scripts/images.sh"
    command -v buildah >/dev/null || die "buildah is missing: scripts/setup.sh tests installs it; docker and podman build the Dockerfiles, too (docs/images.md)"
    work=$(mktemp -d)
    # overlay cannot lie on overlay (a machine that is a container).
    driver=overlay
    if [[ $(stat -f -c %T "$cache") == overlayfs ]]; then driver=vfs; fi
    if [[ -n $fresh || $(layers_gb) -gt $max_layers_gb ]]; then
        clear_storage
        if [[ -n $fresh ]]; then rm -f "$cache/base-$suite.tar"; fi
    fi
}

layers_gb() {
    local list=$cache/storage/$driver-layers/layers.json
    if [[ ! -e $list ]]; then echo 0 && return; fi
    python3 -c 'import json, sys; print(sum(layer.get("diff-size", 0) for layer in json.load(open(sys.argv[1]))) // 10**9)' "$list"
}

clear_storage() {
    unmount_storage
    rm -rf --one-file-system "$cache/storage"
}

unmount_storage() { # what a build that was ended left mounted
    local point
    while read -r _ point _; do
        if [[ $point == "$cache/storage/"* ]]; then umount -l "$point" || true; fi
    done <<<"$(tac /proc/self/mounts)"
}

finish() {
    unmount_storage
    if [[ -n $work ]]; then rm -rf "$work"; fi
}

# ── what the machine tells apt and pip ──────────────────────────────────────────────────────────────────────────────
debian_sources() { # the machine's own, where it is the same Debian
    local line
    list() { apt-get indextargets --format '$(CREATED_BY) $(ORIGIN) $(CODENAME) $(REPO_URI) $(RELEASE) $(COMPONENT)' 2>/dev/null | sed -n "s/^Packages Debian $suite[^ ]* //p"; }
    command -v apt-get >/dev/null || return 0
    line=$(list)
    if [[ -z $line ]] && grep -qs "^VERSION_CODENAME=$suite" /etc/os-release; then
        apt-get -qq update >&2 || true
        line=$(list)
    fi
    if [[ -n $line ]]; then sed 's,^,deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ,' <<<"$line"; fi
}

volumes=() arguments=()
configure() {
    local bundle=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}} sources
    mkdir -p "$work/apt.conf.d" "$work/mnt"
    if [[ -r $bundle ]]; then cp "$bundle" "$work/mnt/ca.pem"; fi
    {
        if command -v apt-config >/dev/null; then apt-config dump | grep -E '^Acquire::(http|https|ftp|Retries|Check-Valid-Until|Check-Date)\b' | grep -viE 'CaInfo|CaPath' || true; fi
        # shellcheck disable=SC2016
        echo 'Acquire::https::CaInfo "/mnt/ca.pem";'
        echo 'Acquire::Languages "none";'
    } >"$work/apt.conf.d/50machine"
    volumes+=(--volume "$work/apt.conf.d:/etc/apt/apt.conf.d:ro" --volume "$work/mnt:/mnt:ro")
    sources=$(debian_sources)
    if [[ -n $sources ]]; then
        mkdir -p "$work/sources.list.d"
        echo "$sources" >"$work/sources.list.d/machine.list"
        volumes+=(--volume "$work/sources.list.d:/etc/apt/sources.list.d:ro")
    fi
    if [[ -d /etc/apt/auth.conf.d ]]; then volumes+=(--volume /etc/apt/auth.conf.d:/etc/apt/auth.conf.d:ro); fi
    pip_configuration >"$work/mnt/pip.conf"
    arguments+=(--build-arg PIP_CONFIG_FILE=/mnt/pip.conf)
}

pip_configuration() { # files and environment as one file; folders and certificates of this machine are not there in the build
    local setting key value
    echo '[global]'
    if [[ -r $work/mnt/ca.pem ]]; then echo 'cert = /mnt/ca.pem'; fi
    python3 -m pip config list 2>/dev/null | while IFS= read -r setting; do
        key=${setting%%=*} value=${setting#*=}
        value=${value#\'} value=${value%\'}
        case $key in
        global.cert | :env:.cert | *.find-links | *.require-virtualenv | *.user | *.target | *.cache-dir) continue ;;
        global.* | :env:.*) printf '%s = %s\n' "${key##*.}" "${value//\\n/ }" ;;
        esac
    done | tac | awk -F ' = ' '!seen[$1]++' # the environment comes last in pip's list, and wins
}

# ── the base image ──────────────────────────────────────────────────────────────────────────────────────────────────
make_base() {
    local image=$cache/base-$suite.tar root=$work/base mirror container
    if [[ $base != "$made_base" ]]; then
        b inspect --type image "$base" >/dev/null 2>&1 || b pull --quiet "$base" >"$work/log" 2>&1 || show_log "the base image $base cannot be fetched"
        return 0
    fi
    if b inspect --type image "$base" >/dev/null 2>&1; then return 0; fi
    if [[ ! -e $image ]]; then
        command -v debootstrap >/dev/null || die "debootstrap is missing: scripts/setup.sh tests installs it"
        say "making a Debian $suite by debootstrap (once)"
        mirror=$(debian_sources | awk -v suite="$suite" '$4 == suite {print $3; exit}')
        debootstrap --variant=minbase "$suite" "$root" ${mirror:+"$mirror"} >"$work/log" 2>&1 || show_log "debootstrap failed"
        # What the public slim image leaves out.
        cat >"$root/etc/dpkg/dpkg.cfg.d/docker" <<'EOF'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/groff/*
path-exclude /usr/share/info/*
path-exclude /usr/share/linda/*
path-exclude /usr/share/lintian/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
EOF
        find "$root/usr/share/doc" -mindepth 2 ! -name copyright ! -type d -delete
        rm -rf "$root"/usr/share/{groff,info,lintian,locale,man}/* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/log/*
        # A mirror of this machine is no part of an image.
        if [[ -n $mirror ]]; then : >"$root/etc/apt/sources.list"; fi
        rm -f "$root/etc/hostname" "$root/etc/resolv.conf"
        tar -C "$root" --numeric-owner --one-file-system -cf "$image.part" .
        rm -rf "$root"
        mv "$image.part" "$image"
    fi
    container=$(b from scratch)
    b add --quiet "$container" "$image" / >/dev/null
    b config --cmd /bin/bash "$container"
    b commit --quiet --rm "$container" "$base" >/dev/null
}

# ── building ────────────────────────────────────────────────────────────────────────────────────────────────────────
show_log() { # MESSAGE: the end of the log, then an end
    tail -n 40 "$work/log" >&2
    die "$1; the end of its output stands above"
}

path=
build() { # NAME: sets path
    local file=Dockerfile.operator began=$SECONDS context
    if [[ $1 == sensor ]]; then file=Dockerfile.sensor; fi
    if [[ -z $work ]]; then
        trap finish EXIT
        start_storage
        make_base
        configure
    fi
    # A copy: somebody may edit while this runs, and the archive's name must say what is in it.
    context=$work/context
    rm -rf "$context"
    mkdir "$context"
    input_files "$1" | xargs -0 cp -a --parents -t "$context"
    path=$(archive "$1" "$context")
    say "building $1"
    b bud --isolation chroot --network host --layers --pull-never --quiet --format docker --file "$context/$file" --target "$1" \
        --build-arg BASE="$base" --build-arg VERSION="$version" --build-arg REVISION="$(revision "$1")" "${arguments[@]}" "${volumes[@]}" \
        --iidfile "$work/id" "$context" >"$work/log" 2>&1 </dev/null || show_log "the build of $1 failed"
    b push --quiet "$(<"$work/id")" "docker-archive:$path.part:daemoneye/$1:$tag" >"$work/log" 2>&1 || show_log "the image $1 cannot be written to $path"
    mv "$path.part" "$path"
    say "built $1 in $((SECONDS - began)) s"
}

main() {
    local name size
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    rm -f "$cache"/*.part
    for name in "${names[@]}"; do
        path=$(archive "$name" .)
        if [[ -n $fresh || ! -e $path ]]; then build "$name"; fi
        touch "$path"
        # An archive holds the layers uncompressed: its size is that of the image on a node.
        size=$(($(stat -c %s "$path") / 1000000))
        if [[ -n $table ]]; then
            printf '%-28s %5d MB  %s\n' "daemoneye/$name:$tag" "$size" "$path"
        else
            echo "daemoneye/$name:$tag $size MB $path"
        fi
    done
    find "$cache" -maxdepth 1 -name '*.tar' ! -name 'base-*' -mtime +7 -delete
    for name in operator analytics sensor nats; do # a day of edits must not fill the disk
        find "$cache" -maxdepth 1 -name "$name-*.tar" -printf '%T@ %p\n' | sort -rn | sed "1,${kept_archives}d; s/^[^ ]* //" | xargs -r rm -f
    done
}

# As one line, so that a shell that runs this reads no more of a file that is edited meanwhile.
main; exit
