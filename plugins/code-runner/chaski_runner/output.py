"""What a program prints: bounded, in order, and visible while it still runs.

Standard output and standard error are one stream, as in a terminal. It keeps the beginning and the end of
what was printed, so memory is bounded whatever the program prints, and it copies the beginning to `emit` at
once: when the host kills the call, what was emitted is all that is left of it.

Invariant: it keeps at most `max_bytes` and one piece, and the text it gives back always encodes as UTF-8.
"""

import codecs
import io
from collections import deque

# The host keeps 16 KiB of what a call emits; copying more would only cost time.
MAX_EMITTED_BYTES = 16 * 1024
# An unfinished line is emitted when it grows to this, so that a progress line of dots is seen too.
EMIT_AT_BYTES = 512
# Small prints are joined to pieces of at least this, so that a million one-byte prints stay a short queue.
MIN_PIECE_BYTES = 1024


class Recorder(io.RawIOBase):
    """The bytes a program printed: the first half and the last half of `max_bytes`."""

    def __init__(self, max_bytes, emit):
        self._head = bytearray()
        self._head_limit = max_bytes - max_bytes // 2
        self._tail = deque()
        self._tail_bytes = 0
        self._tail_limit = max_bytes // 2
        self._dropped_bytes = 0
        self._emit = emit
        self._emit_budget = MAX_EMITTED_BYTES
        self._unemitted = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self):
        return True

    def write(self, data):
        data = bytes(data)
        self._copy_to_host(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
        if len(data) > room:
            self._keep_in_tail(data[max(room, 0) :])
        return len(data)

    def _keep_in_tail(self, data):
        # One print can be larger than all that is kept: its own beginning goes at once.
        surplus = max(len(data) - self._tail_limit, 0)
        self._dropped_bytes += surplus
        data = data[surplus:]
        if self._tail and len(self._tail[-1]) < MIN_PIECE_BYTES:
            self._tail[-1] += data
        else:
            self._tail.append(bytearray(data))
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= max(self._tail_limit, 1):
            oldest = self._tail.popleft()
            self._tail_bytes -= len(oldest)
            self._dropped_bytes += len(oldest)

    def _copy_to_host(self, data):
        if self._emit_budget <= 0:
            return
        self._unemitted += data[: self._emit_budget]
        self._emit_budget -= len(data)
        if b"\n" in data or len(self._unemitted) >= EMIT_AT_BYTES or self._emit_budget <= 0:
            self.emit_rest()

    def emit_rest(self):
        """Emits a last line that has no line end."""
        chunk = self._decoder.decode(bytes(self._unemitted))
        self._unemitted.clear()
        if chunk:
            self._emit(chunk)

    def is_truncated(self):
        return self._dropped_bytes > 0 or self._tail_bytes > self._tail_limit

    def text(self):
        """What was printed, with a mark where the middle was left out."""
        tail = b"".join(self._tail)
        surplus = max(len(tail) - self._tail_limit, 0)
        dropped = self._dropped_bytes + surplus
        if not dropped:
            return (bytes(self._head) + tail).decode("utf-8", "replace")
        # The cut may fall inside a character: its bytes are dropped, not shown as replacement marks.
        head = bytes(self._head).decode("utf-8", "ignore")
        tail = tail[surplus:].decode("utf-8", "ignore")
        return f"{head}\n[... {dropped} bytes of output left out here ...]\n{tail}"


def stream(recorder):
    """A text stream over `recorder`; lone surrogates become `\\udc80`-like escapes, which encode."""
    return io.TextIOWrapper(recorder, encoding="utf-8", errors="backslashreplace", write_through=True)


def clean(text):
    """`text` without lone surrogates: one would trap the component when the answer is lifted to the host."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
