"""Asking the API server who somebody is (TokenReview) and whether he may read a finding's packets (SubjectAccessReview).

Responsible for the two questions and for telling "no" from "nobody can say now"; two requests a file need no client library. The pod's own token is read
anew for each, as the kubelet renews it.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from daemoneye.errors import ConfigError, DaemonEyeError

GROUP: Final = "daemoneye.io"
RESOURCE: Final = "findings"
SUBRESOURCE: Final = "evidence"
MAX_TOKEN: Final = 16 << 10
_TIMEOUT_S: Final = 10.0
_MAX_ANSWER: Final = 1 << 20


class Unanswered(DaemonEyeError):  # noqa: N818 - it names what happened
    """The API server does not answer, or not what was asked."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody, as the API server knows him."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reviews:
    """The way to the API server: its address, its authorities, our token's file."""

    url: str
    authorities: Path
    token: Path

    @classmethod
    def of_pod(cls, directory: Path) -> Self:
        """As every pod finds it that has a token, in a directory.

        Raises:
            ConfigError: This is no such pod.
        """
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
        if not host or not (directory / "token").exists():
            raise ConfigError("evidence: there is no API server to ask who may read: this is no pod with a token")
        return cls(
            f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
            directory / "ca.crt",
            directory / "token",
        )

    async def who(self, token: str) -> User | None:
        """Whose token it is; None for nobody's.

        Raises:
            Unanswered: Nobody can say now.
        """
        if not token or len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable():
            return None
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        status = await self._ask("/apis/authentication.k8s.io/v1/tokenreviews", review)
        user = status.get("user") or {}
        if status.get("authenticated") is not True or not user.get("username"):
            return None
        groups = tuple(map(str, user.get("groups") or ()))
        return User(str(user["username"]), str(user.get("uid") or ""), groups, dict(user.get("extra") or {}))

    async def may(self, user: User, namespace: str) -> bool:
        """Whether he may `get` `findings/evidence` in a namespace.

        Raises:
            Unanswered: Nobody can say now.
        """
        wish = {"verb": "get", "group": GROUP, "resource": RESOURCE, "subresource": SUBRESOURCE, "namespace": namespace}
        spec = {
            "user": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": dict(user.extra),
            "resourceAttributes": wish,
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        status = await self._ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return status.get("allowed") is True and status.get("denied") is not True

    async def _ask(self, path: str, review: Mapping[str, Any]) -> Mapping[str, Any]:
        # A thread that waits for the API server is left alone with it: its socket has a deadline of its own.
        return await asyncio.to_thread(self._post, path, json.dumps(review).encode())

    def _post(self, path: str, body: bytes) -> Mapping[str, Any]:
        place = urlsplit(self.url)
        try:
            context = ssl.create_default_context(cafile=self.authorities)
            headers = {"Authorization": f"Bearer {self.token.read_text().strip()}", "Content-Type": "application/json"}
            connection = http.client.HTTPSConnection(
                place.hostname or "", place.port, timeout=_TIMEOUT_S, context=context
            )
            try:
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                data = answer.read(_MAX_ANSWER)
            finally:
                connection.close()
            if answer.status != 201:
                raise Unanswered(f"the API server answers {answer.status} to {path}")
            status = json.loads(data).get("status")
        except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
            raise Unanswered(f"the API server does not answer: {error!r}") from error
        return status if isinstance(status, dict) else {}
