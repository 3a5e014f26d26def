"""What the documentation shows works: examples and fenced objects parse, links lead somewhere, and what is named exists."""

import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from daemoneye import conditions
from daemoneye.api.inactive import inactive
from daemoneye.api.policyfile import load_policy
from daemoneye.api.v1alpha1.common import MERGE_KEY
from daemoneye.api.v1alpha1.exception import DetectionException
from daemoneye.api.v1alpha1.peer import FederationPeer
from daemoneye.api.v1alpha1.policy import DaemonEyePolicy, PolicySpec
from daemoneye_analytics import policies as analytics_policies
from daemoneye_analytics.registry import available
from daemoneye_operator.reconcile import analytics
from daemoneye_operator.reconcile.policies import Policy

ROOT = Path(__file__).parents[2]
KINDS: dict[str, type[BaseModel]] = {
    "DaemonEyePolicy": DaemonEyePolicy,
    "DetectionException": DetectionException,
    "FederationPeer": FederationPeer,
}
EXAMPLES = sorted((ROOT / "examples" / "policies").glob("*.yaml"))
PAGES = [ROOT / "README.md", *sorted(p for d in ("docs", "examples", "charts") for p in (ROOT / d).rglob("*.md"))]
# Hand-written pages about a cluster: what they name is compared with the code.
GUIDES = [
    ROOT / "docs" / f"{n}.md"
    for n in ("install", "upgrade", "uninstall", "troubleshooting", "kubernetes", "threat-model")
]
GUIDES += [ROOT / "README.md", ROOT / "examples" / "README.md"]
TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()
CONCEPTS = (ROOT / "docs" / "kubernetes.md").read_text()

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<'?(\w+)'?\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]\[]*\]\(([^()\s]+)\)")
_VALUE_ROOTS = "clusterName|nameOverride|fullnameOverride|image|crds|rbac|operator|identity|analytics|sensor|nats|streams|findings|networkPolicy"
_VALUE = re.compile(rf"(?:--set |`)((?:{_VALUE_ROOTS})(?:\.[A-Za-z]+)+)(?=[=`])")
_FILES = (".json", ".conf", ".yaml", ".md")


def relative(path):
    return str(path.relative_to(ROOT))


def objects(text):
    """Every object of ours in the fences of a page, those of here documents in shell commands too."""
    for language, body in _FENCE.findall(text):
        sources = [body] if language in ("yaml", "yml") else [inner for _, inner in _HEREDOC.findall(body)]
        for source in sources:
            for document in yaml.safe_load_all(source):
                if isinstance(document, dict) and str(document.get("apiVersion", "")).startswith("daemoneye.io/"):
                    yield document


def section(text, heading):
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def anchors(path):
    """GitHub's names of a page's headings."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    names = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}


def properties(model):
    """Every setting of a model and of those within it: (camelCase name, merge rule or None)."""
    for info in model.model_fields.values():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        yield info.alias, extra.get(MERGE_KEY)
        inner = info.annotation
        # What merges as a whole has no rules within.
        if MERGE_KEY not in extra and isinstance(inner, type) and hasattr(inner, "model_fields"):
            yield from properties(inner)


# ── examples ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_a_policy_for_files_for_the_operator_and_for_analytics(path):
    loaded = load_policy(path)
    assert loaded.notes == ()
    obj = yaml.safe_load(path.read_text())
    policy = Policy.of(
        {**obj, "metadata": {**obj["metadata"], "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}}
    )
    assert policy.spec == loaded.policy.spec
    for detector in obj["spec"].get("analytics", {}).get("detectors", ()):
        for name, value in detector.get("parameters", {}).items():
            assert isinstance(value, str), f"{name}: the CRD takes text"
            json.loads(value)
    read = analytics_policies.read(analytics.encode(analytics.document([policy])), available())
    assert read.problems == {}
    assert read.policies == {obj["metadata"]["name"]}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_what_an_example_asks_for_is_served(path):
    assert [each.setting for each in inactive(load_policy(path).policy, "linux")] == []


def test_every_example_is_listed():
    listed = set(re.findall(r"\(policies/([^)]+)\)", (ROOT / "examples" / "README.md").read_text()))
    assert listed == {path.name for path in EXAMPLES}
    assert len({yaml.safe_load(path.read_text())["metadata"]["name"] for path in EXAMPLES}) == len(EXAMPLES) >= 5


# ── objects in pages ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_objects_in_fences_are_right(page):
    for document in objects(page.read_text()):
        KINDS[document["kind"]].model_validate(document, by_alias=True, by_name=False)


def test_there_are_objects_in_fences():
    """The test above would pass, too, if it found none."""
    assert "DetectionException" in {document["kind"] for document in objects(CONCEPTS)}


def test_notes_first_policy_is_right():
    notes = (ROOT / "charts" / "daemoneye" / "templates" / "NOTES.txt").read_text()
    ((_, source),) = _HEREDOC.findall(notes)
    DaemonEyePolicy.model_validate(yaml.safe_load(source), by_alias=True, by_name=False)


# ── links ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page):
    broken = []
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for target in _LINK.findall(prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


# ── what is named ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_troubleshooting_has_every_reason_and_no_other():
    assert set(re.findall(r"^\| `(\w+)` \|", section(TROUBLES, "Reasons"), re.MULTILINE)) == set(conditions.REASONS)


def test_troubleshooting_has_every_condition_and_no_other():
    first = [line.split("|")[1] for line in section(TROUBLES, "Conditions").splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", " ".join(first)))
    assert named == {name for kind in conditions.TYPES.values() for name in kind}


@pytest.mark.parametrize("page", GUIDES, ids=relative)
def test_reasons_in_sentences_exist(page):
    text = page.read_text()
    assert set(re.findall(r"reason `(\w+)`", text)) <= set(conditions.REASONS)
    assert set(re.findall(r"[Cc]ondition `(\w+)`", text)) <= {n for kind in conditions.TYPES.values() for n in kind}


@pytest.mark.parametrize("page", GUIDES, ids=relative)
def test_chart_values_that_are_named_exist(page):
    reference = (ROOT / "docs" / "reference" / "values.md").read_text()
    known = set(re.findall(r"^\| `([\w.]+)` \|", reference, re.MULTILINE))
    # Groups have no row of their own, and pods' resources are free below requests and limits.
    known |= {name.rpartition(".")[0] for name in known} | {f"{n}.memory" for n in known if n.endswith(".limits")}
    named = {name for name in _VALUE.findall(page.read_text()) if not name.endswith(_FILES)}
    assert named - known == set()


@pytest.mark.parametrize("page", GUIDES, ids=relative)
def test_fields_that_are_named_exist(page):
    reference = (ROOT / "docs" / "reference" / "api.md").read_text()
    known = set(re.findall(r"^\| `((?:spec|status)\.[\w.\[\]]+)` \|", reference, re.MULTILINE))
    named = set(re.findall(r"`((?:spec|status)\.[A-Za-z.]+)`", page.read_text()))
    assert {name for name in named if name not in known and not any(k.startswith(f"{name}.") for k in known)} == set()


@pytest.mark.parametrize("rule", ["or", "max", "union", "scoped", "singleton"])
def test_merge_table_is_the_models(rule):
    (row,) = re.findall(rf"^\| {rule} \| (.*?) \|", section(CONCEPTS, "Policies that meet"), re.MULTILINE)
    # What a detector's entry holds goes with its list.
    declared = {name for name, its in properties(PolicySpec) if its == rule}
    assert set(re.findall(r"`(\w+)`", row)) == declared
