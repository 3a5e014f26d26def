"""The doctor's checks, each against machines made of files."""

import json
from pathlib import Path

import pytest

from daemoneye.api.v1alpha1.policy import NetworkMonitoring
from daemoneye_cli import checks
from daemoneye_cli.checks import Wanted, examine
from daemoneye_cli.machine import Machine
from daemoneye_cli.main import main

ALL_CAPABILITIES = "CapEff:\t000001ffffffffff\n"
BTF = b"\x9f\xeb\x01\x00" + b"".join(
    b"\0btf_trace_" + name.encode() + b"\0" for name in (*checks.TRACEPOINTS, *checks.SOCKET_TRACEPOINTS)
)
FILES: dict[str, str | bytes] = {
    "proc/sys/kernel/osrelease": "6.1.0-25-amd64\n",
    "proc/self/status": ALL_CAPABILITIES,
    "proc/self/mounts": "bpf /sys/fs/bpf bpf rw 0 0\ntracefs /sys/kernel/tracing tracefs rw 0 0\n",
    "proc/filesystems": "nodev\tbpf\nnodev\ttracefs\n\text4\n",
    "proc/net/route": "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    "eth1\t00000000\t01010101\t3\t0\t0\t200\t00000000\t0\t0\t0\n"
    "eth0\t00000000\t01010101\t3\t0\t0\t100\t00000000\t0\t0\t0\n"
    "eth2\t0000000A\t00000000\t1\t0\t0\t0\t000000FF\t0\t0\t0\n",
    "sys/class/net/eth0/mtu": "1500\n",
    "sys/kernel/btf/vmlinux": BTF,
    "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
    "lib/modules/6.1.0-25-amd64/build/Makefile": "",
    "usr/bin/python3": "#!/bin/sh\necho 0.26.0\n",
}


@pytest.fixture
def machine(tmp_path):
    """Makes a machine that has everything, but for what is given; None removes a file."""

    def make(environ: dict[str, str] | None = None, **changes: str | bytes | None) -> Machine:
        for name, content in {**FILES, **{key.replace("__", "/"): value for key, value in changes.items()}}.items():
            if content is None:
                continue
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        (tmp_path / "root/usr/bin/python3").chmod(0o755)
        return Machine(tmp_path / "root", environ or {})

    return make


def test_a_machine_that_has_everything(machine, tmp_path):
    found = list(examine(machine(), Wanted(tmp_path / "state")))
    assert [check.name for check in found if not check.ok] == []
    assert not any(check.fix for check in found)


