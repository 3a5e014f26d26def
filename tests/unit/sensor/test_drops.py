"""The kernel's reasons for dropping a packet, as ours."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

import daemoneye_sensor
from daemoneye.events.sockets import DropReason
from daemoneye_sensor.drops import CODES


@pytest.fixture
def offsets(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(Path(daemoneye_sensor.__file__).parent / "loader"), *sys.path])
    return importlib.import_module("offsets")


def test_each_reason_has_names_and_a_place_among_the_counters() -> None:
    assert set(CODES.values()) == set(DropReason) - {DropReason.OTHER}
    assert max(DropReason) < 32


def test_a_kernels_numbers_are_found_by_their_names(offsets: Any) -> None:
    class Kernel:
        def enumerators(self, name: str) -> dict[str, int]:
            assert name == "skb_drop_reason"
            return {
                "SKB_NOT_DROPPED_YET": 0, "SKB_CONSUMED": 1, "SKB_DROP_REASON_NOT_SPECIFIED": 2, "SKB_DROP_REASON_UDP_CSUM": 7,
                "SKB_DROP_REASON_OF_TOMORROW": 9, "SKB_DROP_REASON_MAX": 10,
            }  # fmt: skip

    found = offsets.drop_codes(Kernel(), CODES, int(DropReason.OTHER))
    assert found == {1: DropReason.NONE, 2: DropReason.NONE, 7: DropReason.CHECKSUM, 9: DropReason.OTHER}


def test_a_kernel_without_reasons_has_none(offsets: Any) -> None:
    class Kernel:
        def enumerators(self, name: str) -> dict[str, int]:
            return {}

    assert offsets.drop_codes(Kernel(), CODES, 1) == {}
