"""Write the generated files, or say which are stale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from daemoneye.codegen import apireference, crd, files, header, metricsreference, reference

FILES: Final[dict[str, Callable[[], str]]] = {
    "bpf/include/events.gen.h": header.render,
    "docs/reference/events.md": reference.render,
    "docs/reference/metrics.md": metricsreference.render,
    "docs/reference/api.md": apireference.fields,
    "docs/reference/conditions.md": apireference.reasons,
    **crd.files("crds"),
    **crd.files("charts/daemoneye/crds-yaml"),  # Helm reads only what lies in the chart
}
"""Path in the repository → what makes its text. A new generated file is one line here."""


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 when `--check` finds a stale file."""
    return files.run(FILES, argv, prog="python -m daemoneye.codegen", description="Write the generated files.")


if __name__ == "__main__":
    raise SystemExit(main())
