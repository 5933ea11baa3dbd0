"""llama.cpp: gets and builds it, once, and measures with its own programs.

The sources come out of the sdist of `llama-cpp-python`, which vendors them: a package registry that every user of
pip can reach, and a file whose digest is known.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request

from watch import busy_seconds

VERSION = "0.3.36"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-server")
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    # Files of the sdist may be newer than the clock of the machine; ninja would configure for ever.
    "CMAKE_SUPPRESS_REGENERATION": "ON",
}

# gcc 12 sees only 8 of the 64 bytes that `_tile_loadconfig` reads and drops the stores of the others, so the first
# prefill on a processor with AMX ends in SIGSEGV. This pins the whole configuration in memory before the call.
AMX_FILE = "ggml/src/ggml-cpu/amx/mmq.cpp"
AMX_CALL = "_tile_loadconfig(&tc);"
AMX_PIN = '__asm__ volatile("" : : "m"(tc) : "memory"); '

# Seconds that a server may take to load an 8B model from a cold disk.
SERVER_START = 600


def prepare(cache, venv):
    """Builds the programs below `cache` with the tools of `venv`, if they are not there; returns their folder. A
    build that was broken off goes on where it was."""
    folder = cache / f"llama.cpp-{VERSION}"
    done = folder / "complete"
    if not folder.exists():
        unpack(cache, venv, folder)
    if not done.exists():
        environment = {**os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}
        defines = [f"-D{name}={value}" for name, value in OPTIONS.items()]
        with open(cache / "llama.cpp-build.log", "w") as log:
            for command in (["cmake", "-G", "Ninja", "-B", "build", *defines], ["ninja", "-C", "build", *PROGRAMS]):
                built = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
                if built.returncode:
                    raise SystemExit(f"error: llama.cpp does not build; see `{log.name}`")
        done.touch()
    return folder / "build" / "bin"


def unpack(cache, venv, folder):
    """Puts the sources into `folder`: whole and mended, or not at all."""
    sdist = cache / f"llama_cpp_python-{VERSION}.tar.gz"
    if not sdist.exists():
        package = f"llama-cpp-python=={VERSION}"
        command = [venv / "bin" / "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
        subprocess.run([*command, "--dest", cache, package], check=True)
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise SystemExit(f"error: `{sdist}` has the digest {digest}, {SDIST_SHA256} is expected")
    shutil.rmtree(cache / "unpacked", ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(cache / "unpacked", filter="data")
    sources = cache / "unpacked" / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp"
    text = (sources / AMX_FILE).read_text()
    if AMX_CALL not in text:
        raise SystemExit(f"error: `{AMX_FILE}` does not call `_tile_loadconfig` as it did")
    (sources / AMX_FILE).write_text(text.replace(AMX_CALL, AMX_PIN + AMX_CALL))
    sources.rename(folder)
    shutil.rmtree(cache / "unpacked")


def version(programs):
    """What the programs say of themselves."""
    said = subprocess.run([programs / "llama-server", "--version"], capture_output=True, text=True, check=True)
    return f"llama-cpp-python {VERSION}: " + " ".join((said.stdout + said.stderr).split())


class LlamaCpp:
    """Measures one model. Every method starts a process, which loads the model anew."""

    name = "llama.cpp"

    def __init__(self, programs, model, threads, watch):
        self.programs = programs
        self.model = model
        self.threads = threads
        self.watch = watch  # runs a command, returns its output, seconds and peak memory

    def prefill(self, tokens, _seed):
        return max(self._bench(flash, "-p", tokens, "-n", 0) for flash in ("on", "off"))

    def decode(self, tokens, depth, _seed):
        # Flash attention makes no difference to an empty context, and llama-bench's own choice is as good.
        ways = ("on", "off") if depth else ("auto",)
        return max(self._bench(flash, "-p", 0, "-n", tokens, "-d", depth) for flash in ways)

    def batch(self, sequences, prompt, tokens, _seed):
        def run(flash):
            context = sequences * (prompt + tokens + 8)
            command = [self.programs / "llama-batched-bench", *self._common(), "-c", context, "-b", 2048, "-ub", 512]
            command += ["-npp", prompt, "-ntg", tokens, "-npl", sequences, "-fa", flash, "--output-format", "jsonl"]
            lines = self.watch(command).output.splitlines()
            return next(json.loads(line)["speed_tg"] for line in lines if line.startswith("{"))

        return max(run(flash) for flash in ("on", "off"))

    def start(self):
        """Seconds of a process that loads the model and generates one token."""
        command = [self.programs / "llama-bench", *self._common(), "-p", 0, "-n", 1, "-r", 1, "--no-warmup"]
        return self.watch(command).seconds

    def agent(self, turns, result_tokens, reply_tokens, seed, told):
        """Seconds of a conversation over loopback HTTP with the tool results `told[seed]`."""
        context = turns * (result_tokens + 32 + 3 * reply_tokens)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [self.programs / "llama-server", *self._common(), "-c", context, "-np", 1, "--host", "127.0.0.1"]
        command += ["--port", port, "--no-webui"]
        server = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(server, f"http://127.0.0.1:{port}/health")
            complete(port, "warm up", 8)
            text, computed, cached = "", 0, 0
            busy, own, started = busy_seconds(), busy_seconds(server.pid), time.monotonic()
            for result in told[seed]:
                text += result
                answer = complete(port, text, reply_tokens)
                timings = answer["timings"]
                if timings["predicted_n"] != reply_tokens:
                    raise SystemExit(f"error: llama-server gave {timings['predicted_n']} tokens, not {reply_tokens}")
                computed += timings["prompt_n"]
                cached += timings.get("cache_n", 0)
                text += answer["content"] + "\n"
            seconds = time.monotonic() - started
            # What this program itself did between two requests is counted as others' work; it is next to nothing.
            self.watch.note(busy_seconds() - busy - (busy_seconds(server.pid) - own), seconds)
        finally:
            server.terminate()
            server.wait()
        return seconds, {"computed_tokens": computed, "cached_tokens": cached}

    def _common(self):
        return ["-m", self.model, "-t", self.threads]

    def _bench(self, flash, *arguments):
        command = [self.programs / "llama-bench", *self._common(), "-fa", flash, "-r", 1, "-o", "json", *arguments]
        (result,) = json.loads(self.watch(command).output)
        return result["avg_ts"]


def wait_for(server, address):
    """Waits until the server has loaded its model."""
    deadline = time.monotonic() + SERVER_START
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"error: llama-server ended with {server.returncode} before it was ready")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit(f"error: llama-server was not ready after {SERVER_START} s")


def complete(port, prompt, tokens):
    """One greedy completion that cannot end early; the server keeps the prompt for the next."""
    body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=3600) as answer:
        return json.load(answer)
