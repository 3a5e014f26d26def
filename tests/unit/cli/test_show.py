"""What is shown: complete, and harmless to the terminal that shows it, whatever a process calls itself."""

import io
import json
from itertools import count

import pytest
from rich.console import Console

from daemoneye_cli.logfile import LogLine
from daemoneye_cli.show import text
from daemoneye_cli.show.jsonlines import json_line
from daemoneye_cli.show.live import render, sparkline
from daemoneye_cli.show.plain import finding_lines
from daemoneye_cli.tally import Tally

HOSTILE = "\x1b[31m\x1b]0;owned\x07\x9b2J\r\n\u202e[bold]x[/bold]\u2028\x00"
FINDING = {
    "id": HOSTILE, "time": HOSTILE, "severity": HOSTILE, "score": 0.9, "detector": HOSTILE, "title": HOSTILE,
    "techniques": [{"id": HOSTILE, "name": HOSTILE}, HOSTILE],
    "subject": {"workload": HOSTILE, "pid": 7, "exe": HOSTILE, "argv": [HOSTILE]},
    "explanation": [HOSTILE], "confidence": 1, "events": [],
    "process_tree": [{"pid": 1, "exe": "/sbin/init", "argv": ["init"]}, {"pid": HOSTILE, "exe": HOSTILE, "argv": [HOSTILE, HOSTILE]}],
}  # fmt: skip
UNSAFE = ("\x1b", "\x07", "\x9b", "\r", "\u202e", "\u2028", "\x00")


def tally() -> Tally:
    clock = count(1000)
    made = Tally(HOSTILE, lambda: float(next(clock)), inactive=("x is inactive: y",), hint=text.TRIGGER)
    made.workloads.update({HOSTILE: 3, "host/systemd/a.service": 2})
    made.lost.update({HOSTILE: 4, "ring": 1})
    made.kinds.update({"process_exec": 5})
    made.lines.append(LogLine.parse("sensor", b"WARNING " + HOSTILE.encode()))
    return made


def draw(made: Tally, *, width: int = 120, height: int = 40, selected: int = 0) -> str:
    screen = io.StringIO()
    console = Console(file=screen, width=width, height=height, color_system=None, force_terminal=False, markup=True)
    console.print(render(made, selected=selected, height=height))
    return screen.getvalue()


def assert_harmless(shown: str) -> None:
    assert not [character for character in UNSAFE if character in shown]


@pytest.mark.parametrize("findings", [0, 1, 50])
@pytest.mark.parametrize(("width", "height"), [(120, 40), (80, 24), (20, 5)], ids=["large", "usual", "tiny"])
def test_the_live_view_shows_hostile_names_escaped(findings, width, height):
    made = tally()
    for _ in range(findings):
        made.add_finding(FINDING)
    assert_harmless(draw(made, width=width, height=height, selected=findings + 3))


def test_the_live_view_shows_what_matters():
    made = tally()
    shown = draw(made)
    assert "host/systemd/a.service" in shown
    assert "ring 1" in shown
    assert "process_exec 5" in shown
    assert "x is inactive: y" in shown
    assert text.TRIGGER in shown
    made.add_finding({**FINDING, "title": "A deleted program", "explanation": ["It has no name."], "severity": "high"})
    shown = draw(made)
    assert "A deleted program" in shown
    assert "It has no name." in shown
    assert "1 init" in shown


def test_the_live_view_shows_the_analysers_phases_as_far_as_they_are_known():
    made = tally()
    assert "analyser" not in draw(made)
    phases = {"Learning": 2, "Calibrating": 0, "Active": 1200, HOSTILE: 1, "Drifted": HOSTILE}
    made.add_component("analytics", {"detectors": {"behavioral_anomaly": {"phases": phases}}})
    shown = draw(made, width=160)
    assert "analyser: 1,203 workloads: Learning 2, Active 1,200" in shown
    assert_harmless(shown)
    for other in ({"detectors": {"behavioral_anomaly": "x"}}, {"detectors": [1]}, {}):
        made.add_component("analytics", other)
        assert "analyser" not in draw(made)


def test_markup_in_a_name_is_shown_as_it_is():
    made = tally()
    made.add_finding({**FINDING, "title": "[red]x[/red] [/]"})
    assert "[red]x[/red] [/]" in draw(made)


def test_plain_lines_are_harmless_and_one_line_a_sentence():
    shown = finding_lines(FINDING)
    assert_harmless(shown)
    assert shown.count("\n") == 4
    assert "\\x1b[31m" in shown


def test_an_event_and_a_loss_in_a_line():
    event = {
        "event": "process_exec", "time": "2026-01-02T03:04:05.000000006Z", "pid": 9, "exe": "/bin/sh", "argv": ["sh", "-c", HOSTILE],
        "uid": 0, "workload": HOSTILE, "parent": {"pid": 1, "exe": HOSTILE},
    }  # fmt: skip
    line = text.event(event)
    assert_harmless(line)
    assert "\n" not in line
    assert "sh -c" in line
    loss = text.loss({"stage": "ring", "count": 3, "lane": "urgent", "ring": HOSTILE, "reason": HOSTILE})
    assert_harmless(loss)
    assert loss.startswith("LOST 3 at stage ring (urgent ")


@pytest.mark.parametrize("content", [{}, {"subject": 3, "techniques": "T1", "explanation": None, "process_tree": [3]}])
def test_a_finding_of_another_form_is_shown_nevertheless(content):
    assert finding_lines(content)
    made = tally()
    made.add_finding(content)
    assert draw(made)


def test_json_lines_hold_no_raw_control_character():
    line = json_line({"kind": "finding", **FINDING})
    assert line.isascii()
    assert line.count("\n") == 1
    assert_harmless(line)
    assert json.loads(line)["title"] == HOSTILE


def test_a_login_shells_dash_is_no_other_name():
    assert text.process({"pid": 3, "exe": "/bin/bash", "argv": ["-bash"]}) == "3 -bash"
    assert text.process({"pid": 3, "exe": "/tmp/x", "argv": ["bash"]}) == "3 [/tmp/x] bash"


def test_sparkline():
    assert sparkline([0, 1, 4, 8]) == " ▁▄█"
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "  "


def test_the_trigger_fits_a_usual_terminal():
    assert len(text.TRIGGER) + len("try: ") <= 80
