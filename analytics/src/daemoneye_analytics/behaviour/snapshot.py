"""A frozen model as signed bytes, and back.

Payload of what `daemoneye_analytics.behaviour.signing` seals: u32 length of a JSON document (configuration, scales), the document, the detector in skops'
format. Responsible for that form and for refusing what is not exactly what this model would have written: the types in it are compared with the detector's
list before skops sees the bytes. Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from importlib.metadata import version
from typing import Any, Final

import numpy as np

from daemoneye.errors import CorruptData
from daemoneye_analytics.behaviour.frozen import Frozen
from daemoneye_analytics.behaviour.outliers import Choice
from daemoneye_analytics.behaviour.signing import Signer

MAX_UNPACKED: Final = 64 * 1024 * 1024
MAX_MEMBERS: Final = 4_096
_LENGTH: Final = struct.Struct("<I")
_SCHEMA: Final = "schema.json"
_LIBRARIES: Final = ("pyod", "scikit-learn", "skops")
_ARRAYS: Final = ("low", "width", "median")
_PLAIN: Final = frozenset(
    {"builtins.dict", "builtins.list", "builtins.tuple", "builtins.str", "numpy.ndarray", "numpy.float64", "numpy.int64", "numpy.bool"}
)  # fmt: skip


def seal(model: Frozen, name: str, features: tuple[str, ...], choice: Choice, signer: Signer) -> bytes:
    """The model's bytes.

    Raises:
        ValueError: It is too large to be kept, or holds what this form does not.
    """
    from skops import io as skops

    document = (
        _configuration(name, features, choice)
        | {
            "number": model.number,
            "trained_ns": model.trained_ns,
            "centre": model.centre,
            "unit": model.unit,
        }
        | {key: getattr(model, key).tolist() for key in _ARRAYS}
    )
    detector = skops.dumps(model.detector, compression=zipfile.ZIP_DEFLATED)
    try:
        _inspect(detector, choice)
    except CorruptData as error:
        msg = f"{choice.detector} cannot be kept: {error}"
        raise ValueError(msg) from error
    head = json.dumps(document, separators=(",", ":")).encode()
    return signer.seal(_LENGTH.pack(len(head)) + head + detector)


def unseal(sealed: bytes, name: str, features: tuple[str, ...], choice: Choice, signer: Signer) -> Frozen:
    """The inverse of `seal`.

    Raises:
        CorruptData: Not signed with our key, changed, too large, of another version, or of a model of another configuration.
    """
    payload = signer.open(sealed)
    try:
        (length,) = _LENGTH.unpack_from(payload)
        document = json.loads(payload[_LENGTH.size : _LENGTH.size + length])
        for key, value in _configuration(name, features, choice).items():
            if document[key] != value:
                raise CorruptData(f"model of {key} {document[key]!r}, not {value!r}")
        low, width, median = (np.array(document[key], np.float64) for key in _ARRAYS)
        if not low.shape == width.shape == median.shape == (len(features),):
            raise CorruptData("model whose scales do not fit its features")
        detector = payload[_LENGTH.size + length :]
        _inspect(detector, choice)
        return Frozen(
            number=int(document["number"]),
            trained_ns=int(document["trained_ns"]),
            low=low,
            width=width,
            median=median,
            centre=float(document["centre"]),
            unit=float(document["unit"]),
            detector=_load(detector, choice),
        )
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise CorruptData(f"model: {error!r}") from error


def _configuration(name: str, features: tuple[str, ...], choice: Choice) -> dict[str, Any]:
    """What must be equal for a stored model to be of use. Another version of a library may understand its attributes otherwise."""
    return {
        "model": name,
        "features": list(features),
        "detector": choice.detector,
        "parameters": dict(choice.parameters),
        "libraries": {library: version(library) for library in _LIBRARIES},
    }


def _load(data: bytes, choice: Choice) -> Any:
    from skops import io as skops

    try:
        return skops.loads(data, trusted=sorted(choice.kind.types))
    except Exception as error:
        # skops and what it builds raise anything; whatever it is, this model is not used.
        raise CorruptData(f"model that cannot be built: {error!r}") from error


def _inspect(data: bytes, choice: Choice) -> None:
    """Refuse what unpacks to too much, or names a type that this detector does not consist of."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_UNPACKED:
                raise CorruptData(f"model that unpacks to more than {MAX_UNPACKED} bytes or {MAX_MEMBERS} parts")
            schema = json.loads(archive.read(_SCHEMA))
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError) as error:
        raise CorruptData(f"model: {error!r}") from error
    foreign = _types(schema) - _PLAIN - choice.kind.types
    if foreign:
        raise CorruptData(f"model with types that {choice.detector} has not: {', '.join(sorted(foreign))}")


def _types(schema: object) -> set[str]:
    """Full names of all types in a schema of skops."""
    found: set[str] = set()
    open_: list[object] = [schema]
    while open_:
        node = open_.pop()
        if isinstance(node, dict):
            if "__class__" in node:
                found.add(f"{node.get('__module__')}.{node['__class__']}")
            open_ += node.values()
        elif isinstance(node, list):
            open_ += node
    return found
