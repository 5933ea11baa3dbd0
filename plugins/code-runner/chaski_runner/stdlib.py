"""Imports the standard library, so that it is in the component's snapshot.

The library's files are not in the sandbox: a module that was not imported while the component was built does
not exist for a program. Modules that need what WebAssembly lacks (ssl, ctypes, mmap, ...) fail here and stay
absent.
"""

import contextlib
import importlib
import io
import pkgutil
import sys
import warnings

# Not wanted in a snapshot: modules that act when imported, developer tools, and tests.
SKIPPED = {"antigravity", "this", "turtle", "turtledemo", "tkinter", "idlelib", "test", "ensurepip", "venv"}
SKIPPED_PARTS = {"tests", "test", "__main__", "_pyrepl"}


def import_all():
    """Imports every module that can be imported here."""
    for name in sorted(sys.stdlib_module_names - SKIPPED):
        _import(name)


def _import(name):
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        try:
            module = importlib.import_module(name)
        except BaseException:  # ImportError, but also whatever else a module does where it cannot work
            sys.modules.pop(name, None)
            return
    for child in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if child.name not in SKIPPED_PARTS:
            _import(f"{name}.{child.name}")
