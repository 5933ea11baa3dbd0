"""Runs commands and sees what they cost, and whether anybody else was at work on the machine meanwhile.

A second program on the same cores slows an engine whose threads wait for each other by far more than its share, and
not every engine by the same factor. So a measurement waits for a quiet moment, and says how quiet it was.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

# The share of all processors that others may use before a measurement counts as disturbed. A system's own
# housekeeping stays below it.
QUIET = 0.05

# Seconds over which it is judged whether the machine is quiet now.
GLANCE = 2.0

TICKS = os.sysconf("SC_CLK_TCK")


class Watched:
    """What one command did: its standard output, and seconds on the wall."""

    def __init__(self, output, seconds):
        self.output = output
        self.seconds = seconds


class Watch:
    """Runs commands one after the other. `others` is the largest share of the machine that others had beside one,
    `peak_memory` the most bytes that one of them held."""

    def __init__(self):
        self.reset()

    def reset(self):
        """Forgets the commands so far."""
        self.others, self.peak_memory = 0.0, 0

    def __call__(self, command):
        command = [str(word) for word in command]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            busy, started = busy_seconds(), time.monotonic()
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.monotonic() - started
            child.returncode = os.waitstatus_to_exitcode(status)
            self.note(busy_seconds() - busy - usage.ru_utime - usage.ru_stime, seconds)
            out.seek(0)
            err.seek(0)
            if child.returncode:
                said = err.read().decode(errors="replace").strip()[-2000:]
                raise SystemExit(f"error: `{' '.join(command)}` ends with {child.returncode}\n{said}")
            self.peak_memory = max(self.peak_memory, usage.ru_maxrss * 1024)
            return Watched(out.read().decode(), seconds)

    def note(self, others, seconds):
        """Others computed for so many seconds during so many on the wall."""
        self.others = max(self.others, others / seconds / os.cpu_count())


def busy_seconds(pid=None):
    """Processor seconds of the whole machine since it started, or of one process. Time that a hypervisor gave
    to somebody else is busy, too."""
    if pid is None:
        user, nice, system, _idle, _wait, irq, softirq, steal = (
            int(field) for field in pathlib.Path("/proc/stat").read_text().split()[1:9]
        )
        return (user + nice + system + irq + softirq + steal) / TICKS
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wait_until_quiet(patience):
    """Waits until nobody else computes, at most `patience` seconds."""
    deadline, told = time.monotonic() + patience, False
    while time.monotonic() < deadline:
        busy = busy_seconds()
        time.sleep(GLANCE)
        if (busy_seconds() - busy) / GLANCE / os.cpu_count() <= QUIET:
            return
        if not told:
            print("  waiting until the machine is quiet", file=sys.stderr)
            told = True
