"""A policy's status, case by case, in the words that people read."""

from dataclasses import replace

import pytest

from daemoneye import conditions
from daemoneye.api.v1alpha1.policystatus import PolicyStatus
from daemoneye.nodeconfig import REFUSED
from daemoneye_operator.reconcile.nodes import NodeReport
from daemoneye_operator.reconcile.selection import plan
from daemoneye_operator.reconcile.status import (
    DaemonSetState,
    World,
    changed,
    due,
    important,
    invalid_status,
    policy_status,
)
from daemoneye_operator.reconcile.tally import Tally
from tests.unit.operator.factory import NOW, policy, policy_object, report

NODES = {f"node-{number}": {"zone": str(number % 2)} for number in range(1, 9)}
WORLD = World(DaemonSetState(desired=8, ready=8, image="daemoneye/sensor:dev"), analytics_heard=NOW - 5)


def status(one, *others, world=WORLD, previous=None, now=NOW, nodes=NODES, change=None, without=()):
    made = plan([one, *others], nodes)
    reports = {node: report(made, node) for node in made.nodes if node not in without}
    for node, answer in (change or {}).items():
        reports[node] = report(made, node, **answer)
    value = policy_status(one, made, reports, world, Tally(one.uid), previous, now)
    PolicyStatus.model_validate(value, by_alias=True, by_name=False)
    assert {each["reason"] for each in value["conditions"]} <= conditions.REASONS.keys()
    return value


def told(value):
    return {each["type"]: (each["status"], each["reason"]) for each in value["conditions"]}


def message(value, kind="Ready"):
    return next(each["message"] for each in value["conditions"] if each["type"] == kind)


def test_all_is_well():
    value = status(policy(generation=3))
    assert told(value) == {
        "Ready": ("True", "AsAsked"),
        "SensorsAvailable": ("True", "AsAsked"),
        "ProgramsLoaded": ("True", "AsAsked"),
        "CaptureHealthy": ("True", "CaptureOff"),
        "AnalyticsAvailable": ("True", "AsAsked"),
    }
    assert value["sensors"] == {
        "desired": 8, "ready": 8, "display": "8/8", "refused": 0, "firstRefusedNode": "", "refusedReason": "", "refusedMessage": "",
    }  # fmt: skip
    assert value["observedGeneration"] == 3
    assert {each["observedGeneration"] for each in value["conditions"]} == {3}
    assert {each["lastTransitionTime"] for each in value["conditions"]} == {"2027-01-15T08:00:00Z"}
    assert message(value) == "All 8 selected nodes run it."


def test_nodes_refuse():
    no_btf = {"state": REFUSED, "reason": "MissingBTF", "message": "the kernel has no BTF\x1b[2J"}
    value = status(policy(), change={"node-5": no_btf, "node-3": no_btf})
    assert told(value)["Ready"] == ("False", "MissingBTF")
    assert message(value) == "2 of 8 nodes refuse it; first node-3: MissingBTF: the kernel has no BTF\\x1b[2J"
    assert told(value)["SensorsAvailable"] == ("True", "AsAsked")
    assert told(value)["ProgramsLoaded"] == ("False", "MissingBTF")
    assert value["sensors"] == {
        "desired": 8, "ready": 6, "display": "6/8", "refused": 2,
        "firstRefusedNode": "node-3", "refusedReason": "MissingBTF", "refusedMessage": "the kernel has no BTF\\x1b[2J",
    }  # fmt: skip


def test_nodes_refuse_for_different_reasons_and_in_odd_words():
    value = status(
        policy(),
        change={
            "node-2": {"state": REFUSED, "reason": "not a word", "message": "x"},
            "node-4": {"state": REFUSED, "reason": "BadProgram", "message": "y"},
        },
    )
    assert told(value)["Ready"] == ("False", "NodesRefuse")
    assert message(value).startswith("2 of 8 nodes refuse it; first node-2: NodesRefuse: x")


def test_a_bad_filter_is_of_capture():
    one = policy(networkMonitoring={"enablePacketCapture": True})
    value = status(one, change={"node-1": {"state": REFUSED, "reason": "BadFilter", "message": "syntax error"}})
    assert told(value)["Ready"] == ("False", "BadFilter")
    assert message(value) == "1 of 8 nodes refuses it; first node-1: BadFilter: syntax error"
    assert told(value)["ProgramsLoaded"] == ("Unknown", "BadFilter")
    assert (
        message(value, "ProgramsLoaded") == "Programs run on 7 of 8 selected nodes; the others do not run the policy."
    )


