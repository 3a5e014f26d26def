"""The governor by given times: how it steps down, waits, and steps up again."""

from __future__ import annotations

from daemoneye_sensor.packets.governor import WINDOW_S, Governor, Level, said


class Clock:
    """A governor that is told of one window after another."""

    def __init__(self, percent: float = 10.0) -> None:
        self.governor = Governor(percent)
        self.now = 0.0
        self.governor.spend(0.0, 0.0)

    def windows(self, count: int, percent: float) -> list[Level]:
        """The level after each of `count` windows that cost so much."""
        levels = []
        for _ in range(count):
            for _ in range(4):  # a window is many turns
                self.now += WINDOW_S / 4
                self.governor.spend(self.now, WINDOW_S / 4 * percent / 100)
            levels.append(self.governor.level)
        return levels


def test_it_steps_down_one_level_a_window_and_not_further_than_flows() -> None:
    clock = Clock()
    assert clock.windows(6, 25) == [1, 2, 3, 4, 4, 4]
    assert clock.governor.used == 25
    assert said(Level.FEW_SEGMENTS).startswith("JA3 is not computed, nor ")


def test_what_is_within_the_budget_changes_nothing() -> None:
    clock = Clock()
    assert set(clock.windows(200, 9.9)) == {0}
    assert said(clock.governor.level) == "everything is looked at"


def test_it_steps_up_only_when_there_is_room_for_a_minute() -> None:
    clock = Clock()
    clock.windows(2, 25)
    assert set(clock.windows(100, 8)) == {2}, "near the budget nothing is taken back"
    assert clock.windows(5, 3) == [2] * 5
    assert clock.windows(1, 8) == [2], "one busy window and the wait begins anew"
    assert clock.windows(6, 3) == [2, 2, 2, 2, 2, 1]
    assert clock.windows(6, 3)[-1] == 0


def test_a_step_up_that_was_too_much_is_tried_again_later_each_time() -> None:
    clock = Clock()
    clock.windows(1, 25)
    waits = []
    for _ in range(6):
        waited = 0
        while clock.windows(1, 3) == [1]:
            waited += 1
        waits.append(waited + 1)
        assert clock.windows(1, 25) == [1]
    assert waits == [6, 12, 24, 48, 60, 60]


def test_a_late_turn_is_judged_by_the_time_that_passed() -> None:
    governor = Governor(10)
    assert not governor.spend(0, 0.0)
    assert not governor.spend(30, 2.9), "2.9 s of 30 are less than ten percent"
    assert governor.spend(60, 3.1)
    assert governor.level is Level.NO_JA3
