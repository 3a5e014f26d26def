"""docs/reference/rbac.md is what the chart gives, rule by rule."""

from __future__ import annotations

import re

from tests.chart.chart import ROOT, render

PAGE = ROOT / "docs" / "reference" / "rbac.md"
HEAD = ["who", "where", "API group", "resources", "only these names", "verbs", "why"]


def documented():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row for row in rows if row[0] == "who"] == [HEAD, HEAD]
    rows = [row for row in rows if row[0] not in {"who", "---"}]
    assert all(row[6] for row in rows), "every rule has a reason"
    return [tuple(row[:6]) for row in rows]


def where(named, role):
    kind, name = role["kind"], role["metadata"]["name"]
    bound = {value["kind"] for value in named.values() if value.get("roleRef") == reference(kind, name)}
    aggregated = [
        label.rpartition("-")[2]
        for label in role["metadata"]["labels"]
        if label.startswith("rbac.authorization.k8s.io/")
    ]
    if aggregated:
        assert not bound
        return ", ".join(sorted(aggregated, key=["view", "edit", "admin"].index))
    (binding,) = bound
    return {"ClusterRoleBinding": "cluster", "RoleBinding": "namespace"}[binding]


def reference(kind, name):
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}


def rendered():
    named = render("fullnameOverride=eff")
    for role in named.values():
        if role["kind"] not in {"ClusterRole", "Role"}:
            continue
        for rule in role["rules"]:
            (group,) = rule["apiGroups"]
            cells = (rule["resources"], rule.get("resourceNames", []), rule["verbs"])
            row = (
                role["metadata"]["name"], where(named, role), group or "core", *(", ".join(cell) for cell in cells),
            )  # fmt: skip
            yield tuple(re.sub(r"\beff-", "F-", cell) for cell in row)


def test_page_is_what_the_chart_gives():
    assert sorted(documented()) == sorted(rendered())


def test_bindings_bind_their_own_account_only():
    for name, value in render().items():
        if value["kind"].endswith("Binding"):
            account = {
                "kind": "ServiceAccount", "name": value["metadata"]["name"], "namespace": "security",
            }  # fmt: skip
            assert value["subjects"] == [account], name
            assert value["roleRef"]["name"] == value["metadata"]["name"], name


def test_without_aggregation_people_get_nothing():
    assert not [name for name in render("rbac.aggregate=false") if name.endswith(("-view", "-edit"))]


def test_pods_that_hold_no_rights_are_bound_to_none():
    subjects = {s["name"] for value in render().values() for s in value.get("subjects", ())}
    assert subjects == {f"rel-daemoneye-{x}" for x in ("operator", "identity", "callout", "uninstall")}


def test_with_evidence_analytics_may_ask_who_reads_it_and_nothing_else():
    before, after = render(), render("evidence.enabled=true")
    more = {name: value for name, value in after.items() if name not in before}
    assert more.keys() == {
        "ClusterRole/rel-daemoneye-analytics", "ClusterRoleBinding/rel-daemoneye-analytics", "ClusterRole/rel-daemoneye-evidence",
    }  # fmt: skip
    asks = [
        (rule["apiGroups"], rule["resources"], rule["verbs"])
        for rule in more["ClusterRole/rel-daemoneye-analytics"]["rules"]
    ]
    assert asks == [
        (["authentication.k8s.io"], ["tokenreviews"], ["create"]),
        (["authorization.k8s.io"], ["subjectaccessreviews"], ["create"]),
    ]
    pod = after["Deployment/rel-daemoneye-analytics"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is True


def test_who_may_read_packets_is_said_by_nobody_but_the_user():
    named = render("evidence.enabled=true")
    (rule,) = named["ClusterRole/rel-daemoneye-evidence"]["rules"]
    assert rule == {"apiGroups": ["daemoneye.io"], "resources": ["findings/evidence"], "verbs": ["get"]}
    for name, value in named.items():
        if value["kind"].endswith("Binding"):
            assert value["roleRef"]["name"] != "rel-daemoneye-evidence", name
        if value["kind"] == "ClusterRole" and name != "ClusterRole/rel-daemoneye-evidence":
            assert not any("findings/evidence" in rule["resources"] for rule in value["rules"]), name
        if value["kind"] == "ClusterRole":
            aggregated = [label for label in value["metadata"]["labels"] if label.startswith("rbac.")]
            assert name != "ClusterRole/rel-daemoneye-evidence" or not aggregated
