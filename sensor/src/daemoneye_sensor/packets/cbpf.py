"""Classic BPF, which libpcap makes of a capture filter: into C for the capture program, and over columns of frames for user space.

Both follow `pcap_offline_filter`: a read behind the end rejects, a division by zero too, and offsets do not wrap. Jumps go forward only. Of the
ancillary values that Linux has, those that libpcap's code asks for are known; a VLAN tag stands in the frame here, so that none is beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from daemoneye_sensor.packets.columns import be16, be32

_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_SIZES: Final = {0x00: 4, 0x08: 2, 0x10: 1}
_IMM, _ABS, _IND, _MEM, _LEN, _MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
_ADD, _SUB, _MUL, _DIV, _OR, _AND, _LSH, _RSH, _NEG, _MOD, _XOR = range(0x00, 0xB0, 0x10)
_BY_X: Final = 0x08
_JA, _JEQ, _JGT, _JGE, _JSET = 0x00, 0x10, 0x20, 0x30, 0x40
_BY_A: Final = 0x10
_TXA: Final = 0x80
_WORDS: Final = 16

_ANCILLARY: Final = 0xFFFFF000
"""Loads from here on are no bytes of the frame (SKF_AD_OFF, linux/filter.h)."""
_PKTTYPE, _IFINDEX, _TAG, _TAG_PRESENT = 4, 8, 44, 48
_VALUES_C: Final = {_PKTTYPE: "skb->pkt_type", _IFINDEX: "skb->ifindex", _TAG: "0", _TAG_PRESENT: "0"}

_OPERATORS_C: Final = {
    _ADD: "+", _SUB: "-", _MUL: "*", _DIV: "/", _OR: "|", _AND: "&", _LSH: "<<", _RSH: ">>", _MOD: "%", _XOR: "^",
}  # fmt: skip
_COMPARISONS_C: Final = {_JEQ: "==", _JGT: ">", _JGE: ">=", _JSET: "&"}
_CODES: Final = frozenset((
    *(_LD | mode | size for mode in (_ABS, _IND) for size in _SIZES), *(_LD | mode for mode in (_IMM, _MEM, _LEN)),
    *(_LDX | mode for mode in (_IMM, _MEM, _LEN, _MSH | 0x10)), _ST, _STX,
    *(_ALU | operation | by for operation in _OPERATORS_C for by in (0, _BY_X)), _ALU | _NEG,
    _JMP | _JA, *(_JMP | comparison | by for comparison in _COMPARISONS_C for by in (0, _BY_X)), _RET, _RET | _BY_A, _MISC, _MISC | _TXA,
))  # fmt: skip
"""The instructions that there are, as the kernel knows them (chk_code_allowed in net/core/filter.c)."""


class _Instruction(NamedTuple):
    code: int
    jt: int
    jf: int
    k: int


@dataclass(frozen=True, slots=True)
class Program:
    """A filter that was checked: every path ends, every jump stays inside.

    Attributes:
        instructions: What it is made of.
    """

    instructions: tuple[_Instruction, ...]

    @classmethod
    def of(cls, instructions: Sequence[tuple[int, int, int, int]]) -> Program:
        """Check instructions (code, jt, jf, k).

        Raises:
            ValueError: They are none that the kernel would take, or ask for something that is not known here.
        """
        made = tuple(_Instruction(*one) for one in instructions)
        for at, one in enumerate(made):
            if problem := _problem(one, at, len(made)):
                raise ValueError(f"instruction {at} {problem}")
        if not made or made[-1].code & 7 != _RET:
            raise ValueError("it has no end")
        return cls(made)


def _problem(one: _Instruction, at: int, length: int) -> str:
    if one.code not in _CODES:
        return f"is none that there is (code {one.code:#x})"
    kind, mode, operation = one.code & 7, one.code & 0xE0, one.code & 0xF0
    if kind == _LD and mode == _ABS and one.k >= _ANCILLARY and one.k - _ANCILLARY not in _VALUES_C:
        return f"asks for something that is not known here ({one.k - _ANCILLARY})"
    if (kind in (_ST, _STX) or (kind in (_LD, _LDX) and mode == _MEM)) and one.k >= _WORDS:
        return "is outside of the memory"
    if kind == _ALU and operation in (_DIV, _MOD) and not one.code & _BY_X and one.k == 0:
        return "divides by zero"
    if kind == _JMP and at + 1 + max((one.k,) if operation == _JA else (one.jt, one.jf)) >= length:
        return "jumps out of the filter"
    return ""


def to_c(program: Program, name: str) -> str:
    """A function of the capture program: `int name(struct __sk_buff *skb, struct de_view *view)`, not 0 if a frame matches.

    bpf/include/packets.bpf.h declares what it uses.
    """
    body: list[str] = []
    targets: set[int] = set()
    for at, one in enumerate(program.instructions):
        text, aims = _statement(one, at)
        body.append(text)
        targets.update(aims)
    lines = [f"    {text}" for text in body]
    for at in sorted(targets):
        lines[at] = f"at{at}:\n{lines[at]}"
    joined = "\n".join(lines)
    declared = ["A", "X", *(f"M{i}" for i in range(_WORDS) if f"M{i}" in joined)]
    variables = ", ".join(f"{variable} = 0" for variable in declared)
    return f"static __always_inline int {name}(struct __sk_buff *skb, struct de_view *view)\n{{\n    u32 {variables};\n\n{joined}\n}}\n"


def _statement(one: _Instruction, at: int) -> tuple[str, tuple[int, ...]]:
    """One instruction in C, and where it may jump to."""
    code, jt, jf, k = one
    kind, mode, operation = code & 7, code & 0xE0, code & 0xF0
    operand = "X" if code & _BY_X else f"{k}u"
    if kind in (_LD, _LDX):
        return _load(one, "A" if kind == _LD else "X", mode), ()
    if kind in (_ST, _STX):
        return f"M{k} = {'A' if kind == _ST else 'X'};", ()
    if kind == _ALU:
        if operation == _NEG:
            return "A = -A;", ()
        if operation in (_LSH, _RSH):
            return f"A = {operand} < 32 ? A {_OPERATORS_C[operation]} {operand} : 0;", ()
        check = "if (!X) return 0; " if operation in (_DIV, _MOD) and code & _BY_X else ""
        return f"{check}A = A {_OPERATORS_C[operation]} {operand};", ()
    if kind == _JMP:
        if operation == _JA:
            return f"goto at{at + 1 + k};", (at + 1 + k,)
        yes, no = at + 1 + jt, at + 1 + jf
        return f"if (A {_COMPARISONS_C[operation]} {operand}) goto at{yes}; else goto at{no};", (yes, no)
    if kind == _RET:
        return f"return {'A' if code & _BY_A else f'{k}u'} != 0;", ()
    return ("A = X;" if code & _TXA else "X = A;"), ()


def _load(one: _Instruction, register: str, mode: int) -> str:
    k = one.k
    if mode == _IMM:
        return f"{register} = {k}u;"
    if mode == _MEM:
        return f"{register} = M{k};"
    if mode == _LEN:
        return f"{register} = view->size;"
    if mode == _MSH:
        return f"if (de_look(skb, view, {k}u, 1, &X)) return 0; X = (X & 15) * 4;"
    if mode == _ABS and k >= _ANCILLARY:
        return f"A = {_VALUES_C[k - _ANCILLARY]};"
    place = f"{k}u" if mode == _ABS else f"(u64)X + {k}u"
    return f"if (de_look(skb, view, {place}, {_SIZES[one.code & 0x18]}, &A)) return 0;"


def matches(
    program: Program,
    data: np.ndarray,
    begin: np.ndarray,
    captured: np.ndarray,
    size: np.ndarray,
    *,
    kind: np.ndarray | None = None,
    ifindex: int | np.ndarray = 0,
) -> np.ndarray:
    """Which of n frames a filter matches, bool of shape (n,).

    Args:
        program: The filter, compiled for the frames' link type.
        data: Bytes of the capture, uint8.
        begin: Offset of each frame in it, int64.
        captured: Bytes of it that were captured; what lies behind them rejects, as with a capture file.
        size: Bytes that it had.
        kind: Packet types (`inbound`, `outbound`); None: all are for this host.
        ifindex: Index of the interface (`ifindex`), of all or of each.
    """
    frames = _Frames(data, begin, captured, size, kind, ifindex)
    arriving: list[list[np.ndarray]] = [[] for _ in program.instructions]
    arriving[0].append(np.arange(len(begin)))
    for at, one in enumerate(program.instructions):
        rows = arriving[at][0] if len(arriving[at]) == 1 else np.concatenate([np.zeros(0, np.int64), *arriving[at]])
        arriving[at] = []
        if not len(rows):
            continue
        code, jt, jf, k = one
        if code & 7 == _RET:
            frames.matched[rows] = frames.a[rows] != 0 if code & _BY_A else k != 0
        elif code & 7 == _JMP and code & 0xF0 == _JA:
            arriving[at + 1 + k].append(rows)
        elif code & 7 == _JMP:
            yes = frames.compare(one, rows)
            arriving[at + 1 + jt].append(rows[yes])
            arriving[at + 1 + jf].append(rows[~yes])
        else:
            arriving[at + 1].append(frames.step(one, rows))
    return frames.matched


class _Frames:
    """n frames and the registers of the machine that looks at each of them."""

    def __init__(
        self,
        data: np.ndarray,
        begin: np.ndarray,
        captured: np.ndarray,
        size: np.ndarray,
        kind: np.ndarray | None,
        ifindex: int | np.ndarray,
    ) -> None:
        n = len(begin)
        self.a, self.x = np.zeros(n, np.uint32), np.zeros(n, np.uint32)
        self.matched = np.zeros(n, bool)
        self._words: dict[int, np.ndarray] = {}
        self._data, self._begin, self._captured, self._size = data, begin, captured, size
        self._ancillary = {_PKTTYPE: np.zeros(n, np.uint32) if kind is None else kind, _IFINDEX: np.full(n, ifindex)}

    def compare(self, one: _Instruction, rows: np.ndarray) -> np.ndarray:
        """Where a conditional jump's condition holds."""
        left, right = self.a[rows], self._operand(one, rows)
        operation = one.code & 0xF0
        if operation == _JEQ:
            return left == right
        if operation == _JGT:
            return left > right
        return left >= right if operation == _JGE else left & right != 0

    def step(self, one: _Instruction, rows: np.ndarray) -> np.ndarray:
        """Any other instruction; the rows that go on."""
        kind = one.code & 7
        if kind in (_LD, _LDX):
            return self._load(one, rows)
        if kind in (_ST, _STX):
            self._word(one.k)[rows] = (self.a if kind == _ST else self.x)[rows]
        elif kind == _ALU:
            return self._compute(one, rows)
        elif one.code & _TXA:
            self.a[rows] = self.x[rows]
        else:
            self.x[rows] = self.a[rows]
        return rows

    def _operand(self, one: _Instruction, rows: np.ndarray) -> np.ndarray:
        return self.x[rows] if one.code & _BY_X else np.array([one.k], np.uint32)

    def _word(self, k: int) -> np.ndarray:
        return self._words.setdefault(k, np.zeros(len(self.a), np.uint32))

    def _compute(self, one: _Instruction, rows: np.ndarray) -> np.ndarray:
        operation = one.code & 0xF0
        if operation in (_DIV, _MOD) and one.code & _BY_X:
            rows = rows[self.x[rows] != 0]
        left, right = self.a[rows], self._operand(one, rows)
        if operation in (_LSH, _RSH):
            by = np.minimum(right, np.uint32(31))
            shifted = left << by if operation == _LSH else left >> by
            self.a[rows] = np.where(right < 32, shifted, np.uint32(0))
        else:
            self.a[rows] = _OPERATIONS[operation](left, right)
        return rows

    def _load(self, one: _Instruction, rows: np.ndarray) -> np.ndarray:
        mode, k = one.code & 0xE0, one.k
        register = self.a if one.code & 7 == _LD else self.x
        if mode == _IMM:
            register[rows] = np.uint32(k)
        elif mode == _MEM:
            register[rows] = self._word(k)[rows]
        elif mode == _LEN:
            register[rows] = self._size[rows]
        elif mode == _ABS and k >= _ANCILLARY:
            register[rows] = self._ancillary[k - _ANCILLARY][rows] if k - _ANCILLARY in self._ancillary else 0
        else:
            size = 1 if mode == _MSH else _SIZES[one.code & 0x18]
            place = self.x[rows].astype(np.int64) + k if mode == _IND else np.full(len(rows), k)
            inside = place + size <= self._captured[rows]
            rows, place = rows[inside], place[inside]
            at = self._begin[rows] + place
            value = be32(self._data, at) if size == 4 else be16(self._data, at) if size == 2 else self._data[at]
            register[rows] = (value & 15) * 4 if mode == _MSH else value
        return rows


_OPERATIONS: Final[dict[int, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    _ADD: np.add, _SUB: np.subtract, _MUL: np.multiply, _DIV: np.floor_divide, _OR: np.bitwise_or, _AND: np.bitwise_and,
    _NEG: lambda left, _: np.uint32(0) - left, _MOD: np.remainder, _XOR: np.bitwise_xor,
}  # fmt: skip
