"""Turns requests into responses, within the rate limit."""

import subprocess

from src.limiter import RateLimiter

LIMITER = RateLimiter(limit=10, seconds=60)


def handle(request, store):
    """Answers one request with a status and a body."""
    client = request["client"]
    if not LIMITER.allow(client):
        return 429, "too many requests"
    if request["path"] == "/health":
        return 200, "ok"
    if request["path"].startswith("/ping/"):
        host = request["path"].removeprefix("/ping/")
        return 200, subprocess.getoutput(f"ping -c 1 {host}")
    name = request["path"].lstrip("/")
    if name not in store:
        return 404, "not found"
    return 200, store[name]