def test_policies_that_contradict():
    old = policy("old", 1, selector={"nodeSelector": {"zone": "1"}}, kernelMonitoring={"ebpfProgramPath": "/a.o"})
    young = policy("young", 2, kernelMonitoring={"ebpfProgramPath": "/b.o"})
    value = status(young, old)
    assert told(value)["Ready"] == ("False", "Conflict")
    assert message(value) == (
        "4 of 8 nodes refuse it; first node-1: Conflict: spec.kernelMonitoring.ebpfProgramPath is '/b.o', but the older policy old says '/a.o' "
        "and there can be only one: make them equal, remove one of the two, or let nodeSelector part the policies"
    )
    assert value["sensors"]["display"] == "4/8"
    assert told(status(old, young))["Ready"] == ("True", "AsAsked")


def test_the_65th_policy():
    others = [policy(f"p{number:02}", number) for number in range(64)]
    value = status(policy("young", 99), *others)
    assert told(value)["Ready"] == ("False", "TooManyPolicies")
    assert told(value)["ProgramsLoaded"] == ("Unknown", "TooManyPolicies")
    assert "64 older policies" in message(value)
    assert value["sensors"] == {
        "desired": 8, "ready": 0, "display": "0/8", "refused": 8,
        "firstRefusedNode": "node-1", "refusedReason": "TooManyPolicies", "refusedMessage": value["sensors"]["refusedMessage"],
    }  # fmt: skip


def test_nothing_selected():
    value = status(policy(selector={"nodeSelector": {"gpu": "yes", "a": "b"}}))
    assert told(value)["Ready"] == ("False", "NoNodesSelected")
    assert "kubectl get nodes -l a=b,gpu=yes" in message(value)
    assert value["sensors"]["display"] == "0/0"
    assert told(value)["ProgramsLoaded"] == ("Unknown", "NoNodesSelected")
    assert "No node of the cluster can run a sensor" in message(status(policy(), nodes={}))


def test_a_silent_node():
    one = policy()
    made = plan([one], NODES)
    reports = {node: report(made, node) for node in NODES} | {"node-4": report(made, "node-4", NOW - 31)}
    value = policy_status(one, made, reports, WORLD, Tally(), None, NOW)
    assert told(value)["Ready"] == ("False", "SensorsSilent")
    assert (
        message(value)
        == "1 of 8 nodes is silent; first node-4, last heard of at 2027-01-15T07:59:29Z. Look at its sensor pod's log"
    )
    assert value["sensors"]["display"] == "7/8"
    reports["node-4"] = report(made, "node-4", NOW - 29)
    assert told(policy_status(one, made, reports, WORLD, Tally(), None, NOW))["Ready"] == ("True", "AsAsked")


def test_nodes_that_have_not_come_so_far():
    value = status(policy(generation=2), change={"node-6": {"hash": "old"}}, without=("node-7",))
    assert told(value)["Ready"] == ("False", "SensorsProgressing")
    assert message(value) == "2 of 8 nodes have not answered for generation 2 yet; first node-6"
    assert told(value)["ProgramsLoaded"] == ("Unknown", "SensorsProgressing")


def test_an_answer_for_another_generation_or_object_is_none():
    one = policy(generation=2)
    made = plan([one], NODES)
    reports = {node: report(made, node) for node in NODES}
    answer = reports["node-1"].answer
    for wrong in ({"generation": 1}, {"uid": "other"}, {"name": "other"}):
        reports["node-1"] = NodeReport("node-1", NOW, replace(answer, policies=(replace(answer.policies[0], **wrong),)))
        assert policy_status(one, made, reports, WORLD, Tally(), None, NOW)["sensors"]["display"] == "7/8"


def test_an_image_that_cannot_be_pulled():
    waiting = DaemonSetState(
        desired=8,
        ready=6,
        image="daemoneye/sensor:typo",
        waiting_node="node-2",
        waiting_reason="ImagePullBackOff",
        waiting_message="not found",
    )
    value = status(policy(), world=replace(WORLD, daemonset=waiting), without=("node-2", "node-3"))
    assert told(value)["SensorsAvailable"] == told(value)["Ready"] == ("False", "ImagePullFailed")
    assert message(value, "SensorsAvailable") == (
        "2 of 8 nodes have no sensor, for node node-2 cannot pull the image daemoneye/sensor:typo: not found. "
        "Check image.registry, image.tag and imagePullSecrets of the chart"
    )


