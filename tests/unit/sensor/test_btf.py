"""The reader of kernel types: damaged input is refused, and the kernel's own is read right."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

import daemoneye_sensor

LOADER = Path(daemoneye_sensor.__file__).parent / "loader"
VMLINUX = Path("/sys/kernel/btf/vmlinux")


def load(name: str) -> ModuleType:
    """A module of the compile child, as its script loads it."""
    spec = importlib.util.spec_from_file_location(name, LOADER / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def btf() -> ModuleType:
    return load("btf")


@pytest.mark.parametrize(
    "data", [b"", b"\x9f\xeb\x01", b"ELF" * 100, b"\x9f\xeb\x01\x00" + b"\x18\0\0\0" + b"\xff" * 40]
)
def test_what_is_not_btf_is_refused(btf: ModuleType, data: bytes) -> None:
    with pytest.raises(btf.BtfError):
        btf.Btf(data)


def test_a_kernel_without_btf_is_named(btf: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(btf.BtfError, match="CONFIG_DEBUG_INFO_BTF") as missing:
        btf.Btf.running(tmp_path / "vmlinux")
    assert missing.value.reason == "MissingBTF"


@pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF")
def test_the_running_kernel(btf: ModuleType) -> None:
    kernel = btf.Btf.running()
    assert kernel.offset("task_struct", "pid") < kernel.offset("task_struct", "tgid")
    assert kernel.offset("upid", "nr") == 0
    assert kernel.size("upid") == 16
    assert kernel.offset("file", "f_path", "dentry") == kernel.offset("file", "f_path") + kernel.offset(
        "path", "dentry"
    )
    assert kernel.has("kernfs_node", "__parent|parent")
    with pytest.raises(btf.BtfError, match="no struct de_nothing") as lacking:
        kernel.size("de_nothing")
    assert lacking.value.reason == "MissingKernelFeature"
    with pytest.raises(btf.BtfError, match=r"task_struct has no member de_nothing"):
        kernel.offset("task_struct", "de_nothing")
    assert load("offsets").defines(kernel)["DE_SIZE_UPID"] == 16


def test_debians_two_header_packages_become_one_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = load("headers")
    # Set first, so that the end of the test takes away what `prepare` sets.
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path / "gone"))
    with pytest.raises(headers.HeadersError, match="BCC_KERNEL_SOURCE names"):
        headers.prepare()
    del os.environ["BCC_KERNEL_SOURCE"]
    arch = headers._ARCH.get(headers.platform.machine(), headers.platform.machine())
    flavour, common = tmp_path / "linux-headers-6.1.0-9-amd64", tmp_path / "linux-headers-6.1.0-9-common"
    for path in (
        flavour / "include/generated/autoconf.h",
        flavour / f"arch/{arch}/include/generated/x.h",
        common / "include/linux/types.h",
        common / f"arch/{arch}/include/asm/y.h",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    made = headers.prepare(modules=tmp_path / "none", sources=tmp_path)
    with made as tree:
        for name in (
            "include/generated/autoconf.h",
            "include/linux/types.h",
            f"arch/{arch}/include/asm/y.h",
            f"arch/{arch}/include/generated/x.h",
        ):
            assert (Path(tree) / name).is_file()
    del os.environ["BCC_KERNEL_SOURCE"]
    with pytest.raises(headers.HeadersError, match="no kernel headers"):
        headers.prepare(modules=tmp_path / "none", sources=tmp_path / "empty")
