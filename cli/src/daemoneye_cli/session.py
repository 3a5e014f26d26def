"""One ``daemoneye run`` from its start to its end.

Responsible for the order of things: broker, feed, processes, readiness, the reasons to end, and an end in which all
findings are out. Not for options (:mod:`daemoneye_cli.commands.run`), processes (:mod:`daemoneye_cli.supervisor`) or
form (:mod:`daemoneye_cli.show`).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from nats.aio.client import Client

from daemoneye.errors import DaemonEyeError
from daemoneye.escape import escape
from daemoneye_cli.configuration import CLUSTER, STATUS_INTERVAL_S, Plan
from daemoneye_cli.feed import Feed, Origin, View
from daemoneye_cli.logfile import LogLine
from daemoneye_cli.show.writer import OutputClosed
from daemoneye_cli.supervisor import Supervisor, sequences_reached
from daemoneye_cli.tally import Tally

READY_S: Final = 180.0
"""Longest start: compiling on a busy machine, and a store that the broker checks."""
ANALYTICS: Final = "analytics"
"""Name of the component."""
_STALLED_S: Final = 60.0
_WORD_S: Final = 5.0
_PATIENT_S: Final = 30.0
_HURRIED_S: Final = 5.0
"""Longest wait for analytics and for the view at the end: after a signal, somebody waits for us."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RunView(View, Protocol):
    """What a session needs of the view that shows it."""

    async def status(self) -> None:
        """Show the run's state."""