def test_sensors_that_crash_or_are_not_there():
    crash = DaemonSetState(waiting_node="node-2", waiting_reason="CrashLoopBackOff", waiting_message="back-off 10s")
    value = status(policy(), world=replace(WORLD, daemonset=crash), without=("node-2",))
    assert told(value)["Ready"] == ("False", "SensorsMissing")
    assert "on node node-2 it waits: CrashLoopBackOff: back-off 10s" in message(value)
    value = status(policy(), world=replace(WORLD, daemonset=DaemonSetState(exists=False)), without=NODES)
    assert "the DaemonSet is not there" in message(value)


def test_programs_that_do_not_run():
    value = status(
        policy(),
        change={"node-8": {"problem": ("SocketsPartly", "sockets are not seen in full: socket_recv cannot run")}},
    )
    assert told(value)["ProgramsLoaded"] == ("True", "AsAsked")
    assert message(value, "ProgramsLoaded").endswith(
        "1 of 8 nodes sees less; first node-8: sockets are not seen in full: socket_recv cannot run."
    )
    value = status(policy(), change={"node-8": {"programs": False, "problem": ("BadProgram", "R1 invalid mem access")}})
    assert told(value)["ProgramsLoaded"] == told(value)["Ready"] == ("False", "BadProgram")
    assert message(value) == "1 of 8 nodes lacks programs that run; first node-8: BadProgram: R1 invalid mem access"


def test_programs_that_nobody_asks_for():
    value = status(policy(kernelMonitoring={"enableEbpf": False}), change={node: {"programs": False} for node in NODES})
    assert told(value)["ProgramsLoaded"] == ("True", "ProgramsOff")
    assert told(value)["Ready"] == ("True", "AsAsked")


@pytest.mark.parametrize(
    ("capture", "kept", "reason"),
    [
        (True, True, ""),
        (True, False, "the installation keeps no evidence: set evidence.enabled of the chart"),
        (False, True, "the policy captures no packets that could be kept"),
    ],
)
def test_evidence_that_is_not_kept_is_told(capture, kept, reason):
    asked = policy(networkMonitoring={"enablePacketCapture": capture, "evidence": {"enabled": True}})
    value = status(asked, world=replace(WORLD, evidence=kept))
    gaps = [{"path": "spec.networkMonitoring.evidence", "reason": reason}]
    assert value["inactiveSettings"] == (gaps if reason else [])


def test_a_setting_without_effect_is_told_and_no_failure():
    value = status(policy(federation={"enableFederation": True, "primaryEndpoint": "https://x"}))
    assert told(value)["Ready"] == ("True", "AsAsked")
    assert message(value) == "All 8 selected nodes run it. 1 setting without effect: see status.inactiveSettings."
    assert [gap["path"] for gap in value["inactiveSettings"]] == ["spec.federation.enableFederation"]


@pytest.mark.parametrize(
    ("heard", "expected"),
    [(NOW - 31, ("False", "AnalyticsSilent")), (None, ("False", "AnalyticsSilent")), (NOW - 29, ("True", "AsAsked"))],
)
def test_analytics(heard, expected):
    value = status(policy(), world=replace(WORLD, analytics_heard=heard))
    assert told(value)["AnalyticsAvailable"] == expected
    assert told(value)["Ready"] == expected


def test_what_analytics_left_out_is_told_to_its_policy_alone():
    world = replace(
        WORLD, analytics_problems={"web": "detector 'nope' is unknown; there are first_seen, suspicious_exec"}
    )
    assert told(status(policy("web"), world=world))["Ready"] == ("False", "BadDetector")
    assert "there are first_seen" in message(status(policy("web"), world=world))
    assert told(status(policy("other"), world=world))["Ready"] == ("True", "AsAsked")
    silent = replace(world, analytics_heard=NOW - 31)
    assert told(status(policy("web"), world=silent))["Ready"] == ("False", "AnalyticsSilent"), "it says no more"


def test_the_analysers_workloads_by_phase_are_a_count_and_no_news():
    assert status(policy())["analytics"] == {"workloads": 0, "learning": 0, "calibrating": 0, "active": 0, "drifted": 0}
    before = status(policy(), world=replace(WORLD, phases={"Learning": 3, "Active": 4}))
    assert before["analytics"] == {"workloads": 7, "learning": 3, "calibrating": 0, "active": 4, "drifted": 0}
    later = status(policy(), world=replace(WORLD, phases={"Active": 7}))
    assert changed(before, later)
    assert not important(before, later), "written once a minute at most"


def test_an_uninstallation_is_told_as_one():
    value = status(policy(), world=replace(WORLD, uninstalling=True))
    assert told(value)["Ready"] == ("False", "Uninstalling")
    assert "daemoneye.io/uninstall" in message(value)


