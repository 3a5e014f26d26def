"""A small reader of BTF (Documentation/bpf/btf.rst): where the running kernel keeps the fields that the programs read.

Standard library only: it runs in the compile child. It knows structs, unions, members and what is needed to walk through them; it does
not relocate programs and does not print types.
"""

from __future__ import annotations

import struct
from pathlib import Path

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_STRUCT, _UNION, _ENUM, _ENUM64 = 4, 5, 6, 19
_MODIFIERS = {8, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag
# Bytes that follow a type's 12-byte head, by kind: (fixed, for each of vlen).
_EXTRA = {
    0: (0, 0), 1: (4, 0), 2: (0, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 7: (0, 0), 8: (0, 0), 9: (0, 0), 10: (0, 0),
    11: (0, 0), 12: (0, 0), 13: (0, 8), 14: (4, 0), 15: (0, 12), 16: (0, 0), 17: (4, 0), 18: (0, 0), 19: (0, 12),
}  # fmt: skip


class BtfError(Exception):
    """The kernel's type information is missing, damaged or lacks a type or member; ``reason`` is the word for it in a policy's status."""

    reason = "MissingBTF"


class MissingTypeError(BtfError):
    """There is type information, and this kernel has no such type, member or enumerator."""

    reason = "MissingKernelFeature"


class Btf:
    """Type information of one kernel."""

    def __init__(self, data: bytes) -> None:
        """Index the structs by name; types are decoded when they are asked for.

        Raises:
            BtfError: Not BTF, another byte order, or cut short.
        """
        try:
            magic, _, _, head, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)
            if magic != 0xEB9F:
                raise BtfError("no BTF of this byte order")
            if head + max(type_off + type_len, str_off + str_len) > len(data):
                raise BtfError("BTF is cut short")
            self._types = data[head + type_off : head + type_off + type_len]
            self._strings = data[head + str_off : head + str_off + str_len]
            self._offsets = [0]
            self._structs: dict[int, int] = {}
            self._enums: list[int] = []
            at = 0
            while at < len(self._types):
                name, info, _ = _TYPE.unpack_from(self._types, at)
                kind, vlen = info >> 24 & 31, info & 0xFFFF
                fixed, each = _EXTRA[kind]
                if kind in (_STRUCT, _UNION) and name and vlen:
                    self._structs.setdefault(name, len(self._offsets))
                elif kind == _ENUM:
                    self._enums.append(at)
                self._offsets.append(at)
                at += 12 + fixed + each * vlen
        except (struct.error, KeyError, IndexError) as error:
            raise BtfError(f"damaged BTF: {error!r}") from error

    @classmethod
    def running(cls, path: Path = VMLINUX) -> Btf:
        """BTF of the running kernel."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise BtfError(f"{path}: {error.strerror}; the kernel must be built with CONFIG_DEBUG_INFO_BTF") from error

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _find(self, name: str) -> int:
        raw = b"\0" + name.encode() + b"\0"
        at = self._strings.find(raw)
        while at >= 0:
            if (type_id := self._structs.get(at + 1)) is not None:
                return type_id
            at = self._strings.find(raw, at + 1)
        raise MissingTypeError(f"this kernel has no struct {name}")

    def size(self, name: str) -> int:
        """Bytes of a struct."""
        return int(_TYPE.unpack_from(self._types, self._offsets[self._find(name)])[2])

    def offset(self, struct_name: str, *path: str) -> int:
        """Offset of a member in bytes; several names walk through nested structs; `a|b` takes the first name that exists.

        Raises:
            BtfError: No such struct or member, or a bit field.
        """
        type_id, total = self._find(struct_name), 0
        for step in path:
            for name in step.split("|"):
                hit = self._member(type_id, name)
                if hit:
                    break
            else:
                raise MissingTypeError(f"struct {struct_name} has no member {'.'.join(path)} on this kernel")
            bits, type_id = hit
            if bits % 8:
                raise MissingTypeError(f"{struct_name}.{'.'.join(path)} is a bit field")
            total += bits // 8
        return total

    def has(self, struct_name: str, *path: str) -> bool:
        """Whether `offset` would find it."""
        try:
            self.offset(struct_name, *path)
        except BtfError:
            return False
        return True

    def enum(self, member: str) -> int:
        """Value of an enumerator of any enum."""
        raw = b"\0" + member.encode() + b"\0"
        wanted = self._strings.find(raw) + 1
        if wanted:
            for at in self._enums:
                vlen = _TYPE.unpack_from(self._types, at)[1] & 0xFFFF
                for i in range(vlen):
                    name, value = struct.unpack_from("<Ii", self._types, at + 12 + 8 * i)
                    if name == wanted:
                        return int(value)
        raise MissingTypeError(f"this kernel has no enumerator {member}")

    def enumerators(self, enum_name: str) -> dict[str, int]:
        """Names and values of an enum; none where the kernel has no such enum."""
        for at in self._enums:
            name, info, _ = _TYPE.unpack_from(self._types, at)
            if name and self._name(name) == enum_name:
                pairs = (struct.unpack_from("<Ii", self._types, at + 12 + 8 * i) for i in range(info & 0xFFFF))
                return {self._name(member): value for member, value in pairs}
        return {}

    def _resolve(self, type_id: int) -> int:
        while True:
            _, info, ref = _TYPE.unpack_from(self._types, self._offsets[type_id])
            if info >> 24 & 31 not in _MODIFIERS:
                return type_id
            type_id = ref

    def _member(self, type_id: int, name: str) -> tuple[int, int] | None:
        """(offset in bits, type id) of a member, also of one inside anonymous structs and unions."""
        type_id = self._resolve(type_id)
        at = self._offsets[type_id]
        _, info, _ = _TYPE.unpack_from(self._types, at)
        if info >> 24 & 31 not in (_STRUCT, _UNION):
            return None
        bitfields = info >> 31
        for i in range(info & 0xFFFF):
            member, ref, offset = _MEMBER.unpack_from(self._types, at + 12 + 12 * i)
            bits = offset & 0xFFFFFF if bitfields else offset
            if member:
                if self._name(member) == name:
                    return bits, ref
            elif inner := self._member(ref, name):
                return bits + inner[0], inner[1]
        return None
