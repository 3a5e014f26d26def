"""Models at rest: what we wrote comes back equal, and nothing else is read."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

from daemoneye.errors import CorruptData
from daemoneye_analytics.behaviour import shape, signing, snapshot
from daemoneye_analytics.behaviour.frozen import Frozen
from daemoneye_analytics.behaviour.outliers import KINDS, choose
from daemoneye_analytics.behaviour.signing import Signer
from tests.unit.analytics.behaviour.shaperows import FEATURES, odd, usual

KEY = b"0123456789abcdef0123456789abcdef"
CHOICE = choose("HBOS", {}, "model m")


def sealed(detector="HBOS", rows=600, key=KEY):
    choice = choose(detector, {}, "model m")
    model = Frozen.fit(usual(rows), choice, seed=0, number=4, trained_ns=77)
    return model, snapshot.seal(model, "m", FEATURES, choice, Signer(key))


def unseal(data, choice=CHOICE, name="m", features=FEATURES, key=KEY):
    return snapshot.unseal(data, name, features, choice, Signer(key))


@pytest.mark.parametrize("detector", KINDS)
def test_a_model_comes_back_with_equal_scores(detector):
    model, data = sealed(detector)
    again = unseal(data, choose(detector, {}, "model m"))
    rows = np.vstack((usual(100, 8), odd(10)))
    assert again.score(rows).tolist() == model.score(rows).tolist()
    assert (again.number, again.trained_ns) == (4, 77)


@pytest.mark.parametrize("detector", ["KNN", "LOF"])  # they hold all rows
def test_a_model_of_a_full_reservoir_is_small_enough(detector):
    rows = np.tile(usual(shape.ROWS), 4)
    choice = choose(detector, {}, "model m")
    model = Frozen.fit(rows, choice, seed=0, number=1, trained_ns=0)
    assert len(snapshot.seal(model, "m", tuple("abcdefghijklmnopqrst"), choice, Signer(KEY))) < signing.MAX_BYTES


def test_any_changed_byte_is_refused():
    _, data = sealed()
    for position in [*range(60), *range(60, len(data), len(data) // 50), len(data) - 1]:
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(CorruptData):
            unseal(bytes(changed))


@pytest.mark.parametrize("length", [0, 3, 45, 46, 100])
def test_what_is_cut_short_is_refused(length):
    with pytest.raises(CorruptData):
        unseal(sealed()[1][:length])


def test_foreign_future_and_oversized_models_are_refused():
    _, data = sealed()
    with pytest.raises(CorruptData, match="another key"):
        unseal(data, key=b"another key, just as long")
    with pytest.raises(CorruptData, match="another key"):
        unseal(data, key=None)
    with pytest.raises(CorruptData, match="version 2; this version reads 1"):
        unseal(data[:4] + b"\x02\x00" + data[6:])
    with pytest.raises(CorruptData, match="16777216 are read"):
        unseal(data + bytes(signing.MAX_BYTES))
    with pytest.raises(ValueError, match="at most"):
        Signer(KEY).seal(bytes(signing.MAX_BYTES))
    with pytest.raises(ValueError, match="at least 16"):
        Signer(b"short")


@pytest.mark.parametrize(
    "how",
    [
        {"choice": choose("HBOS", {"n_bins": 20}, "m")},
        {"choice": choose("KNN", {}, "m")},
        {"name": "other"},
        {"features": ("bits",)},
        {"features": FEATURES[::-1]},
    ],
)
def test_a_model_of_another_configuration_is_refused(how):
    with pytest.raises(CorruptData, match="model of "):
        unseal(sealed()[1], **how)


def test_a_model_that_other_versions_of_libraries_wrote_is_refused(monkeypatch):
    _, data = sealed()
    monkeypatch.setattr(snapshot, "version", lambda library: "99.0")
    with pytest.raises(CorruptData, match=r"model of libraries .*99\.0"):
        unseal(data)


def resealed(change):
    """A model whose skops archive was changed by somebody who has the key."""
    payload = Signer(KEY).open(sealed()[1])
    length = int.from_bytes(payload[:4], "little")
    source = zipfile.ZipFile(io.BytesIO(payload[4 + length :]))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            if name != "schema.json":
                archive.writestr(name, source.read(name))
        schema = json.loads(source.read("schema.json"))
        change(schema, archive)
        archive.writestr("schema.json", json.dumps(schema))
    return Signer(KEY).seal(payload[: 4 + length] + target.getvalue())


def renamed(kind, module):
    return lambda schema, archive: schema["content"].update(__class__=kind, __module__=module)


def test_the_key_does_not_open_other_types_or_bombs():
    assert unseal(resealed(lambda schema, archive: None)).number == 4
    for name in ("posix.system", "sklearn.pipeline.Pipeline", "builtins.eval"):
        module, _, kind = name.rpartition(".")
        with pytest.raises(CorruptData, match=name):
            unseal(resealed(renamed(kind, module)))
    with pytest.raises(CorruptData, match="unpacks to more"):
        unseal(resealed(lambda schema, archive: archive.writestr("zeros", bytes(snapshot.MAX_UNPACKED))))
    with pytest.raises(CorruptData):
        unseal(resealed(lambda schema, archive: schema.clear()))
