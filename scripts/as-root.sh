#!/usr/bin/env bash
# Runs a command as root where that is possible (already root, or sudo), else as it is, saying so once.
# Through sudo no byte code is written, so that root leaves no files in a user's tree.
set -euo pipefail

if [[ $(id -u) -eq 0 ]]; then
    exec "$@"
fi
if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
    keep=()
    for name in CI HYPOTHESIS_PROFILE NO_COLOR COLUMNS DAEMONEYE_STATE; do
        if [[ -n ${!name:-} ]]; then keep+=("$name=${!name}"); fi
    done
    exec sudo env PYTHONDONTWRITEBYTECODE=1 "${keep[@]}" "$@"
fi
echo "as-root: not root and no usable sudo: running as $(id -un)" >&2
exec "$@"