def test_pods_that_are_refused_are_on_no_node():
    state = replace(WORLD.daemonset, ready=0, waiting_reason="FailedCreate", waiting_message="the namespace forbids it")
    value = status(policy(), world=replace(WORLD, daemonset=state, listening_since=0), without=NODES)
    assert told(value)["Ready"] == ("False", "SensorsMissing")
    assert "; FailedCreate: the namespace forbids it" in message(value)


def test_no_broker():
    value = status(policy(), world=replace(WORLD, broker=False))
    assert told(value)["Ready"] == ("Unknown", "BrokerUnavailable")
    assert told(value)["AnalyticsAvailable"] == ("Unknown", "BrokerUnavailable")


def test_an_operator_that_just_began_to_listen_keeps_what_was_said():
    one = policy()
    before = status(one)
    began = replace(WORLD, listening_since=NOW + 50, analytics_heard=None)
    assert status(one, world=began, previous=before, now=NOW + 60, without=NODES) == before
    newer = status(replace(one, generation=2), world=began, previous=before, now=NOW + 60, without=NODES)
    assert told(newer)["Ready"] == ("False", "SensorsProgressing")
    assert told(newer)["AnalyticsAvailable"] == ("Unknown", "Pending")
    assert told(status(one, world=began, previous=before, now=NOW + 90, without=NODES))["Ready"] == (
        "False",
        "SensorsProgressing",
    )


def test_a_time_of_transition_moves_with_the_status_only():
    one = policy()
    first = status(one)
    made = plan([one], NODES)
    reports = {node: report(made, node, NOW + 99) for node in NODES}
    world = replace(WORLD, analytics_heard=NOW + 99)
    second = policy_status(one, made, reports, world, Tally(), first, NOW + 100)
    assert second == first
    del reports["node-1"]
    third = policy_status(one, made, reports, world, Tally(), second, NOW + 100)
    times = {each["type"]: each["lastTransitionTime"] for each in third["conditions"]}
    assert times["Ready"] == "2027-01-15T08:01:40Z"
    assert times["AnalyticsAvailable"] == "2027-01-15T08:00:00Z"


def test_what_is_written_when():
    one = policy()
    first = status(one)
    later = {
        **first,
        "conditions": [{**each, "lastTransitionTime": "2030-01-01T00:00:00Z"} for each in first["conditions"]],
    }
    assert not changed(first, later)
    assert not changed({key: value for key, value in first.items() if key != "inactiveSettings"}, first)
    assert changed(None, first)
    counted = {**first, "findings": {"total": 9}}
    assert changed(first, counted)
    assert not important(first, counted)
    refusing = status(one, change={"node-1": {"state": REFUSED, "reason": "BadProgram"}}, previous=first)
    assert important(first, refusing)
    assert important(None, first)
    assert due(None, NOW, important=False)
    assert due(NOW - 1, NOW, important=True)
    assert not due(NOW - 59, NOW, important=False)
    assert due(NOW - 60, NOW, important=False)


def test_a_spec_that_does_not_hold_together():
    obj = policy_object(generation=4)
    obj["status"] = {"findings": {"total": 3, "newest": []}}
    value = invalid_status(obj, "spec.federation.enableFederation is on, but no peer is named", NOW)
    PolicyStatus.model_validate(value, by_alias=True, by_name=False)
    assert told(value)["Ready"] == ("False", "InvalidSpec")
    assert message(value).startswith("spec.federation.enableFederation is on")
    assert value["findings"]["total"] == 3
    assert value["observedGeneration"] == 4
    assert {each["reason"] for each in value["conditions"]} == {"InvalidSpec"}
    assert len(value["conditions"]) == 5


def test_no_message_is_longer_than_an_api_server_takes():
    value = status(
        policy(), change={node: {"state": REFUSED, "reason": "BadProgram", "message": "x" * 5000} for node in NODES}
    )
    assert all(len(each["message"]) <= conditions.MAX_MESSAGE for each in value["conditions"])


def test_every_type_is_set_from_the_first_visit():
    assert told(status(policy(), without=NODES)).keys() == conditions.TYPES["DaemonEyePolicy"].keys()


@pytest.mark.parametrize(
    "change", [{}, {"node-1": {"state": REFUSED, "reason": "BadProgram", "message": "x"}}], ids=["well", "refused"]
)
def test_a_status_is_what_the_api_server_gives_back(change):
    """Defaults that the API server fills in would make every look a write."""
    for value in (status(policy(), change=change), invalid_status(policy_object(), "x", NOW)):
        model = PolicyStatus.model_validate(value, by_alias=True, by_name=False)
        assert not changed(model.model_dump(mode="json", by_alias=True, exclude_none=True), value)
