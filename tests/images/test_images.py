"""What is in the images, what is not, and that it works with a read-only root."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from daemoneye_sensor.programs import BPFFS
from tests.images.conftest import NAMES, REPOSITORY, images

MEGABYTE = 1_000_000
TARGETS = {"operator": 300, "analytics": 1000, "sensor": 450, "nats": 40}
WITH_PYTHON = ("operator", "analytics", "sensor")
MODULES = {"operator": "daemoneye_operator", "analytics": "daemoneye_analytics", "sensor": "daemoneye_sensor"}
KUBERNETES_CLIENTS = {"kubernetes", "kubernetes-asyncio", "pykube-ng", "lightkube", "kr8s", "kubernetes-client"}
COMPILERS = re.compile(
    r"(pip|uv|gcc|g\+\+|cc|c\+\+|cpp|clang|tcc|go|as|ld|make|apt|apt-get|dpkg|perl)(-?[0-9][0-9.]*)?"
)
IMPORT_ALL = """
import importlib, pkgutil
package = importlib.import_module({name!r})
names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names), package.__file__)
"""
LOAD = """
from pathlib import Path
from daemoneye_sensor.programs import PROGRAMS, RingSizes, load
programs = load(Path("/opt/daemoneye/bpf"), "image-test", RingSizes(1 << 16, 1 << 16, 1 << 16))
print(programs.taken_over, sorted(path.name for path in programs.pin.iterdir()))
programs.remove()
programs.close()
"""
DISSECT = """
import importlib.util, json, struct, subprocess, sys
from daemoneye_sensor.dissector import COMMAND
question = bytes.fromhex(
    "02000000000202000000000108004500003900010000401166b10a0000010a000002138800350025787d00070100000100000000000001610162076578616d706c650000010001"
)
request = bytes.fromhex(
    "02000000000202000000000108004500003a00010000400666bb0a0000010a00000213880050000000000000000050182000893f0000474554202f20485454502f312e310d0a0d0a"
)
head = json.dumps({"do": "dissect", "link": 1}).encode()
asked = b"".join(struct.pack(">II", len(head), len(frame)) + head + frame for frame in (question, request))
done = subprocess.run(COMMAND, input=asked, capture_output=True, check=True)
answers, at = [], 0
while at < len(done.stdout):
    header, body = struct.unpack_from(">II", done.stdout, at)
    answers.append(json.loads(done.stdout[at + 8 : at + 8 + header]))
    at += 8 + header + body
print(answers[0]["user"], answers[1]["ok"], [layer["name"] for layer in answers[1]["layers"]], answers[2]["layers"][-1]["name"])
print(importlib.util.find_spec("scapy.contrib.bgp"))
"""
DETECT = """
import numpy, polars, pyarrow, pyarrow.ipc
from pyod.models.ecod import ECOD
from pyod.models.hbos import HBOS
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
rows = numpy.vstack([numpy.random.default_rng(1).normal(size=(400, 4)), [[9, 9, 9, 9]]])
frame = polars.from_arrow(polars.DataFrame(rows).to_arrow())
for model in (ECOD, HBOS, IForest, KNN):
    print(model.__name__, int(numpy.argmax(model().fit(frame.to_numpy()).decision_scores_)))
