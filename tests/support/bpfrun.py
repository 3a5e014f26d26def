"""A socket filter run over frames by the kernel itself (BPF_PROG_TEST_RUN), without an interface."""

from __future__ import annotations

import ctypes
import struct

from daemoneye_sensor import bpfsys

_TEST_RUN = 10
_LINK = 14
"""A socket filter is run behind the frame's link layer: another one before the frame has it begin with its own."""
_SKB = 192
"""Bytes of struct __sk_buff in the kernels that we know; later ones may have more."""
_GSO_SEGS, _GSO_SIZE = 164, 176


def run(fd: int, frame: bytes, *, segments: int = 0, segment: int = 0) -> int:
    """Bytes of the frame that the program wants.

    Args:
        fd: The program.
        frame: Of at least one byte.
        segments: Of how many the kernel takes it to be.
        segment: How long the kernel takes each of them to be.
    """
    data = ctypes.create_string_buffer(bytes(12) + b"\x88\xb5" + frame, _LINK + len(frame))
    about = ctypes.create_string_buffer(_SKB)
    struct.pack_into("I", about, _GSO_SEGS, segments)
    struct.pack_into("I", about, _GSO_SIZE, segment)
    attr = ctypes.create_string_buffer(128)
    struct.pack_into("=IIIIQQIIIIQ", attr, 0, fd, 0, len(data), 0, ctypes.addressof(data), 0, 1, 0, _SKB, 0, ctypes.addressof(about))  # fmt: skip
    bpfsys._bpf(_TEST_RUN, attr)
    return int(struct.unpack_from("I", attr, 4)[0])
