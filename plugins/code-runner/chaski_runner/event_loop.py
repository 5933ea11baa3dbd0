"""An asyncio event loop for a place without sockets.

The standard loops wake themselves through a socket pair, which the sandbox does not have, so `asyncio.run`
would fail before the program's first line. Nothing outside can wake this one either: it only has timers to
wait for.
"""

import asyncio
import asyncio.base_events
import time


class TimerLoop(asyncio.base_events.BaseEventLoop):
    """Runs coroutines and timers; sockets, pipes and subprocesses stay unsupported."""

    def __init__(self):
        super().__init__()
        self._selector = self

    # The part of a selector that `_run_once` uses.
    def select(self, timeout):
        if timeout is None:
            raise RuntimeError("every task waits and nothing can wake one: the program is deadlocked")
        if timeout > 0:
            time.sleep(timeout)
        return []

    def _process_events(self, event_list):
        pass

    def _write_to_self(self):
        pass


def install():
    """Makes `asyncio.run` and `asyncio.new_event_loop` use a `TimerLoop`."""
    asyncio.new_event_loop = asyncio.events.new_event_loop = TimerLoop
