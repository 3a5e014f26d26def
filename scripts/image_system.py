"""Runs while an image is built: copies of the Debian system the named packages and what they depend on into a new root, and nothing else.

Responsible for Debian's files: packages, their list (which scanners and the SBOM read), set-user-id bits, documentation, the user that
images run as. Not for Python packages (image_site.py). Standard library only. In the new root there is no apt, dpkg or perl.
"""

from __future__ import annotations

import argparse
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

# For people who look into a running container, and what libc and Python expect of a system.
BASE: Final = (
    "base-files", "base-passwd", "bash", "coreutils", "dash", "findutils", "grep", "gzip", "libc-bin", "sed", "tar",
)  # fmt: skip
# Dependencies that only installing and configuring needs.
SKIPPED: Final = frozenset({"debconf", "debianutils", "dpkg", "openssl", "perl", "perl-base", "perl:any"})
COPIED: Final = ("bin", "etc", "lib", "lib64", "sbin", "usr", "var")
USER: Final = 65532
DROPPED: Final = (
    "var/lib/apt", "var/cache", "var/log", "var/lib/systemd", "var/lib/pam", "var/backups", "usr/share/man", "usr/share/info", "usr/share/locale",
    "usr/share/lintian", "usr/share/debconf", "usr/share/bash-completion", "usr/share/perl5", "usr/lib/udev", "etc/apt", "etc/init.d", "etc/cron.daily",
    "etc/logrotate.d", "etc/pam.d", "etc/systemd", "etc/dpkg", "etc/kernel", "etc/security", "etc/skel", "etc/hostname", "etc/hosts", "etc/resolv.conf",
    "etc/rc0.d", "etc/rc6.d", "etc/rcS.d",
    "usr/local/lib/python3.11",
)  # fmt: skip

Stanza = dict[str, str]


def main() -> int:
    """Exit status 1 when something in the new root misses a library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("packages", nargs="+")
    arguments = parser.parse_args()
    root: Path = arguments.root
    copy(root)
    dpkg = root / "var/lib/dpkg"
    installed = {stanza["Package"]: stanza for stanza in stanzas((dpkg / "status").read_text())}
    keep = closure(installed, (*BASE, *arguments.packages))
    remove(root, [name for name in installed if name not in keep], keep)
    for path in dpkg.iterdir():
        if path.name != "info":
            discard(path)
    (dpkg / "status").write_text("".join(stanza["text"] for name, stanza in sorted(installed.items()) if name in keep))
    for path in (*(root / name for name in DROPPED), *(root / "usr/share/doc").glob("*/*")):
        if path.name != "copyright":
            discard(path)
    settle(root)
    problems = unresolved(root)
    for line in problems:
        print(f"image_system: {line}", file=sys.stderr)  # noqa: T201 - a program of the build
    return 1 if problems else 0


def copy(root: Path) -> None:
    """Copy the system without what is mounted into it."""
    root.mkdir(parents=True)
    subprocess.run(["cp", "-ax", *(f"/{name}" for name in COPIED if Path("/", name).exists()), root], check=True)
    for name, mode in (
        ("dev", 0o755),
        ("proc", 0o555),
        ("run", 0o755),
        ("sys", 0o555),
        ("root", 0o700),
        ("opt", 0o755),
        ("mnt", 0o755),
    ):
        (root / name).mkdir(mode=mode)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)


def stanzas(text: str) -> Iterator[Stanza]:
    """The installed packages' paragraphs of dpkg's status file; `text` is the whole of one."""
    for block in re.split(r"\n(?=Package: )", text):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", block, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            yield {**fields, "text": block.rstrip("\n") + "\n\n"}


def closure(installed: dict[str, Stanza], roots: Collection[str]) -> set[str]:
    """The roots and everything that they depend on.

    Raises:
        SystemExit: A root is not installed.
    """
    provides: dict[str, list[str]] = {}
    for name, stanza in installed.items():
        for provided in stanza.get("Provides", "").split(","):
            provides.setdefault(provided.split("(")[0].strip(), []).append(name)
    found: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        if name not in installed:
            raise SystemExit(f"image_system: package {name} is not installed")
        found.add(name)
        wanted = installed[name].get("Depends", "") + "," + installed[name].get("Pre-Depends", "")
        for dependency in filter(None, (part.strip() for part in wanted.split(","))):
            choices = [re.split(r"[ (]", choice.strip())[0] for choice in dependency.split("|")]
            if any(choice in SKIPPED for choice in choices):
                continue
            bare = [choice.split(":")[0] for choice in choices]
            real = [choice for choice in bare if choice in installed] or [
                p for choice in bare for p in provides.get(choice, ())
            ]
            todo += real[:1]
    return found


def remove(root: Path, names: Collection[str], keep: Collection[str]) -> None:
    """Remove packages' files, then the folders that are empty by that."""
    # A system whose /bin is /usr/bin knows files under both names.
    kept = {same(path) for name in keep for path in listed(root, name)[0]}
    folders: set[Path] = set()
    for name in names:
        paths, about = listed(root, name)
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                folders.add(path)
            elif (path.is_symlink() or path.exists()) and same(path) not in kept:
                path.unlink()
                if path.suffix == ".py":
                    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                        compiled.unlink()
        for path in about:
            path.unlink()
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        # Byte code, which Debian makes after it installed, is in no list. What stays keeps its own: without it, Python compiles at every start.
        for left in (folder / "__pycache__", folder):
            if left.is_dir() and same(left) not in kept and not any(left.iterdir()):
                left.rmdir()


