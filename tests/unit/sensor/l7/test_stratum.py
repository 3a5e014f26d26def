"""Stratum: the first words of miners as their programs send them, and JSON that is something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemoneye_sensor.l7 import stratum

CALLS = [
    b'{"id": 1, "method": "mining.subscribe", "params": []}\n',
    b'{"id": 0, "method": "mining.subscribe", "params": ["cpuminer/2.5.1"]}\n',
    b'{"params": ["bfgminer/5.5.0"], "id": 0, "method": "mining.subscribe"}\n',
    b'{"method": "mining.configure", "id": 1, "params": [["version-rolling"], {"version-rolling.mask": "1fffe000"}]}\n',
    b'{"params": ["bc1qexample.rig", "x"], "id": 2, "method": "mining.authorize"}\n',
    b'{"id":3,"method":"mining.extranonce.subscribe","params":[]}\n',
    b'{"id":1,"jsonrpc":"2.0","method":"mining.subscribe","params":["miner/1.0","EthereumStratum/1.0.0"]}\r\n',
    b'{"worker": "rig1", "jsonrpc": "2.0", "params": ["0xabc", "x"], "id": 2, "method": "eth_submitLogin"}\n',
    b'{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"48edf","pass":"x","agent":"XMRig/6.21.0 (Linux x86_64)","algo":["cn/1","rx/0"]}}\n',
    b'{"method":"login","params":{"login":"48edf","pass":"x","rigid":"","agent":"xmr-stak/2.10"},"id":1}\n',
    b'{"params":{"login":"48edf","pass":"x","agent":"m/1"},"id":1,"method":"login"}\n',
    b'{"id": null, "method": "mining.notify", "params": ["bf", "4d16b6f85af6e219", "01000000"]}\n',
    b'{"params": ["rig", "bf", "00000001", "504e86ed", "b2957c02"], "id": 4, "method": "mining.submit"}\n',
]
OTHERS = [
    b"",
    b"{",
    b'{"id',
    b'{"id": 1, "method": "server.version", "params": ["electrum/4.5", "1.4"]}\n',
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"clientInfo":{"name":"mining.subscribe"}}}\n',
    b'{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":["0xabc","latest"]}\n',
    b'{"method":"login","params":{"user":"anna","agent":"browser"},"id":1}\n',
    b'{"method":"login","params":{"login":"anna","password":"x"},"id":1}\n',
    b'{"message":"a miner sent \\"method\\": \\"mining.subscribe\\" to the pool"}\n',
    b'{"params":{"inner":{"method":"mining.subscribe"}},"id":1,"method":"store"}\n',
    b'{"id":1,"event":{"x":1},"method":"mining.subscribe"}\n',
    b'["method","mining.subscribe"]',
    b'GET /{"method":"mining.subscribe"} HTTP/1.1\r\n\r\n',
    b'{"id":1,"result":true,"error":null}\n',
]


@pytest.mark.parametrize("payload", CALLS)
def test_calls_of_miners_and_pools(payload: bytes) -> None:
    assert stratum.looks_like(payload)


@pytest.mark.parametrize("payload", OTHERS)
def test_other_json_and_what_is_none(payload: bytes) -> None:
    assert not stratum.looks_like(payload)


def test_a_login_that_goes_on_in_the_next_segment_is_one() -> None:
    assert stratum.looks_like(CALLS[8][:120] + b',"algo-perf":{' + b'"rx/0":1234.5,' * 200)


@pytest.mark.parametrize("piece", [b'"id":1,', b'"params":["', b'"params":{"a":', b'"params":[[', b" ", b'"id":"'])
def test_much_of_the_same_takes_no_longer_than_its_beginning(piece: bytes) -> None:
    assert not stratum.looks_like(b'{"id":1,' + piece * 100_000)


@given(st.binary(max_size=300))
def test_any_bytes_are_judged(data: bytes) -> None:
    stratum.looks_like(data)
    stratum.looks_like(b'{"id":' + data)