class Session:
    """Runs ``plan`` and shows it; ``seconds`` of readiness end it, or a signal, or the end of what is replayed."""

    def __init__(self, plan: Plan, tally: Tally, *, seconds: float | None, on_line: Callable[[LogLine], None]) -> None:
        self._plan = plan
        self._seconds = seconds
        self._on_line = on_line
        self.tally = tally
        tally.cluster = CLUSTER
        self._supervisor = Supervisor(plan, on_line=on_line)
        self._finished: dict[str, Any] | None = None
        self._hurried = False
        self._changed = asyncio.Condition()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._connection: Client | None = None
        self._feed: Feed | None = None

    def end(self, error: BaseException | None = None) -> None:
        """End the run, for ``error`` if there is one; the first reason counts."""
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    async def run(self, view: RunView) -> None:
        """Run to the end; raises what ended it if that was an error."""
        loop = asyncio.get_running_loop()
        handled = [number for number in _SIGNALS if not _is_nohup(number)]
        for number in handled:
            loop.add_signal_handler(number, self._signalled)
        try:
            with self._plan.state.locked():
                self._spawn("start", self._start(view))
                try:
                    await self._ended
                except OutputClosed:
                    return
                finally:
                    await self._stop(view)
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
        if self._finished and (unreadable := self._finished.get("error")):
            # All that could be read was judged and shown; the exit status says that it was not everything.
            raise DaemonEyeError(str(unreadable))

    async def _start(self, view: RunView) -> None:
        supervisor = self._supervisor
        self._connection = await supervisor.start_broker()
        self._spawn("broker", supervisor.keep_broker())
        self._feed = Feed(
            self._connection,
            view,
            self.tally,
            on_status=self._on_status,
            tell=lambda text: self._on_line(LogLine("run", "warning", escape(text))),
        )
        await self._feed.start()
        self._spawn("analytics", supervisor.analytics.run())
        self._spawn("sensor", self._run_sensor())
        try:
            async with asyncio.timeout(READY_S):
                await self._wait_for(lambda: supervisor.sensor.ready and supervisor.analytics.ready)
        except TimeoutError:
            silent = " and ".join(child.name for child in (supervisor.sensor, supervisor.analytics) if not child.ready)
            raise DaemonEyeError(f"{silent} not ready after {READY_S:g} s; see {self._plan.state.logs}") from None
        self.tally.state = "ready"
        await view.status()
        self.tally.state = "running"
        # Only now, so that `ready` comes first; what was published before is read, too: the feed has its place.
        self._spawn("events", self._feed.events())
        self._spawn("findings", self._feed.findings())
        self._spawn("scores", self._feed.scores())
        self._spawn("status", self._report(view))
        if self._plan.replay is not None:
            self._spawn("replay", self._follow_replay())
        if self._seconds is not None:
            await asyncio.sleep(self._seconds)
            self.end()

    async def _run_sensor(self) -> None:
        """Keep the sensor running; one that replays ends by itself, and must have said how much it published."""
        await self._supervisor.sensor.run()
        if self._ended.done():
            return
        try:
            async with asyncio.timeout(_WORD_S):
                await self._wait_for(lambda: self._finished is not None)
        except TimeoutError:
            raise DaemonEyeError(
                f"the sensor ended without having published the whole recording: {self._supervisor.sensor.message()}"
            ) from None

    async def _report(self, view: RunView) -> None:
        while True:
            await asyncio.sleep(STATUS_INTERVAL_S)
            self.tally.restarts = self._supervisor.restarts
            await view.status()

    async def _follow_replay(self) -> None:
        """End the run when analytics has judged all that the sensor has published."""
        await self._wait_for(lambda: self._finished is not None)
        progress = -1
        while not self._judged():
            before, progress = progress, int(self.tally.components.get(ANALYTICS, {}).get("events", 0))
            try:
                async with asyncio.timeout(_STALLED_S):
                    await self._wait_for(self._judged)
            except TimeoutError:
                if before == progress:
                    raise DaemonEyeError(
                        f"analytics is stuck before the recording's end; see {self._plan.state.logs}"
                    ) from None
        self.end()

    def _judged(self) -> bool:
        finished = self._finished or {}
        watermarks = self.tally.components.get(ANALYTICS, {}).get("watermarks", {})
        return sequences_reached(
            watermarks, str(finished["node"]), finished.get("epoch"), finished.get("sequences", {})
        )

    async def _stop(self, view: RunView) -> None:
        """End everything, whatever has gone already and whatever goes wrong on the way."""
        try:
            self._tasks["start"].cancel()
            await self._end_in_order(view)
        finally:
            for task in self._tasks.values():
                task.cancel()
            # Closed before the tasks are waited for: on its way through nats-py and wait_for a cancellation can be swallowed
            # (cpython #86296), and a closed connection ends what it left running.
            if self._connection is not None:
                await self._connection.close()
            for task in (await asyncio.wait(self._tasks.values(), timeout=_HURRIED_S))[0]:
                if not task.cancelled():
                    task.exception()  # `_done` has heard of it: nobody else need be told
            await self._supervisor.stop_broker()
            (self._plan.state.run / "cli.json").unlink(missing_ok=True)

    async def _end_in_order(self, view: RunView) -> None:
        """End the sensor, then analytics, then show what they left; after an error, just end them."""
        supervisor, connection, feed = self._supervisor, self._connection, self._feed
        clean = self._ended.done() and not self._ended.cancelled() and self._ended.exception() is None
        self.tally.state = "stopping"
        try:
            if connection is not None and feed is not None:
                await supervisor.stop_sensor()
                if clean:
                    await supervisor.caught_up(connection, _HURRIED_S if self._hurried else _PATIENT_S)
                await supervisor.stop_analytics()
                if clean and "findings" in self._tasks and not await feed.settle(patient=not self._hurried):
                    self._on_line(LogLine("run", "warning", "not all that was found could be shown in time"))
                self.tally.restarts = supervisor.restarts
                self.tally.state = "stopped"
                if clean:
                    async with asyncio.timeout(_HURRIED_S):
                        await view.status()
        except (OutputClosed, TimeoutError):  # whoever reads us has gone, or does not read
            pass

    async def _on_status(self, origin: Origin, name: str, status: dict[str, Any]) -> None:
        state = status.get("state")
        if origin == "node" and state in {"ready", "running", "finished"}:
            self._supervisor.sensor.ready = True
        if (origin, name) == ("component", ANALYTICS) and state in {"ready", "running"}:
            self._supervisor.analytics.ready = True
        if origin == "node" and state == "finished":
            self._finished = {"node": name, **status}
        async with self._changed:
            self._changed.notify_all()

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._done)
        self._tasks[name] = task

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.end(error)

    def _signalled(self) -> None:
        self._hurried = True
        if self._ended.done():  # asked twice: in a hurry
            for task in asyncio.all_tasks():
                task.cancel()
        self.end()


def _is_nohup(number: signal.Signals) -> bool:
    """Whether we were told to outlive our terminal."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
