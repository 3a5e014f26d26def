"""The API server, in the few verbs that the operator uses: get, list, create, apply, delete.

Responsible for requests in raw JSON through the one Kubernetes client that the image holds, without its model classes, which would cost
memory and give nothing; for their deadlines and errors. What is asked for is others' affair.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

import kubernetes.config
import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException

from daemoneye.errors import MachineError
from daemoneye_operator.errors import ApiError

MANAGER: Final = "daemoneye-operator"
"""Field manager of everything that the operator applies."""
_TIMEOUT: Final = (5.0, 30.0)
_PAGE: Final = 100  # see `daemoneye_operator.watch`
_MAX_MESSAGE: Final = 500


def client() -> ApiClient:
    """A client for the pod's service account, or for the user's kubeconfig outside of a cluster.

    Raises:
        MachineError: There is neither.
    """
    configuration = Configuration()
    try:
        kubernetes.config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except kubernetes.config.ConfigException:
        try:
            kubernetes.config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except (kubernetes.config.ConfigException, OSError) as error:
            raise MachineError(f"no way to the API server: {error}", fix="run in a pod, or set KUBECONFIG") from None
    configuration.retries = urllib3.Retry(total=1, connect=1, read=0, redirect=0, status=0)
    configuration.connection_pool_maxsize = 32
    # It would tell of each attempt; who asked tells once a minute.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    configuration.keep_alive = True  # a half-open connection is noticed before a watch's time is over
    return ApiClient(configuration)


def request(
    api: ApiClient,
    method: str,
    path: str,
    query: Mapping[str, str] | None = None,
    body: object | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: tuple[float, float] = _TIMEOUT,
) -> urllib3.BaseHTTPResponse:
    """One request, synchronous; the response's body is unread.

    Raises:
        ApiError: It was refused, or there was no answer.
    """
    send: dict[str, Any] = {"Accept": "application/json", "User-Agent": MANAGER, **(headers or {})}
    api.update_params_for_auth(send, [], ["BearerToken"], path, method, body)
    url = f"{api.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
    send.setdefault("Content-Type", "application/json")
    # The client encodes what it takes for JSON itself, patches too; the rest goes out as it is.
    data = json.dumps(body) if send["Content-Type"].endswith("yaml") else body
    try:
        answer = api.rest_client.request(method, url, headers=send, body=data, _request_timeout=timeout)  # type: ignore[no-untyped-call]
    except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
        raise ApiError(f"{method} {path}: {error}") from error
    response = cast("urllib3.BaseHTTPResponse", answer.response)
    if not 200 <= response.status < 300:
        raise _error(method, path, response)
    return response


def path_of(prefix: str, plural: str, name: str = "", namespace: str = "", subresource: str = "") -> str:
    """URL path of a resource: `prefix` is ``/api/v1`` or ``/apis/<group>/<version>``."""
    parts = [prefix, *(["namespaces", namespace] if namespace else []), plural, *([name] if name else [])]
    if subresource:
        parts.append(subresource)
    return "/".join([parts[0], *(quote(part, safe="") for part in parts[1:])])


class Requests:
    """What became of requests, counted in the threads that make them.

    Attributes:
        answered: Monotonic seconds of the last answer, refusals included; at first minus infinity.
    """

    def __init__(self) -> None:
        self.answered = float("-inf")
        self._ended: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def count(self, method: str, code: int) -> None:
        """A request ended with this status; 0 is no answer."""
        with self._lock:
            self._ended[method, code] += 1
            if code:
                self.answered = time.monotonic()

    def by_method_and_code(self) -> dict[tuple[str, int], int]:
        """How many ended how since the start."""
        with self._lock:
            return dict(self._ended)


class Kube:
    """The verbs, for the event loop; the client is synchronous, so each request takes a thread of a small pool.

    Attributes:
        requests: Counts them, without those of watches.
    """

    def __init__(self, api: ApiClient, *, at_once: int = 8, requests: Requests | None = None) -> None:
        self.api = api
        self.requests = requests or Requests()
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="kube")
        self._beside: list[Kube] = []

    def beside(self, *, at_once: int) -> Kube:
        """The same with threads of its own, so that a flood of its requests keeps no others waiting; it ends with this one."""
        other = Kube(self.api, at_once=at_once, requests=self.requests)
        self._beside.append(other)
        return other

    def close(self) -> None:
        """Let go of threads and connections."""
        for kube in (self, *self._beside):
            kube._pool.shutdown(wait=False, cancel_futures=True)  # noqa: SLF001 - its own kind
        self.api.rest_client.close()

    async def get(self, path: str, *, within: tuple[float, float] = _TIMEOUT) -> dict[str, Any] | None:
        """An object; None where there is none."""
        try:
            return await self._json("GET", path, within=within)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, path: str) -> tuple[list[dict[str, Any]], int]:
        """Every object of a list, and the list's version (0 where that is no number)."""
        query = {"limit": str(_PAGE)}
        items: list[dict[str, Any]] = []
        version = ""
        while True:
            page = await self._json("GET", path, query)
            items += page.get("items") or ()
            # Later pages are of the first one's version.
            version = version or page["metadata"].get("resourceVersion", "")
            more = page["metadata"].get("continue")
            if not more:
                return items, int(version) if version.isdigit() else 0
            query["continue"] = more

    async def create(
        self, path: str, obj: Mapping[str, Any], *, within: tuple[float, float] = _TIMEOUT
    ) -> dict[str, Any]:
        """Create an object, or ask what is asked by creating one; what the API server makes of it. `within`: to connect, and to be answered."""
        return await self._json("POST", path, None, obj, within=within)

    async def apply(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply (ours by force); for a status, `path` ends in ``/status``."""
        headers = {"Content-Type": "application/apply-patch+yaml"}
        return await self._json("PATCH", path, {"fieldManager": MANAGER, "force": "true"}, obj, headers=headers)

    async def merge(self, path: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """JSON merge patch."""
        headers = {"Content-Type": "application/merge-patch+json"}
        return await self._json("PATCH", path, {"fieldManager": MANAGER}, patch, headers=headers)

    async def delete(self, path: str) -> None:
        """Delete; nothing happens where there is nothing."""
        try:
            await self._json("DELETE", path)
        except ApiError as error:
            if error.status != 404:
                raise

    async def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        within: tuple[float, float] = _TIMEOUT,
    ) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            try:
                response = request(self.api, method, path, query, body, headers=headers, timeout=within)
            except ApiError as error:
                self.requests.count(method, error.status)
                raise
            self.requests.count(method, response.status)
            try:
                value: dict[str, Any] = json.loads(response.data)
            except (ValueError, urllib3.exceptions.HTTPError) as error:
                raise ApiError(f"{method} {path}: no JSON in the answer: {error}") from error
            return value

        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


def _error(method: str, path: str, response: urllib3.BaseHTTPResponse) -> ApiError:
    """The error that a `metav1.Status` says."""
    try:
        raw = response.data
    except (urllib3.exceptions.HTTPError, OSError):
        raw = b""
    try:
        said = json.loads(raw)
        message, reason = str(said.get("message", "")), str(said.get("reason", ""))
    except (ValueError, AttributeError):
        message, reason = raw.decode("utf-8", "replace"), ""
    text = f"{method} {path}: {response.status} {message[:_MAX_MESSAGE]}".strip()
    return ApiError(text, status=response.status, reason=reason)
