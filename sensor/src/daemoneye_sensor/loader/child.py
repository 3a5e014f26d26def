"""The compile child: compiles the programs with BCC, loads them, pins maps and links in bpffs, exits.

It is run as `/usr/bin/python3 -I child.py` with a JSON request on stdin and answers with JSON on stdout. It imports the standard library
and the distribution's bcc only, so that LLVM's 130 MB never belong to the sensor.

Request: {"sources": [paths, in order], "pin": directory, "defines": {name: number}, "programs": {function: tracepoint},
"sockets": {"sources": [paths], "programs": {function: tracepoint}, "instead": {function: functions},
"drops": {reason of the kernel: code}, "other": code}, "iterator": function of a task iterator, "epoch": number, "records": number}.
Answer: {"ok": true, "missing": {function: why it does not run}} or {"error": text, "fix": text, "reason": word of a policy's status, where the
child knows it}. Only programs about sockets may be missing: whatever is wrong with them, processes are watched. A program that is there `instead`
of others runs where one of these cannot, and then alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from btf import Btf, BtfError
from headers import HeadersError, prepare
from offsets import defines, drop_codes, socket_defines

_MAPS = ("control", "exec_ring", "process_ring", "blob_ring", "socket_ring", "sockets", "cgroups_seen")
_EPOCH_SLOT, _RECORDS_SLOT, _CODES_SLOT, _CODES = 3, 4, 256, 256


def _install(package: str) -> str:
    return f"apt-get install {package}"


def _answer(**fields: Any) -> None:
    json.dump(fields, sys.stdout)
    sys.stdout.flush()


def load(request: dict[str, Any]) -> dict[str, str]:
    """Compile, load, attach, pin; returns which programs about sockets do not run, and why."""
    from bcc import BPF, lib

    btf = Btf.running()
    values = {**defines(btf), **request["defines"]}
    trouble, program = "", None
    try:
        program = _compiled([*request["sources"], *request["sockets"]["sources"]], {**values, **socket_defines(btf)})
    except BtfError as missing:
        trouble = str(missing)
    except Exception as failure:  # noqa: BLE001 - BCC raises bare Exception; whose fault it was the next try says
        trouble = f"they do not compile: {failure}"
    if program is None:
        program = _compiled(request["sources"], values)
    codes = drop_codes(btf, request["sockets"]["drops"], request["sockets"]["other"])
    numbers = {_EPOCH_SLOT: request["epoch"], _RECORDS_SLOT: request["records"]}
    for slot, value in {**numbers, **{_CODES_SLOT + n: code for n, code in codes.items() if n < _CODES}}.items():
        program["control"][ctypes.c_uint32(slot)] = ctypes.c_uint64(value)
    pin = Path(request["pin"])
    for _ in range(3):  # another sensor that ends may remove the empty parent meanwhile
        with contextlib.suppress(FileNotFoundError):
            pin.mkdir(parents=True, exist_ok=True, mode=0o700)
            break
    for name in _MAPS:
        _pin(lib, program[name].map_fd, pin / name)
    for function, tracepoint in request["programs"].items():
        _attach(lib, program, function, tracepoint, pin)
    absent = _attach_sockets(lib, program, request["sockets"], pin, trouble)
    if request.get("iterator"):
        loaded = program.load_func(request["iterator"], BPF.TRACING)
        link = lib.bcc_iter_attach(loaded.fd, None, 0)
        if link < 0:
            raise OSError(ctypes.get_errno(), "the task iterator cannot be attached")
        _pin(lib, link, pin / "processes")
    return absent


def _attach_sockets(lib: Any, program: Any, about: dict[str, Any], pin: Path, trouble: str) -> dict[str, str]:
    """Attach what can be attached of the programs about sockets, nothing if there is trouble already; which do not run, and why."""
    sockets: dict[str, str] = about["programs"]
    absent: dict[str, str] = {}
    instead: dict[str, list[str]] = about["instead"]
    for function, tracepoint in sockets.items():
        others = instead.get(function, [])
        if others and not trouble and not absent.keys() & set(others):
            continue
        try:
            if not trouble:
                _attach(lib, program, function, tracepoint, pin)
        except Exception as failure:  # noqa: BLE001 - BCC raises bare Exception
            absent[function] = str(failure)
            if function == next(iter(sockets)):  # without the first the others know no connection
                trouble = str(failure)
        else:
            for other in others if not trouble else ():
                absent.pop(other, None)
                for what in ("link", "prog"):
                    (pin / f"{what}_{other}").unlink(missing_ok=True)
        if trouble:
            absent[function] = trouble
    return absent


def _compiled(sources: list[str], values: dict[str, int]) -> Any:
    from bcc import BPF

    text = "\n".join(Path(source).read_text() for source in sources)
    # BCC's own headers redefine macros of other kernel versions: noise that would hide a real message.
    return BPF(text=text, cflags=[*(f"-D{name}={value}" for name, value in values.items()), "-Wno-macro-redefined"])


def _attach(lib: Any, program: Any, function: str, tracepoint: str, pin: Path) -> None:
    loaded = program.load_func(function, program.RAW_TRACEPOINT)
    link = lib.bpf_attach_raw_tracepoint(loaded.fd, tracepoint.encode())
    if link < 0:
        raise OSError(ctypes.get_errno(), f"raw tracepoint {tracepoint} cannot be attached")
    _pin(lib, loaded.fd, pin / f"prog_{function}")
    _pin(lib, link, pin / f"link_{function}")


def _pin(lib: Any, fd: int, path: Path) -> None:
    if lib.bpf_obj_pin(fd, str(path).encode()) < 0:
        raise OSError(ctypes.get_errno(), f"cannot pin {path}")


def main() -> int:
    """Exit status 0 when pinned, 1 otherwise; the answer says why."""
    request = json.load(sys.stdin)
    # BCC and clang write to stdout in places; the answer alone belongs there.
    answer = os.dup(1)
    os.dup2(2, 1)
    error = fix = reason = ""
    missing_programs: dict[str, str] = {}
    try:
        with prepare() or contextlib.nullcontext():
            missing_programs = load(request)
    except ImportError as missing:
        error, fix = f"BCC for {sys.executable} is missing ({missing})", _install("python3-bpfcc")
    except HeadersError as missing:
        error, fix = (
            str(missing),
            _install(f"linux-headers-{os.uname().release} (or linux-headers-amd64 / linux-headers-generic)"),
        )
    except BtfError as missing:
        error, fix = str(missing), "use a kernel of 5.8 or later built with CONFIG_DEBUG_INFO_BTF=y"
        reason = missing.reason
    except Exception as failure:  # noqa: BLE001 - BCC raises bare Exception; whatever it is, the parent must hear of it
        error, fix = f"{type(failure).__name__}: {failure}", ""
    os.dup2(answer, 1)
    _answer(**({"error": error, "fix": fix, "reason": reason} if error else {"ok": True, "missing": missing_programs}))
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main())