@pytest.mark.parametrize(
    ("check", "changes", "detail", "fix"),
    [
        ("kernel", {"proc__sys__kernel__osrelease": "5.7.19\n"}, "Linux 5.7.19", "5.8"),
        ("kernel", {"proc__sys__kernel__osrelease": "x\n"}, "Linux x", "5.8"),
        ("btf", {"sys__kernel__btf__vmlinux": None}, "No such file", "CONFIG_DEBUG_INFO_BTF"),
        ("btf", {"sys__kernel__btf__vmlinux": b"ELF"}, "is no BTF", "kernel"),
        ("tracepoints", {"sys__kernel__btf__vmlinux": BTF.replace(b"signal_generate", b"x")}, "missing: signal_generate", "CONF"),
        ("socket_tracepoints", {"sys__kernel__btf__vmlinux": BTF.replace(b"sock_recv_length", b"x")}, "sock_recv_length: system calls", "6.18"),
        ("socket_tracepoints", {"sys__kernel__btf__vmlinux": None}, "no socket is seen", "6.18"),
        ("tracefs", {"proc__self__mounts": ""}, "not mounted", "mount -t tracefs"),
        ("tracefs", {"proc__self__mounts": "", "proc__filesystems": ""}, "not known", "CONFIG_FTRACE"),
        ("bpffs", {"proc__self__mounts": "", "proc__filesystems": ""}, "not mounted", "mount -t bpf"),
        ("lockdown", {"sys__kernel__security__lockdown": "none integrity [confidentiality]"}, "confidentiality", "lockdown="),
        ("bcc", {"usr__bin__python3": "#!/bin/sh\necho 'No module named bcc' >&2; exit 1\n"}, "No module", "python3-bpfcc"),
        ("privileges", {"proc__self__status": "CapEff:\t0000000000000000\n"}, "CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE", "root"),
        ("privileges", {"proc__self__status": ""}, "CAP_BPF", "root"),
        ("xdp", {"proc__sys__kernel__osrelease": "5.15.0\n"}, "Linux 5.15.0, 5.18 or later", "flowCounter to Socket"),
        ("xdp", {"proc__self__status": "CapEff:\t0000000000002000\n"}, "neither CAP_NET_ADMIN nor CAP_SYS_ADMIN", "root"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_fix(machine, check, changes, detail, fix):
    found = getattr(checks, check)(machine(**changes))
    assert not found.ok
    assert detail in found.detail
    assert fix in found.fix


def test_headers_of_another_kernel_or_of_the_environment_serve(machine, tmp_path):
    other = {"lib__modules__6.1.0-25-amd64__build__Makefile": None}
    assert not checks.headers(machine(**other)).ok
    assert "BCC_KERNEL_SOURCE" in checks.headers(machine({"BCC_KERNEL_SOURCE": "/usr/bin"}, **other)).detail
    tree = {"usr__src__linux-headers-6.1.0-9-amd64__include__generated__autoconf.h": ""}
    found = checks.headers(machine(**other, **tree))
    assert found.ok
    assert "linux-headers-6.1.0-9-amd64" in found.detail


def test_the_capabilities_of_5_8_do_without_root(machine):
    mask = sum(1 << bit for bit in (19, 38, 39))
    assert checks.privileges(machine(proc__self__status=f"CapEff:\t{mask:016x}\n")).ok


def test_bpffs_that_the_sensor_can_mount_is_fine(machine):
    assert checks.bpffs(machine(proc__self__mounts="")).ok


def test_the_interface_is_the_policys_or_the_default_routes(machine):
    here = machine()
    assert checks.interface(here, NetworkMonitoring()).detail == "eth0 (of the default route)"
    wanted = NetworkMonitoring(capture_interface="wlan0", enable_packet_capture=True)
    found = checks.interface(here, wanted)
    assert (found.ok, found.needed) == (False, True)
    assert "choose one of eth0" in found.fix
    assert not checks.interface(machine(proc__net__route="Iface\n"), NetworkMonitoring()).needed


def test_a_port_that_is_taken(machine):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        found = checks.port(server.getsockname()[1])
    assert not found.ok
    assert "in use" in found.detail


def test_a_state_directory_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    found = next(checks.state(tmp_path / "file" / "state"))
    assert not found.ok
    assert "--state" in found.fix


def test_the_command_ends_with_3_where_something_needed_is_missing(machine, tmp_path, capsys):
    root = machine(sys__kernel__btf__vmlinux=None).root
    assert main(["doctor", "--root", str(root), "--state", str(tmp_path)]) == 3
    text = capsys.readouterr().out
    assert "✓ kernel" in text
    assert "✗ BTF" in text
    assert "fix: use a kernel built with" in text
    assert "--replay" in text


def test_the_command_in_json(machine, tmp_path, capsys):
    assert main(["doctor", "-o", "json", "--root", str(machine().root), "--state", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["kind"] for line in lines} == {"check"}
    assert all(set(line) == {"kind", "name", "ok", "detail", "fix", "needed"} for line in lines)


def test_a_policys_interface_is_checked(machine, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("enterprise: {network_monitoring: {enable_packet_capture: true, capture_interface: nope0}}")
    assert main(["doctor", "--config", str(path), "--root", str(machine().root), "--state", str(tmp_path)]) == 3
    assert "nope0 (the policy's)" in capsys.readouterr().out


def test_xdp_is_checked_where_the_policy_wants_it_and_needed_nowhere(machine, tmp_path):
    network = NetworkMonitoring.model_validate({"flowCounter": "Xdp"})
    (found,) = [check for check in examine(machine(), Wanted(tmp_path, network)) if check.name == "XDP"]
    assert found.ok
    assert not found.needed
    assert "XDP" not in [check.name for check in examine(machine(), Wanted(tmp_path))]


def test_an_empty_machine_gives_no_error_of_ours(tmp_path):
    (tmp_path / "root").mkdir()
    found = list(examine(Machine(tmp_path / "root", {}), Wanted(Path("/"))))
    assert not found[0].ok
