"""Runs one program as `__main__` and turns its end, whatever it is, into a text that a model can act on.

Invariant: no exception of the program leaves `run`, and the answer fits `max_output_bytes`. A trap (stack
overflow, deadline) is the host's to report.
"""

import ast
import builtins
import io
import linecache
import sys
import traceback
import types
import zoneinfo
from dataclasses import dataclass

from . import event_loop, output

# The name of the program in tracebacks.
FILENAME = "<code>"
# The traceback or last value gets a quarter of the answer, at most this.
MAX_REPORT_BYTES = 8 * 1024
# Room for the marks that tell where text was left out.
MARK_BYTES = 256


@dataclass
class Ending:
    """How a program ended."""

    text: str
    is_error: bool
    truncated: bool


def run(code, stdin, max_output_bytes, emit):
    """Runs `code` and returns its `Ending`; calls `emit(text)` with what it prints while it runs."""
    report_bytes = min(max_output_bytes // 4, MAX_REPORT_BYTES)
    printed_bytes = max(max_output_bytes - report_bytes - MARK_BYTES, MARK_BYTES)
    recorder = output.Recorder(printed_bytes, emit)
    screen = output.stream(recorder)
    saved = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8", "replace")), encoding="utf-8")
    sys.stdout = sys.stderr = screen
    try:
        report, is_error = _outcome(code)
    finally:
        sys.stdin, sys.stdout, sys.stderr = saved
    recorder.emit_rest()
    report, report_cut = _cut(output.clean(report), report_bytes)
    # Bytes that are no text grow to three when they become replacement marks, so the text is cut once more.
    printed, printed_cut = _cut(recorder.text(), printed_bytes + MARK_BYTES // 2)
    if printed and report and not printed.endswith("\n"):
        printed += "\n"
    text = printed + report or "(the program ended without printing anything)"
    return Ending(text, is_error, recorder.is_truncated() or printed_cut or report_cut)


def _outcome(code):
    """Runs `code`: the value or traceback to show below what it printed, and whether it is an error."""
    event_loop.install()
    # Tracebacks quote the program's lines from here; there is no file to read them from.
    linecache.cache[FILENAME] = (len(code), None, code.splitlines(keepends=True), FILENAME)
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main  # pickle, dataclasses and typing look classes up in their module
    try:
        body, last_expression = _compile(code)
        exec(body, main.__dict__)
        if last_expression is None:
            return "", False
        value = eval(last_expression, main.__dict__)
        return ("" if value is None else f"=> {value!r}"), False
    except SystemExit as exit:
        return _exit_report(exit)
    except BaseException as error:
        return _traceback(error) + _hint(error), True


def _compile(code):
    """The program without its last expression, and that expression (`None` if it ends with a statement)."""
    tree = ast.parse(code, FILENAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    body = compile(tree, FILENAME, "exec")
    if last is None:
        return body, None
    return body, compile(ast.Expression(last.value), FILENAME, "eval")


def _exit_report(exit):
    if exit.code is None or exit.code == 0:
        return "", False
    return f"the program ended itself with exit status {exit.code!r}", True


def _traceback(error):
    """The traceback with the frames of the program only: those of the library it cannot change."""
    try:
        shown = traceback.TracebackException.from_exception(error)
        _keep_own_frames(shown)
        return "".join(shown.format()).rstrip("\n")
    except BaseException as second:  # an exception whose own `__str__` raises, or no memory left to format it
        return f"{type(error).__name__} (its description could not be made: {type(second).__name__})"


def _keep_own_frames(shown):
    """Drops other frames from `shown` and from all exceptions that it was caused by or groups."""
    pending, seen = [shown], set()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.stack = traceback.StackSummary.from_list([f for f in one.stack if f.filename == FILENAME])
        pending += [one.__cause__, one.__context__, *(one.exceptions or [])]


def _hint(error):
    """What a model cannot know about this place."""
    if isinstance(error, zoneinfo.ZoneInfoNotFoundError):
        return "\nhint: there is no time zone database here; use `datetime.timezone(timedelta(hours=...))`"
    if isinstance(error, ModuleNotFoundError):
        return "\nhint: only the standard library is available here, without modules that need native code"
    if isinstance(error, EOFError):
        return "\nhint: pass what the program reads as the argument `stdin`"
    return ""


def _cut(text, max_bytes):
    """`text` without its middle if it is longer than `max_bytes`, and whether it was."""
    data = text.encode("utf-8")
    if len(data) <= max_bytes:
        return text, False
    half = max_bytes // 2
    head, tail = data[:half].decode("utf-8", "ignore"), data[-half:].decode("utf-8", "ignore")
    return f"{head}\n[... {len(data) - 2 * half} bytes left out here ...]\n{tail}", True
