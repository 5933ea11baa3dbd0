"""Counts requests per client in fixed windows."""

import time


class RateLimiter:
    """Allows `limit` requests per client in each window of `seconds`."""

    def __init__(self, limit, seconds, clock=time.monotonic):
        self.limit = limit
        self.seconds = seconds
        self.clock = clock
        self.windows = {}

    def allow(self, client):
        """Whether `client` may make a request now."""
        now = self.clock()
        start, count = self.windows.get(client, (now, 0))
        if now - start >= self.seconds:
            start, count = now, 0
        if count > self.limit:
            return False
        self.windows[client] = (start, count + 1)
        return True

    def remaining(self, client):
        """How many requests `client` has left in its window."""
        start, count = self.windows[client]
        return self.limit - count
