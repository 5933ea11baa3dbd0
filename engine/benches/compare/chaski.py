"""chaski: builds the program and measures with `chaski bench`."""

import json
import os
import pathlib
import subprocess
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]


def prepare():
    """Builds chaski from this checkout; returns the program."""
    subprocess.run(
        ["cargo", "build", "--release", "--locked", "--quiet", "--package", "chaski"], cwd=REPOSITORY, check=True
    )
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return target / "release" / "chaski"


def version():
    """The commit of the checkout, and whether it was changed since."""
    said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


class Chaski:
    """Measures one model. Every method starts a process, which loads the model anew."""

    name = "chaski"

    def __init__(self, program, model, threads, watch):
        self.program = program
        self.model = model
        self.threads = threads
        self.watch = watch

    def prefill(self, tokens, seed):
        return self._bench("prefill", seed, "--prompt", tokens)["median"]

    def decode(self, tokens, depth, seed):
        return self._bench("decode", seed, "--tokens", tokens, "--depth", depth)["median"]

    def batch(self, sequences, _prompt, tokens, seed):
        return self._bench("batch", seed, "--tokens", tokens, "--batch", sequences)["median"]

    def start(self):
        """Seconds of a process that loads the model and generates one token."""
        return self.watch(self._command("load", 0)).seconds

    def agent(self, turns, result_tokens, reply_tokens, seed, told):
        """Seconds of a conversation. `told[seed]` becomes its tool results, for the other engine."""
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            sizes = ["--turns", turns, "--result-tokens", result_tokens, "--reply-tokens", reply_tokens]
            result = self._bench("agent", seed, *sizes, "--save-results", file.name)
            (told[seed],) = json.loads(pathlib.Path(file.name).read_text())
        return result["median"], result["details"]["prompts"][0]

    def _command(self, measure, seed):
        command = [self.program, "bench", measure, "--json", "--repeat", 1, "--seed", seed]
        return [*command, "--model", self.model, "--threads", self.threads]

    def _bench(self, measure, seed, *arguments):
        report = json.loads(self.watch([*self._command(measure, seed), *arguments]).output)
        (result,) = report["results"]
        return result
