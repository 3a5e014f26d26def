"""The callout: says to nats-server who is a sensor, and of which node.

Responsible for the process: one connection, the questions that come on it, health, and its end. A sensor proves itself by a token that the
kubelet made for its pod, for nobody but us and for an hour; the API server says whose it is (TokenReview), and the node in it bounds what the
connection may do. Several callouts share the questions.

It is needed when a sensor connects and at no other time: who is connected stays, for a day at most (`claims.LIFE_S`), and who is not keeps what
it sees in its spool and tries again.

======== =====================================================
module   is about
======== =====================================================
claims   nats-server's question and the answer's form
issuer   the key that signs the answer
reviews  asking the API server, within bounds
decision judging what it said
tally    counters, and what stands in the log
measures its metrics
process  settings, files and signals
======== =====================================================
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from daemoneye import metrics
from daemoneye.broker.access import Access
from daemoneye.broker.link import TRANSIENT, Link
from daemoneye.broker.roles import AUTHENTICATION, CALLOUT
from daemoneye.errors import CorruptData
from daemoneye.exposition import Exposition, histogram
from daemoneye.health import serving
from daemoneye.metrics import Sample
from daemoneye_operator import version
from daemoneye_operator.callout import claims, measures
from daemoneye_operator.callout.decision import UNKNOWN_USER, Granted, Refused
from daemoneye_operator.callout.issuer import Issuer
from daemoneye_operator.callout.reviews import Reviews
from daemoneye_operator.callout.tally import Tally
from daemoneye_operator.ending import run_until
from daemoneye_operator.kube import Kube
from daemoneye_operator.settings import OperatorSettings

_NAME: Final = "daemoneye-callout"
_LOOK_S: Final = 1.0

_log = logging.getLogger(__name__)


class Callout:
    """Answers questions.

    Attributes:
        tally: What it counts.
        client: The connection; None while there is none.
    """

    def __init__(self, reviews: Reviews, tally: Tally, seed: Path, *, life: float = claims.LIFE_S) -> None:
        """`seed` is the file with the issuer's seed, read at each question: the operator may write another."""
        self.tally = tally
        self.client: Client | None = None
        self._reviews = reviews
        self._seed = seed
        self._life = life
        self._answering: set[asyncio.Task[None]] = set()

    async def hold(self, link: Link) -> None:
        """Hold a connection until the link gives up because the process ends."""
        while (client := await link.connect()) is not None:
            try:
                await client.subscribe(AUTHENTICATION, queue=CALLOUT, cb=self._asked)
                await client.flush()
                self.client = client
                _log.info("connected to the broker")
                while not link.stale(client):  # noqa: ASYNC110 - nobody tells when files change
                    await asyncio.sleep(_LOOK_S)
            except TRANSIENT as error:
                _log.warning("the broker is away: %r", error)
            finally:
                self.client = None
                await link.close(client)

    @property
    def connected(self) -> bool:
        """Whether questions reach it."""
        return self.client is not None and self.client.is_connected

    def ready(self) -> dict[str, Any]:
        """Whether questions reach it; an API server that is away is said, and no reason to be taken out."""
        return {
            "ok": self.connected,
            "granted": self.tally.granted,
            "refused": dict(self.tally.refused),
            "errors": self.tally.errors,
            "trouble": self._reviews.trouble,
        }

    async def _asked(self, message: Msg) -> None:
        # nats-py waits for each callback before the next: questions are answered side by side.
        task = asyncio.create_task(self._answer(message))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, message: Msg) -> None:
        try:
            question = claims.Question.read(message.data)
            decision = await self._decide(question)
            self.tally.decided(decision, question.host, question.client)
            await message.respond(self._signed(question, decision).encode())
        except (CorruptData, OSError, ValueError, *TRANSIENT) as error:
            self.tally.failed(str(error) or repr(error))
        except Exception as error:  # noqa: BLE001 - whatever stands in a question, the next one is answered
            _log.exception("a question could not be answered")
            self.tally.failed(type(error).__name__)

    async def _decide(self, question: claims.Question) -> Granted | Refused:
        if question.user != claims.SENSOR:
            return Refused(UNKNOWN_USER, f"no user {question.user[:64]!r} is let in by a token")
        return await self._reviews.decide(question.password)

    def _signed(self, question: claims.Question, decision: Granted | Refused) -> str:
        issuer, now = Issuer(self._seed.read_bytes()), time.time()
        if isinstance(decision, Refused):
            error = f"{decision.reason}: {decision.message}"
            return issuer.sign(claims.answer(question, now, error=error))
        user = claims.granted(question, decision.node, now, life=self._life, jitter=self._life / 6)
        return issuer.sign(claims.answer(question, now, user=issuer.sign(user)))


async def serve(
    settings: OperatorSettings,
    access: Access,
    kube: Kube,
    stop: asyncio.Event,
    *,
    seed: Path,
    life: float = claims.LIFE_S,
) -> None:
    """Answer until `stop`.

    Raises:
        ConfigError: The broker's credentials cannot be read.
        OSError: The port of health is taken.
    """
    tally, durations = Tally(), histogram(metrics.CALLOUT_REVIEW)
    tally.observe = durations.observe
    callout = Callout(Reviews(kube, settings, tally), tally, seed, life=life)

    def samples() -> Iterator[Sample]:
        return measures.samples(tally, connected=callout.connected)

    page = Exposition(measures.COMPONENT, version(), samples, [durations]).page
    async with serving(settings.health_port, alive=lambda: {"ok": True}, ready=callout.ready, metrics=page):
        await run_until(stop, callout.hold(Link(access, _NAME, stop)))
