"""Runs while an image is built: writes what is in it as a CycloneDX software bill of materials.

Responsible for Python distributions (their metadata) and Debian packages (dpkg's status file); not for looking into files. Standard library only.
The same content gives the same bytes: no time stamp, and the serial number is made from the components.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

SPEC_VERSION: Final = "1.5"
_NAMESPACE: Final = uuid.UUID("5f0c9f5e-8d0b-5a3e-9a67-0d1f3d1c5b1e")
_MAX_LICENCE: Final = 120
"""Longer values of the field `License` are the licence's text, not its name."""


def main() -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument(
        "--site", action="append", type=Path, default=[], help="an environment, or a folder of packages"
    )
    parser.add_argument("--debian", action="append", type=Path, default=[], help="a file in the form of dpkg's status")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    components = [component for site in arguments.site for component in python_components(site)]
    components += [component for status in arguments.debian for component in debian_components(status.read_text())]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document(arguments.name, arguments.version, components), indent=1) + "\n")
    return 0


def document(name: str, version: str, components: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole bill."""
    unique = {component["bom-ref"]: component for component in components}
    ordered = [unique[key] for key in sorted(unique)]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": uuid.uuid5(_NAMESPACE, json.dumps([name, version, ordered])).urn,
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": name, "name": name, "version": version}},
        "components": ordered,
        "dependencies": [{"ref": name, "dependsOn": sorted(unique)}],
    }


def python_components(site: Path) -> list[dict[str, Any]]:
    """The distributions of an environment."""
    folders = [str(path) for path in site.glob("lib/python3*/site-packages")] or [str(site)]
    found = []
    for distribution in importlib.metadata.distributions(path=folders):
        about = distribution.metadata
        name = re.sub(r"[-_.]+", "-", about["Name"]).lower()
        purl = f"pkg:pypi/{name}@{quote(distribution.version, safe='')}"
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": distribution.version,
            "purl": purl,
        }
        if licences := python_licences(about):
            component["licenses"] = licences
        found.append(component)
    return found


def python_licences(about: Any) -> list[dict[str, Any]]:
    """What a distribution's metadata says: an SPDX expression, else the names of its classifiers, else the old field."""
    if expression := about.get("License-Expression"):
        return [{"expression": expression}]
    names = [c.rsplit(" :: ", 1)[-1] for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    old = (about.get("License") or "").strip()
    if not names and old and "\n" not in old and len(old) <= _MAX_LICENCE:
        names = [old]
    return [{"license": {"name": name}} for name in names]


def debian_components(status: str) -> list[dict[str, Any]]:
    """The packages of a status file."""
    found = []
    for block in filter(None, (part.strip() for part in status.split("\n\n"))):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", block, re.MULTILINE))
        name, version, arch = fields["Package"], fields["Version"], fields["Architecture"]
        purl = f"pkg:deb/debian/{name}@{quote(version, safe='.~-')}?arch={arch}&distro=debian"
        properties = [{"name": "debian:source", "value": fields["Source"]}] if "Source" in fields else []
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        found.append({**component, **({"properties": properties} if properties else {})})
    return found


if __name__ == "__main__":
    sys.exit(main())
