"""What the broker is told: configurations before pointers, only what differs, and nothing that nobody points to for long."""

import asyncio
import time
from typing import Any

import pytest

from daemoneye.nodeconfig import NodeConfig, NodePointer
from daemoneye.subjects import CONFIGS_BUCKET, NODES_BUCKET, node_config
from daemoneye_operator import configs
from daemoneye_operator.reconcile.selection import Plan


class Broker:
    """Buckets as tables; every write in order."""

    def __init__(self):
        self.connections = 1
        self.tables: dict[str, dict[str, bytes]] = {CONFIGS_BUCKET: {}, NODES_BUCKET: {}}
        self.writes = []
        self.full = False

    def bucket(self, name):
        return Bucket(self, name)


class Bucket:
    def __init__(self, broker, name):
        self.broker, self.table, self.name = broker, broker.tables[name], name

    async def keys(self, pattern):
        return {key for key in self.table if pattern == "*" or key.endswith(pattern[1:])}

    async def write(self, key, data):
        if self.broker.full:
            raise TimeoutError
        self.table[key] = data
        self.broker.writes.append((self.name, key))

    async def remove(self, key):
        self.table.pop(key, None)
        self.broker.full = False


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def plan(**nodes):
    return Plan(configs={c.hash: c for c in nodes.values()}, nodes={name: c.hash for name, c in nodes.items()})


ONE, TWO = NodeConfig(kernel={"n": 1}), NodeConfig(kernel={"n": 2})


def publisher_of(broker: Any) -> configs.ConfigPublisher:
    return configs.ConfigPublisher(broker)


def publish(publisher, made, analytics=b"{}"):
    asyncio.run(publisher.publish(made, analytics))


def test_configurations_stand_before_the_pointers_to_them(clock):
    broker = Broker()
    publish(publisher_of(broker), plan(a=ONE, b=TWO))
    buckets = [name for name, _ in broker.writes]
    assert buckets == sorted(buckets), "daemoneye_configs first, analytics' too"
    assert NodePointer.decode(broker.tables[NODES_BUCKET][node_config("a")]).hash == ONE.hash


def test_what_is_there_is_not_written_again(clock):
    broker = Broker()
    publisher = publisher_of(broker)
    publish(publisher, plan(a=ONE))
    before = len(broker.writes)
    publish(publisher, plan(a=ONE))
    assert len(broker.writes) == before
    publish(publisher, plan(a=TWO))
    assert [key for _, key in broker.writes[before:]] == [TWO.hash, node_config("a")]


def test_a_node_that_is_gone_has_no_pointer(clock):
    broker = Broker()
    publisher = publisher_of(broker)
    publish(publisher, plan(a=ONE, b=ONE))
    publish(publisher, plan(b=ONE))
    assert list(broker.tables[NODES_BUCKET]) == [node_config("b")]


def test_unused_configurations_go_whatever_is_looked_at_in_between(clock):
    broker = Broker()
    publisher = publisher_of(broker)
    publish(publisher, plan(a=ONE))
    for _ in range(5):
        clock.now += 60
        broker.connections += 1
        publish(publisher, plan(a=TWO))
    assert ONE.hash not in broker.tables[CONFIGS_BUCKET]
    assert TWO.hash in broker.tables[CONFIGS_BUCKET]


def test_a_full_bucket_makes_room_before_it_takes_anything(clock):
    broker = Broker()
    publisher = publisher_of(broker)
    publish(publisher, plan(a=ONE))
    publish(publisher, plan(a=TWO))
    clock.now += 300
    broker.full = True
    publish(publisher, plan(a=NodeConfig(kernel={"n": 3})))
    assert ONE.hash not in broker.tables[CONFIGS_BUCKET]


def test_after_a_new_connection_everything_is_told_again(clock):
    broker = Broker()
    publisher = publisher_of(broker)
    publish(publisher, plan(a=ONE))
    broker.tables[CONFIGS_BUCKET].clear()
    broker.tables[NODES_BUCKET].clear()
    broker.connections += 1
    publish(publisher, plan(a=ONE))
    assert ONE.hash in broker.tables[CONFIGS_BUCKET]
    assert node_config("a") in broker.tables[NODES_BUCKET]


def test_keys_of_a_former_operator_are_put_right(clock):
    broker = Broker()
    broker.tables[NODES_BUCKET][node_config("gone")] = NodePointer("x").encode()
    publish(publisher_of(broker), plan(a=ONE))
    assert list(broker.tables[NODES_BUCKET]) == [node_config("a")]


def test_what_was_in_use_until_now_stays_for_who_is_just_reading_it(clock):
    broker = Broker()
    publisher = publisher_of(broker)
    publish(publisher, plan(a=ONE))
    clock.now += 500  # the broker was away
    publish(publisher, plan(a=TWO))
    assert ONE.hash in broker.tables[CONFIGS_BUCKET]
