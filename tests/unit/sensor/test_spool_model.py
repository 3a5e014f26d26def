"""The spool against a model: random sequences of actions, crashes between any two of them."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daemoneye_sensor.segment import HEADER_BYTES
from daemoneye_sensor.spool import Spool


class SpoolModel(RuleBasedStateMachine):
    """Random use against a list: nothing is lost, changed, reordered or counted wrongly."""

    max_bytes = 4000

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.spool = self.opened()
        self.next_sequence = 0
        self.written = []  # (lane, sequence, rows, payload), all that were ever appended
        self.sent = 0  # how many of them are acknowledged or evicted
        self.durable = 0
        self.lost_rows = 0

    def opened(self):
        return Spool(self.directory, max_bytes=self.max_bytes, segment_bytes=700)

    def settle_evictions(self):
        lost = self.spool.take_evicted()
        rows = sum(evicted.rows for evicted in lost)
        expected = 0
        while expected < rows:
            expected += self.written[self.sent][2]
            self.sent += 1
        assert expected == rows
        self.durable = max(self.durable, self.sent)

    @rule(size=st.integers(0, 900), lane=st.sampled_from(["urgent", "bulk"]), rows=st.integers(1, 9))
    def append(self, size, lane, rows):
        payload = os.urandom(size)
        self.spool.append(payload, lane=lane, epoch=1, first_sequence=self.next_sequence, rows=rows)
        self.written.append((lane, self.next_sequence, rows, payload))
        self.next_sequence += rows
        self.settle_evictions()

    @rule()
    def sync(self):
        self.spool.sync()
        self.durable = len(self.written)

    @precondition(lambda self: self.durable > self.sent)
    @rule(data=st.data())
    def acknowledge(self, data):
        entries = list(self.spool.unsent())
        count = data.draw(st.integers(1, len(entries)))
        for entry in entries[:count]:
            self.spool.acknowledge(entry)
        self.sent += count

    @rule()
    def save(self):
        self.spool.save_cursor()
        self.durable = len(self.written)

    @rule()
    def reopen(self):
        self.spool.close()
        self.spool = self.opened()
        self.durable = len(self.written)

    @rule()
    def crash(self):
        """The process dies: the page cache stays, the cursor may be an older one."""
        copy = Path(tempfile.mkdtemp())
        shutil.copytree(self.directory, copy, dirs_exist_ok=True)
        self.spool.close()
        shutil.rmtree(self.directory)
        self.directory, self.spool = copy, None
        self.spool = self.opened()
        self.durable = len(self.written)
        again = self.spool.entries_unsent
        assert again >= len(self.written) - self.sent
        for entry in list(self.spool.unsent())[: again - (len(self.written) - self.sent)]:
            self.spool.acknowledge(entry)

    @invariant()
    def the_unsent_are_those_of_the_model(self):
        got = [(e.lane, e.first_sequence, e.rows, bytes(e.payload)) for e in self.spool.unsent()]
        assert got == self.written[self.sent : self.sent + len(got)]
        assert self.sent + len(got) >= self.durable  # making room may have made more durable
        self.durable = self.sent + len(got)
        assert self.spool.entries_unsent == len(self.written) - self.sent
        assert self.spool.bytes_unsent == sum(HEADER_BYTES + len(w[3]) for w in self.written[self.sent :])

    @invariant()
    def the_recorder_ends_with_the_newest(self):
        kept = [e.first_sequence for e in self.spool.entries()]
        assert kept == [w[1] for w in self.written][len(self.written) - len(kept) :]
        assert self.spool.bytes_used <= self.max_bytes
        assert self.spool.quarantined == 0

    @invariant()
    def the_last_of_each_lane_is_known(self):
        for lane in ("urgent", "bulk"):
            newest = next((w for w in reversed(self.written) if w[0] == lane), None)
            last = self.spool.last(lane)
            assert (last and (last.first_sequence, last.rows)) == (newest and (newest[1], newest[2]))

    def teardown(self):
        self.spool.close()
        shutil.rmtree(self.directory)


TestSpoolAgainstModel = SpoolModel.TestCase
TestSpoolAgainstModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
