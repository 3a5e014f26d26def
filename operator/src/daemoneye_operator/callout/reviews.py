"""Asking the API server about tokens, within bounds: a thousand sensors that come back together must not be a thousand requests at once.

Responsible for how many TokenReviews are under way, how long one waits for its turn, and for what need not be asked again; not for judging the
answer (:mod:`daemoneye_operator.callout.decision`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from typing import Final

from daemoneye_operator.callout.claims import payload
from daemoneye_operator.callout.decision import (
    API_UNAVAILABLE,
    BUSY,
    NO_TOKEN,
    NOT_AUTHENTICATED,
    TOO_LONG,
    Granted,
    Refused,
    judge,
)
from daemoneye_operator.callout.tally import Tally
from daemoneye_operator.errors import ApiError
from daemoneye_operator.kube import Kube
from daemoneye_operator.reconcile import daemonset
from daemoneye_operator.settings import OperatorSettings

AT_ONCE: Final = 16
WAITING: Final = 4096
"""Tokens that wait for their turn; who comes then with another is told to come again."""
REMEMBERED_S: Final = 60.0
"""How long a good token is not asked about again, and never beyond its own end."""
MAX_TOKEN: Final = 16 * 1024
# The sensor waits for six seconds, nats-server for ten.
_WITHIN_S: Final = 5.0
_REQUEST_S: Final = (2.0, 4.0)
_REMEMBERED: Final = 20_000
_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"


class Reviews:
    """Decisions about tokens.

    Attributes:
        trouble: Why the API server did not answer the last question; empty when it did.
    """

    def __init__(self, kube: Kube, settings: OperatorSettings, tally: Tally) -> None:
        """`kube` has at least AT_ONCE threads."""
        self.trouble = ""
        self._kube = kube
        self._settings = settings
        self._tally = tally
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._asking: dict[bytes, asyncio.Task[Granted | Refused]] = {}  # by the token's hash, as the next
        self._good: dict[bytes, tuple[float, Granted]] = {}  # by the token's hash: when it is to be asked about again

    async def decide(self, token: str) -> Granted | Refused:
        """Whose token it is. What cannot be found out now is a refusal, too: whoever asks tries again."""
        if not token:
            return Refused(NO_TOKEN, "no token was given")
        if len(token) > MAX_TOKEN:
            return Refused(TOO_LONG, f"{len(token)} characters are no token")
        try:
            payload(token)
        except ValueError:
            # While an upgrade lasts, all sensors of a release before the callout come with their password, every few seconds.
            return Refused(
                NOT_AUTHENTICATED, "this is no token; a sensor of a release before the callout gives its password"
            )
        key = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        until, known = self._good.get(key, (0.0, None))
        if known is not None and time.time() < until:
            return known
        asking = self._asking.get(key)
        if asking is None:
            if len(self._asking) >= WAITING:
                return Refused(BUSY, f"{len(self._asking)} tokens wait to be decided about")
            # It goes on when whoever asks has left: with a slow API server all would else be asked about again and again, and few let in.
            asking = self._asking[key] = asyncio.create_task(self._found_out(key, token))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        if not (await asyncio.wait({asking}, timeout=_WITHIN_S))[0]:
            return Refused(BUSY, f"not decided within {_WITHIN_S:g} s; {len(self._asking)} tokens wait")
        return asking.result()

    async def _found_out(self, key: bytes, token: str) -> Granted | Refused:
        decision = await self._asked(token)
        if isinstance(decision, Granted):
            self._remember(key, token, decision)
        return decision

    async def _asked(self, token: str) -> Granted | Refused:
        spec = {"token": token, "audiences": [daemonset.token_audience(self._settings)]}
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        async with self._gate:
            began = time.monotonic()
            try:
                answer = await self._kube.create(_PATH, review, within=_REQUEST_S)
            except ApiError as error:
                # A text that is no token at all is refused before anybody looks at it.
                if error.status in (400, 422):
                    return Refused(NOT_AUTHENTICATED, f"the API server does not take this for a token ({error.status})")
                self.trouble = _without(token, str(error))
                return Refused(API_UNAVAILABLE, self.trouble)
        self.trouble = ""
        self._tally.observe(time.monotonic() - began)
        status = dict(answer.get("status") or {})
        if "error" in status:
            status["error"] = _without(token, str(status["error"]))
        return judge(status, self._settings)

    def _remember(self, key: bytes, token: str, decision: Granted) -> None:
        until = time.time() + REMEMBERED_S
        # The API server took it: what it says of its end is true.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            until = min(until, float(payload(token)["exp"]))
        self._good.pop(key, None)
        while len(self._good) >= _REMEMBERED:
            del self._good[next(iter(self._good))]
        self._good[key] = (until, decision)


def _without(token: str, text: str) -> str:
    return text.replace(token, "…")
