"""From the sources in `bpf/` and capture filters to a loaded program: one text, which a child process has BCC compile.

The child hands descriptors over and pins nothing, so that everything vanishes with this process.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from daemoneye.errors import ConfigError
from daemoneye_sensor import compilechild
from daemoneye_sensor import filters as pcap
from daemoneye_sensor.errors import MISSING_FEATURE, ProgramError
from daemoneye_sensor.l7 import http, stratum
from daemoneye_sensor.packets import cbpf
from daemoneye_sensor.packets import link as links

MOST_FILTERS: Final = 64
MOST_INSTRUCTIONS: Final = 4096
"""Of all filters together, for either link layer: more would not fit into a program of the kernel."""
_HEADERS: Final = ("include/packets.bpf.h", "include/layers.bpf.h", "include/flows.bpf.h")
_SOCKET, _XDP = "programs/packets.bpf.c", "programs/xdp.bpf.c"
_XDP_FUNCTIONS: Final = ("xdp_ethernet", "xdp_raw")
_LAYERS: Final = {pcap.ETHERNET: "ethernet", pcap.RAW: "raw"}
_BARRIER: Final = 'asm volatile("" ::: "memory");'
"""Between filters: without it clang and the verifier think of all of them at once, for minutes."""
_EVERY: Final = (1 << MOST_FILTERS) - 1


@dataclass(slots=True)
class Filters:
    """Capture filters, compiled.

    Attributes:
        problems: What libpcap says of those that do not compile, for Ethernet or the first link type that was asked for, by position.
        programs: Link type of libpcap → each filter's program, None where it cannot match: it does not compile, for this link layer or at all.
    """

    problems: dict[int, str] = field(default_factory=dict)
    programs: dict[int, list[cbpf.Program | None]] = field(default_factory=lambda: {link: [] for link in _LAYERS})

    @classmethod
    def of(cls, filters: Sequence[tuple[str, int]], link_types: Iterable[int] = tuple(_LAYERS)) -> Filters:
        """Have libpcap compile (expression, snapshot length) for some of `link.KNOWN`.

        Raises:
            ConfigError: They are too many, or too long.
        """
        if len(filters) > MOST_FILTERS:
            raise ConfigError(f"{len(filters)} capture filters: at most {MOST_FILTERS} can be used at once")
        made = cls(programs={_of_libpcap(link): [] for link in link_types})
        first, *_ = made.programs
        asked = [(*one, link) for link in made.programs for one in filters]
        for number, (problem, instructions) in enumerate(pcap.compiled(asked)):
            link, position = asked[number][2], number % len(filters)
            program = None
            if not problem:
                try:
                    program = cbpf.Program.of(instructions)
                except ValueError as error:
                    problem = str(error)  # noqa: PLW2901 - as if libpcap had said it
            made.programs[link].append(program)
            if problem and link == first:
                made.problems[position] = problem
        for programs in made.programs.values():
            length = sum(len(program.instructions) for program in programs if program)
            if length > MOST_INSTRUCTIONS:
                msg = f"the capture filters have {length} instructions together: at most {MOST_INSTRUCTIONS} can be used at once; shorten them"
                raise ConfigError(msg)
        return made

    def masks(
        self,
        link: int,
        data: np.ndarray,
        begin: np.ndarray,
        captured: np.ndarray,
        size: np.ndarray,
        *,
        kind: np.ndarray | None = None,
        ifindex: int | np.ndarray = 0,
    ) -> np.ndarray:
        """Which filters take each of n frames: u64 (n,), bit i for the i-th; every bit where there are none.

        They see what was captured of a frame; the kernel saw all of it. Arguments are those of `cbpf.matches`, `link` one of the link types that were
        asked for.
        """
        programs = self.programs[_of_libpcap(link)]
        taken = np.full(len(begin), 0 if programs else _EVERY, np.uint64)
        for position, program in enumerate(programs):
            if program is None:
                continue
            bit = np.uint64(1 << position)
            if len(program.instructions) == 1:  # an end, and nothing before it
                taken |= bit if program.instructions[0].k else np.uint64(0)
            else:
                taken[cbpf.matches(program, data, begin, captured, size, kind=kind, ifindex=ifindex)] |= bit
        return taken

    def to_c(self) -> str:
        """The function `de_matched`: which filters match a frame, a bit each; and DE_ADMITS_ALL where there are none."""
        functions: list[str] = []
        branches: dict[int, str] = {}
        for link, layer in _LAYERS.items():
            always, lines = 0, []
            for position, program in enumerate(self.programs[link]):
                if program is None:
                    continue
                if len(program.instructions) == 1:  # an end, and nothing before it
                    always |= bool(program.instructions[0].k) << position
                    continue
                functions.append(cbpf.to_c(program, f"de_{layer}_{position}"))
                lines.append(
                    f"        {_BARRIER}\n        if (de_{layer}_{position}(skb, view))\n            view->matched |= 1ULL << {position};"
                )
            view = "        view = de_view_of(skb);\n        if (!view)\n            return matched;"
            body = "\n".join([view, *lines, "        matched |= view->matched;"])
            branches[link] = f"        matched = {always}ULL;\n{body if lines else ''}"
        return (
            "\n".join(functions)
            + "\nstatic __always_inline u64 de_matched(struct __sk_buff *skb, int raw)\n{\n    struct de_view *view;\n    u64 matched;\n\n"
            + f"    if (raw) {{\n{branches[pcap.RAW]}\n    }} else {{\n{branches[pcap.ETHERNET]}\n    }}\n    return matched;\n}}\n"
            + f"#define DE_ADMITS_ALL {int(not self.programs[pcap.ETHERNET])}\n"
        )


def _of_libpcap(link: int) -> int:
    """Files have several numbers for IP packets with nothing before them."""
    return pcap.RAW if link in links.RAW else link


def text(bpf_dir: Path, filters: Filters) -> str:
    """The whole program of packet sockets.

    Raises:
        ProgramError: A source is missing.
    """
    header, layers, flows, program = _read(bpf_dir, *_HEADERS, _SOCKET)
    words = {"DE_HTTP": set(http.BEGINNINGS), "DE_CALLS": set(stratum.BEGINNINGS)}
    cases = {
        name: " ".join(f"case {int.from_bytes(word)}u:" for word in sorted(those)) for name, those in words.items()
    }
    beginnings = "\n".join(f"#define {name} {those}" for name, those in cases.items())
    return f"{header}\n{beginnings}\n{filters.to_c()}\n{layers}\n{flows}\n{program}"


def xdp_text(bpf_dir: Path) -> str:
    """The whole program that counts what arrives.

    Raises:
        ProgramError: A source is missing.
    """
    return "\n".join(_read(bpf_dir, *_HEADERS, _XDP))


def _read(bpf_dir: Path, *sources: str) -> list[str]:
    paths = [bpf_dir / source for source in sources]
    if missing := [str(path) for path in paths if not path.is_file()]:
        msg = f"program sources are missing: {', '.join(missing)}"
        raise ProgramError(msg, fix="give bpf_dir the folder `bpf` of this release")
    return [path.read_text() for path in paths]


def load(
    source: str, functions: Sequence[str], maps: Sequence[str], defines: Mapping[str, int], python: str, xdp: str = ""
) -> tuple[list[int], str]:
    """Have the child compile and load it; descriptors of functions and maps, in order.

    With a source `xdp` of XDP programs those of its two functions (for Ethernet frames and for IP packets) follow, or it is said why the kernel does
    not take them.

    Raises:
        ProgramError: The kernel, a privilege, BCC or headers are missing, or the kernel refuses the program.
    """
    if os.geteuid() != 0:
        raise ProgramError("capturing packets needs root", fix="run with sudo", reason=MISSING_FEATURE)
    request: dict[str, Any] = {"text": source, "defines": dict(defines), "functions": [*functions], "maps": [*maps]}
    if xdp:
        request["xdp"] = {"text": xdp, "functions": [*_XDP_FUNCTIONS]}
    what = "the capture program"
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            done = compilechild.ask(what, "capture.py", python, request, theirs.fileno())
        said, descriptors, _, _ = socket.recv_fds(ours, 1 << 20, len(functions) + len(maps) + len(_XDP_FUNCTIONS))
    answer = compilechild.answer(what, done, said)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    refused = str(answer.get("xdp") or "")
    return descriptors, refused and f"{refused}{compilechild.detail(done)}"
