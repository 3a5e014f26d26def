"""Findings in a cluster: the pod that they name, and what stays as it was without Kubernetes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from daemoneye.events.codec import section_of
from daemoneye.events.flags import Flag
from daemoneye.events.registry import BY_NAME
from daemoneye.findings import Finding
from daemoneye_analytics import registry
from daemoneye_analytics.frame import Frame
from daemoneye_analytics.pipeline import Pipeline
from daemoneye_analytics.pods import NOBODY, Pods
from tests.unit.analytics import factory
from tests.unit.analytics.factory import CHECKOUT, WORKLOAD, Exec

MEMFD = Exec(exe=b"/memfd:x", pid=10, start=1, time=2, flags=Flag.MEMFD)
QUICK = {"name": "first_seen", "parameters": {"learning_events": 5, "learning_seconds": 1}}
USUAL = [Exec(pid=1000 + i, start=10 + i, time=10.5 + i) for i in range(10)]


def found(*rows, pods=None, **about) -> list[Finding]:
    sections = [] if pods is None else [factory.pods(pods)]
    about.setdefault("workloads", {1: WORKLOAD})
    return Pipeline(registry.build([QUICK])).process(factory.batch(rows, sections=sections, **about))


def test_a_finding_carries_its_pod():
    (finding,) = found(MEMFD, pods={1: CHECKOUT, 2: {"pod": "other"}})
    subject = finding.subject
    assert (subject.namespace, subject.pod, subject.container) == ("shop", "checkout-7d9f", "app")
    assert (subject.image, subject.owner_kind, subject.owner_name) == ("shop/checkout:1.2", "Deployment", "checkout")
    assert subject.labels == {"app": "checkout", "tier": ""}
    assert subject.workload == "shop/Deployment/checkout/app"
    assert finding.policies == ("everywhere", "shop")
    where = "in container app of pod shop/checkout-7d9f (Deployment checkout)"
    assert finding.title == f"Program executed from memory: /memfd:x, {where}"
    assert f"It ran {where} as user 0." in finding.explanation
    assert Finding.decode(finding.encode()) == finding


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"owner_kind": "Pod", "owner_name": "checkout-7d9f"}, "in container app of pod shop/checkout-7d9f"),
        ({"owner_kind": "", "owner_name": ""}, "in container app of pod shop/checkout-7d9f"),
        ({"container": ""}, "in pod shop/checkout-7d9f (Deployment checkout)"),
        ({"pod": "", "namespace": ""}, "in shop/Deployment/checkout/app"),
    ],
    ids=["bare-pod", "owner-unknown", "container-unknown", "pod-unknown"],
)
def test_what_is_not_known_is_not_said(change, where):
    (finding,) = found(MEMFD, pods={1: CHECKOUT | change})
    assert f"It ran {where} as user 0." in finding.explanation


def test_what_is_new_for_a_workload_names_the_pod_where_it_happened():
    new = Exec(exe=b"/usr/bin/nc", pid=7, start=30, time=31)
    (finding,) = found(*USUAL, new, pods={1: CHECKOUT})
    assert finding.explanation[0].startswith("/usr/bin/nc never ran in shop/Deployment/checkout/app in 10 executions")
    assert finding.explanation[-1] == "It ran in container app of pod shop/checkout-7d9f (Deployment checkout)."
    (plain,) = found(*USUAL, new, workloads={1: b"host/systemd/web.service"})
    assert len(plain.explanation) == 1


@pytest.mark.parametrize("pods", [None, {2: CHECKOUT}], ids=["no-section", "other-cgroup"])
def test_without_kubernetes_nothing_is_said_of_pods(pods):
    (finding,) = found(MEMFD, pods=pods, workloads={1: b"host/systemd/web.service"})
    assert finding.title == "Program executed from memory: /memfd:x"
    assert "It ran in host/systemd/web.service as user 0." in finding.explanation
    assert (finding.subject.pod, finding.subject.labels, finding.policies) == ("", {}, ())


def test_a_host_process_has_policies_and_no_pod():
    (finding,) = found(MEMFD, pods={1: {"policies": ("everywhere",)}}, workloads={1: b"host/systemd/web.service"})
    assert (finding.policies, finding.subject.pod) == (("everywhere",), "")
    assert finding.title == "Program executed from memory: /memfd:x"


def test_a_pod_known_only_in_part_lowers_the_confidence():
    (known,) = found(MEMFD, pods={1: CHECKOUT})
    batch = factory.batch([MEMFD], workloads={1: WORKLOAD}, sections=[factory.pods({1: CHECKOUT})])
    section = batch.section("cgroup_identity", context=True)
    assert section
    section.rows["state"] = 1
    (part,) = Pipeline(registry.build()).process(batch)
    assert part.confidence == pytest.approx(known.confidence - 0.05)
    assert part.confidence_reasons[-1] == "The workload is known only in part."


def test_what_was_learned_is_the_workloads_not_the_pods():
    # Its second pod has another cgroup and another name: nothing is new there.
    one = Pipeline(registry.build([QUICK]))
    other = CHECKOUT | {"pod": "checkout-9c2a"}
    one.process(factory.batch(USUAL, workloads={1: WORKLOAD}, sections=[factory.pods({1: CHECKOUT})]))
    rows = [replace(r, cgroup=2, time=r.time + 100) for r in USUAL]
    batch = factory.batch(rows, first=10, workloads={2: WORKLOAD}, sections=[factory.pods({2: other})])
    assert one.process(batch) == []
    new = Exec(exe=b"/usr/bin/nc", pid=7, start=300, time=301, cgroup=2)
    (finding,) = one.process(
        factory.batch([new], first=20, workloads={2: WORKLOAD}, sections=[factory.pods({2: other})])
    )
    assert "20 executions" in finding.explanation[0]
    assert finding.subject.pod == "checkout-9c2a"


def test_pods_are_found_by_both_cgroups():
    section = section_of(
        BY_NAME["pod_identity"], {"cgroup_id": [1, 1], "cgroup_v1_id": [5, 6], "pod": [b"a", b"\xffb"]}, 2, context=True
    )
    pods = Pods(factory.batch([MEMFD], sections=[section]))
    assert (pods.of(1, 5).name, pods.of(1, 6).name, pods.of(1, 7)) == ("a", "\\xffb", NOBODY)
    rows = np.zeros(3, [("cgroup_id", np.uint64), ("cgroup_v1_id", np.uint64)])
    rows["cgroup_id"], rows["cgroup_v1_id"] = 1, [6, 7, 5]
    assert pods.rows(rows).tolist() == [1, -1, 0]


def test_labels_that_are_none_are_left_out():
    section = section_of(
        BY_NAME["pod_identity"],
        {"cgroup_id": [1], "labels": [b"a=b=c\0nonsense\0=x\0"], "pod": [b"p"]},
        1,
        context=True,
    )
    assert dict(Pods(factory.batch([MEMFD], sections=[section])).of(1, 0).labels) == {"a": "b=c", "": "x"}


def test_membership_is_a_set_of_policies():
    pods: dict[int, dict[str, Any]] = {
        1: {"policies": ("b", "a")},
        2: {"policies": ("a", "b")},
        3: {"policies": ("a",)},
    }
    rows = [replace(MEMFD, cgroup=c, time=2 + c) for c in (1, 2, 3, 4)]
    frame = Frame(factory.batch(rows, sections=[factory.pods(pods)]))
    first, second, third, none = frame.membership(frame.exec_image).tolist()
    assert first == second != third
    assert none == 0
    assert Frame(factory.batch(rows)).membership(np.arange(3)).tolist() == [0, 0, 0]
