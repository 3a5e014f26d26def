"""The workspace's own rules: layout, locked requirements, licences, entry points."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.run import FOLDERS, MARKERS, MIXED

ROOT = Path(__file__).parents[2]
DISTS = ("analytics", "cli", "core", "dissect", "operator", "sensor")
MAX_LINES = 450
SKIPPED = {".git", ".venv", "__pycache__", "node_modules"}


def python_files():
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in SKIPPED]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def project(dist):
    return tomllib.loads((ROOT / dist / "pyproject.toml").read_text())["project"]


def package_folder(dist):
    (folder,) = (path for path in (ROOT / dist / "src").iterdir() if path.is_dir() and path.name != "__pycache__")
    return folder


def declared_entry_points():
    for dist in DISTS:
        declared = project(dist)
        groups = dict(declared.get("entry-points", {}))
        if "scripts" in declared:
            groups["console_scripts"] = declared["scripts"]
        for group, points in groups.items():
            for name, value in points.items():
                yield pytest.param(declared["name"], group, name, value, id=f"{group}:{name}")


def requirements(name):
    """The logical lines of a requirements file, without comments."""
    text = re.sub(r"\\\n", " ", (ROOT / "requirements" / name).read_text())
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()) if line]


def pins(name):
    return dict(line.split()[0].split("==") for line in requirements(name))


# `operator` is a module of the standard library and a folder of this repository.


def test_stdlib_operator_is_not_shadowed_in_this_process():
    import operator

    assert operator.itemgetter(1)("ab") == "b"
    assert ROOT not in Path(operator.__file__).parents


def test_stdlib_operator_is_not_shadowed_by_the_root_on_the_path():
    code = "import collections, operator; print(operator.itemgetter(1)('ab'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "b\n"


def test_nothing_importable_lies_directly_under_operator():
    assert [path.name for path in (ROOT / "operator").glob("*.py")] == []
    assert [path.name for path in (ROOT / "operator").iterdir() if path.is_dir() and path.name != "src"] == []


def test_tests_live_only_under_tests():
    strays = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if (path.name.startswith("test_") or path.name.endswith("_test.py") or path.name == "conftest.py")
        and path.relative_to(ROOT).parts[0] != "tests"
    ]
    assert strays == []


def test_the_compile_child_imports_only_the_standard_library_and_bcc():
    files = sorted((ROOT / "sensor/src/daemoneye_sensor/loader").glob("*.py"))
    allowed = sys.stdlib_module_names | {"bcc"} | {path.stem for path in files}
    imported = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    assert "bcc" in imported
    assert imported - allowed == set()


def test_dissect_is_on_its_own():
    """Its licence goes with scapy's, and with nobody else's of ours."""
    imported = set()
    for path in package_folder("dissect").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
        assert path.read_text().startswith("# SPDX-License-Identifier: GPL-2.0-only\n"), path.name
    assert imported - sys.stdlib_module_names == {"daemoneye_dissect", "scapy"}


def test_no_module_is_long():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in python_files()
        if (lines := path.read_text().count("\n")) > MAX_LINES and "GENERATED" not in path.read_text()[:400]
    }
    assert long == {}


# Locked requirements: hashes, and no addresses.


def test_there_is_no_lock_file_with_addresses():
    found = [
        name for name in ("uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock", "pylock.toml") if (ROOT / name).exists()
    ]
    assert found == []


IMAGES = [f"image-{name}.txt" for name in ("analytics", "nats", "operator", "sensor")]


@pytest.mark.parametrize("name", ["bootstrap.txt", "dev.txt", "fuzz.txt", "runtime.txt", *IMAGES])
def test_requirements_are_hashed_and_without_addresses(name):
    lines = requirements(name)
    pinned = re.compile(r"[a-z0-9][a-z0-9._-]*==[^\s;]+( ;[^-]+)?(\s+--hash=sha256:[0-9a-f]{64})+")
    assert len(lines) >= (1 if name in {*IMAGES, "fuzz.txt"} else 4)
    assert [line for line in lines if not pinned.fullmatch(line)] == []
    assert re.findall(r"\w+://|--(?:extra-)?index|--find-links|@ ", (ROOT / "requirements" / name).read_text()) == []


@pytest.mark.parametrize("name", ["bootstrap.txt", "runtime.txt"])
def test_requirement_files_agree(name):
    assert pins(name).items() <= pins("dev.txt").items()


@pytest.mark.parametrize("name", IMAGES)
def test_images_have_the_versions_that_are_tested(name):
    tested = pins("runtime.txt")
    assert {
        package: version for package, version in pins(name).items() if tested.get(package, version) != version
    } == {}


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_locked_from_what_is_asked_for(name):
    asked = {
        re.split(r"[<>=~!]", line)[0] for line in requirements(name.replace(".txt", ".in")) if not line.startswith("-")
    }
    assert asked <= set(pins(name))


@pytest.mark.parametrize(
    ("dist", "image", "core"),
    [
        ("analytics", "analytics", True),
        ("operator", "operator", True),
        ("sensor", "sensor", False),
        ("dissect", "sensor", False),
    ],
)
def test_images_have_what_their_distributions_depend_on(dist, image, core):
    extras = project("core")["optional-dependencies"]
    wanted = [*project(dist)["dependencies"], *(project("core")["dependencies"] if core else ())]
    for line in project(dist)["dependencies"]:
        if asked := re.match(r"daemoneye\[(.*)\]", line):
            wanted += [package for extra in asked[1].split(",") for package in extras[extra.strip()]]
    names = {re.split(r"[<>=~!\[]", line)[0] for line in wanted} - {"daemoneye"}
    assert names <= set(pins(f"image-{image}.txt"))


def test_the_unrelated_bcc_package_is_never_required():
    assert "bcc" not in pins("dev.txt")
    assert [dist for dist in DISTS if any(re.match(r"bcc\b", line) for line in project(dist)["dependencies"])] == []


@pytest.mark.parametrize("dist", DISTS)
def test_distribution_is_typed_and_licensed(dist):
    declared = project(dist)
    text = (ROOT / dist / "LICENSE").read_text()
    assert (package_folder(dist) / "py.typed").is_file()
    assert (package_folder(dist) / "__init__.py").read_text().lstrip("#").strip()
    assert declared["license"] == ("GPL-2.0-only" if dist == "dissect" else "Apache-2.0")
    assert ("GNU GENERAL PUBLIC LICENSE" if dist == "dissect" else "Apache License") in text
    assert declared["requires-python"] == ">=3.11"
    assert (ROOT / dist / "README.md").read_text().startswith(f"# {declared['name']}\n")


def test_distributions_have_one_version():
    assert len({project(dist)["version"] for dist in DISTS}) == 1


@pytest.mark.parametrize(("dist", "group", "name", "value"), list(declared_entry_points()))
def test_entry_point_resolves(dist, group, name, value):
    (point,) = (
        point
        for point in importlib.metadata.distribution(dist).entry_points
        if (point.group, point.name) == (group, name)
    )
    assert point.value == value
    assert point.load() is not None


def test_marked_tests_lie_where_make_test_looks_for_them():
    """tests/run.py runs them in a call of their own, which does not read the other folders."""
    marked = re.compile(rf"\bmark\.({'|'.join(MARKERS)})\b")
    found = {
        path.relative_to(ROOT / "tests").parts[0]
        for path in (ROOT / "tests").rglob("*.py")
        if marked.search(path.read_text())
    }
    assert found == {*FOLDERS, MIXED}