def listed(root: Path, name: str) -> tuple[list[Path], list[Path]]:
    """(files of a package, dpkg's own files about it)."""
    # Names hold dots (python3, python3.11): a file of dpkg's is <name>[:<architecture>].<kind>.
    about = [path for path in (root / "var/lib/dpkg/info").glob(f"{name}*") if path.stem.split(":")[0] == name]
    lists = [path.read_text().splitlines() for path in about if path.suffix == ".list"]
    return [root / line.lstrip("/") for lines in lists for line in lines if line != "/."], about


def same(path: Path) -> Path:
    """One name for each file."""
    return path.parent.resolve() / path.name


def discard(path: Path) -> None:
    """Remove a file, a link or a folder; it may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def settle(root: Path) -> None:
    """The user, the modes, the linker's cache; links whose target is gone go, too."""
    for name, line in (
        ("passwd", f"daemoneye:x:{USER}:{USER}::/nonexistent:/usr/sbin/nologin\n"),
        ("group", f"daemoneye:x:{USER}:\n"),
    ):
        with (root / "etc" / name).open("a") as file:
            file.write(line)
        discard(root / "etc" / f"{name}-")
    for path in files(root):
        mode = path.stat().st_mode
        if mode & (stat.S_ISUID | stat.S_ISGID):
            path.chmod(stat.S_IMODE(mode) & 0o777)
    for link in (root / "etc/alternatives").glob("*"):
        target = link.readlink()
        if not (root / str(target).lstrip("/")).exists():
            link.unlink()
    for folder in ("var/cache", "var/log"):
        (root / folder).mkdir(mode=0o755)
    subprocess.run(["ldconfig", "-r", root], check=True)
    discard(root / "var/cache/ldconfig")


def files(root: Path) -> Iterator[Path]:
    """Every file."""
    return (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def unresolved(root: Path) -> list[str]:
    """Programs and libraries that miss a library."""
    found = []
    for path in files(root):
        with path.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                continue
        command = ["chroot", str(root), "ldd", f"/{path.relative_to(root)}"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        found += [f"{command[-1]}: {line.strip()}" for line in said.splitlines() if "not found" in line]
    return found


if __name__ == "__main__":
    sys.exit(main())