"""


def locked(name: str) -> dict[str, str]:
    text = (REPOSITORY / "requirements" / f"image-{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_size_is_within_the_target(image, name):
    size = image(name).archive.stat().st_size / MEGABYTE
    assert size <= TARGETS[name], f"daemoneye/{name} has {size:.0f} MB"


@pytest.mark.parametrize("name", NAMES)
def test_archive_names_the_image_that_pods_ask_for(image, name):
    (tag,) = image(name).manifest["RepoTags"]
    assert tag.partition("/")[2] == f"daemoneye/{name}:dev"


def test_an_image_whose_inputs_did_not_change_is_not_built_again(image):
    # The one that has no code of ours in it, which somebody may be editing.
    archive = image("nats").archive
    made = archive.stat().st_ino
    assert images("nats") == ([archive], "")
    assert archive.stat().st_ino == made


@pytest.mark.parametrize("name", NAMES)
def test_labels(image, name):
    labels = image(name).config["config"]["Labels"]
    assert set(labels) >= {
        f"org.opencontainers.image.{key}" for key in ("title", "description", "version", "revision", "licenses")
    }
    version = re.search(r'^version = "(.*)"', (REPOSITORY / "core/pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert labels["org.opencontainers.image.version"] == version[1]
    assert all(labels.values())


@pytest.mark.parametrize("name", NAMES)
def test_user(image, name):
    assert image(name).config["config"].get("User", "") == ("" if name == "sensor" else "65532:65532")


@pytest.mark.parametrize("name", NAMES)
def test_no_program_runs_as_another_user_than_its_caller(image, name):
    files = [path for path in image(name).root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [str(path) for path in files if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)] == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_installs_or_compiles_is_left(image, name):
    root = image(name).root
    programs = {
        path.name
        for folder in ("usr/bin", "usr/sbin", "usr/local/bin", "opt/daemoneye/bin")
        for path in (root / folder).glob("*")
    }
    assert [program for program in programs if COMPILERS.fullmatch(program)] == []
    assert image(name).distributions() & {"pip", "uv", "setuptools", "hatchling", "wheel"} == set()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_machine_that_built_it_is_left(image, name):
    root = image(name).root
    assert not (root / "etc/apt").exists()
    assert list((root / "mnt").glob("*")) == []
    assert [
        str(path) for path in (*root.glob("etc/pip.conf"), *root.glob("opt/daemoneye/pip.conf"), *root.glob("root/*"))
    ] == []
    assert "://" not in json.dumps(image(name).config)
    assert not (root / "etc/resolv.conf").exists()
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    if bundle.exists():
        shipped = [path.read_text().strip() for path in (root / "usr/share/ca-certificates/mozilla").iterdir()]
        assert bundle.read_text().count("BEGIN CERTIFICATE") == len(shipped)
        assert all(text in bundle.read_text() for text in shipped)


@pytest.mark.parametrize("name", NAMES)
def test_bill_of_materials_is_complete(image, name):
    bill = image(name).sbom
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.5", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    refs = [component["bom-ref"] for component in bill["components"]]
    assert len(refs) == len(set(refs))
    python = {c["name"]: c["version"] for c in bill["components"] if c["purl"].startswith("pkg:pypi/")}
    assert python.items() >= locked(name).items()
    unlicensed = {c["name"] for c in bill["components"] if c["purl"].startswith("pkg:pypi/") and not c.get("licenses")}
    assert unlicensed == set()
    if name not in WITH_PYTHON:
        return
    assert {"daemoneye", f"daemoneye-{name}"} <= set(python)
    assert set(python) == image(name).distributions()
    debian = {c["name"] for c in bill["components"] if c["purl"].startswith("pkg:deb/")}
    headers = {package for package in debian if package.startswith("linux-headers-")}
    status = (image(name).root / "var/lib/dpkg/status").read_text()
    assert debian - headers == set(re.findall(r"^Package: (.*)$", status, re.MULTILINE))
    assert {"libc6", "python3", "base-files"} <= debian
    if name == "sensor":
        assert {"python3-bpfcc", "libbpfcc", "libpcap0.8"} <= debian
        assert len(headers) == 2
    else:
        assert headers == set()


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_every_module_is_importable_by_its_user_on_a_read_only_root(image, name):
    count, file = image(name).python(IMPORT_ALL.format(name=MODULES[name])).split()
    assert int(count) > 3
    assert file.startswith("/opt/daemoneye/lib/python3")


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_byte_code_is_compiled_and_does_not_age(image, name):
    sources = [
        p for p in image(name).root.glob("opt/daemoneye/lib/python3*/site-packages/**/*.py") if "bad" not in p.name
    ]
    missing = [str(p) for p in sources if not list((p.parent / "__pycache__").glob(f"{p.stem}.cpython-*.pyc"))]
    assert missing == []
    (compiled,) = image(name).root.glob("opt/daemoneye/lib/python3*/site-packages/daemoneye/__pycache__/__init__.*.pyc")
    assert compiled.read_bytes()[4:8] == b"\1\0\0\0"  # PEP 552: by hash, unchecked


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_debian_s_modules_have_byte_code_that_is_up_to_date(image, name):
    """By the source's size and time, as Debian makes it: a read-only image compiles what has none at every start."""
    # sitecustomize.py is a link into the image's /etc, which here would be ours.
    sources = [p for p in image(name).root.glob("usr/lib/python3.11/*.py") if not p.is_symlink()]
    assert len(sources) > 100
    for source in sources:
        compiled = (source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc").read_bytes()
        kind, moment, size = struct.unpack_from("<III", compiled, 4)
        assert (kind, moment, size) == (0, int(source.stat().st_mtime), source.stat().st_size), source


def test_operator_has_one_kubernetes_client_and_no_models(image):
    found = image("operator").distributions()
    assert found & KUBERNETES_CLIENTS == {"kubernetes"}
    assert found & {"pyod", "numba", "scipy", "scikit-learn", "polars", "pyarrow", "matplotlib", "llvmlite"} == set()
    assert list(image("operator").root.glob("opt/daemoneye/lib/python3*/site-packages/kubernetes/aio")) == []


def test_analytics_fits_models(image):
    # The outlier is the last row.
    assert image("analytics").python(DETECT).splitlines() == ["ECOD 400", "HBOS 400", "IForest 400", "KNN 400"]


def test_sensor_compiles_and_loads_its_programs_with_its_own_headers(image):
    root = image("sensor").root
    assert not (root / "usr/src/linux").exists()
    assert not list(root.glob("lib/modules/*"))
    said = image("sensor").python(LOAD)
    assert said.startswith("False ")
    assert "link_process_exec" in said
    assert not (BPFFS / "daemoneye/image-test").exists()


def test_sensor_knows_how_to_compile_capture_filters(image):
    code = "import ctypes; lib = ctypes.CDLL('libpcap.so.0.8'); lib.pcap_lib_version.restype = ctypes.c_char_p; print(lib.pcap_lib_version().decode())"
    assert image("sensor").python(code).startswith("libpcap version 1.")


def test_sensor_dissects_in_a_process_without_privileges(image):
    said = image("sensor").python(DISSECT)
    assert said.splitlines() == ["65534 True ['Ethernet', 'IP', 'UDP', 'DNS'] HTTP Request", "None"]
    licences = {c["name"]: str(c["licenses"]) for c in image("sensor").sbom["components"] if c.get("licenses")}
    assert "GPL-2.0-only" in licences["scapy"]
    assert "GPL-2.0-only" in licences["daemoneye-dissect"]


def test_broker_keeps_streams_on_a_read_only_root(image):
    command = image("nats").command(
        "nats-server", "--addr", "127.0.0.1", "--port", "-1", "--jetstream", "--store_dir", "/tmp/data"
    )
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as server:
        assert server.stderr
        lines = []
        try:
            for line in server.stderr:
                lines.append(line)
                if "Server is ready" in line:
                    break
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # unshare heeds nothing else, and its child would outlive it
    assert "Server is ready" in lines[-1], "".join(lines)
    assert any("/tmp/data" in line for line in lines)


def test_image_paths_are_as_the_dockerfiles_say(image):
    assert (image("nats").root / "usr/local/bin/nats-server").stat().st_mode & 0o777 == 0o755
    assert Path(image("sensor").root, "opt/daemoneye/bpf/programs/process_exec.bpf.c").is_file()
    for name in WITH_PYTHON:
        assert image(name).config["config"]["Entrypoint"] == ["/opt/daemoneye/bin/python", "-m", MODULES[name]]
