"""Stratum: how miners of cryptocurrencies ask a pool for work, JSON-RPC line by line over TCP.

Responsible for telling its messages from other JSON, by their beginning; nothing of them is kept. There is no standard: what is known here are the
methods of Bitcoin's stratum and of those for Ethereum and Monero that descend from it. Inside TLS nothing of it can be seen.
"""

from __future__ import annotations

import re
from typing import Final

HEAD: Final = 2048
"""Bytes of a message that are looked at: the longest beginnings (XMRig's, with the algorithms that it knows) have their names in the first few hundred."""

BEGINNINGS: Final = (b'{"id', b'{"me', b'{"js', b'{"pa', b'{"wo')
"""The four bytes with which messages begin: one of the members of a call (id, method, jsonrpc, params, worker)."""

_MEMBER: Final = rb'"(?:id|jsonrpc|worker|params|agent)"\s*+:\s*+(?:"[^"\\]{0,256}+"|-?\d{1,20}+|null|\[[^\[\]]{0,1024}+\]|\{[^{}]{0,1024}+\})\s*+,\s*+'
_CALL: Final = re.compile(
    rb"\{(?:" + _MEMBER + rb'){0,4}+"method"\s*+:\s*+"(?:(mining\.(?:subscribe|authorize|configure|extranonce\.subscribe|submit|notify|set_difficulty)'
    rb"|eth_submitLogin)|(login))\""
)  # fmt: skip
# Other protocols have a `login`, too; a miner's names its wallet and itself.
_WALLET: Final = re.compile(rb'"login"\s*:\s*"')
_AGENT: Final = re.compile(rb'"agent"\s*:\s*"')


def looks_like(payload: bytes) -> bool:
    """Whether bytes begin with a call of stratum: what a client begins with, or work that is given or handed in."""
    if not payload.startswith(BEGINNINGS):
        return False
    head = payload[:HEAD]
    call = _CALL.match(head)
    return call is not None and (call[1] is not None or bool(_WALLET.search(head) and _AGENT.search(head)))
