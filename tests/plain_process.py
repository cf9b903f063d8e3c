"""A process without the tests' checks of types, which do not know the placeholder for an option not given yet.

It imports torch once for all the tests of a session that ask it something.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SERVER = """
import json, os, sys, traceback

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    request = json.loads(line)
    os.chdir(request["folder"])
    os.environ["DINOSCOPE_CACHE"] = request["cache"]
    names = {}
    try:
        exec(request["program"], names)
        answer = {"answer": names["answer"](request["question"])}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), file=answers, flush=True)
"""

RUN_COMMANDS = """
import contextlib, io
from dinoscope.cli import main

def answer(commands):
    results = {}
    for name, argv in commands.items():
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(argv)
            except SystemExit as end:
                code = end.code
        results[name] = [code, out.getvalue(), err.getvalue()]
    return results
"""


class PlainProcess:
    """Is started at the first question."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the process)

    def ask(self, program: str, question: object, folder: Path) -> Any:
        """What the program's function `answer` makes of the question, in this working directory."""
        if self.process is None:
            command, pipe = [sys.executable, "-c", SERVER], subprocess.PIPE
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self.said, text=True, env=environment
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        cache = os.environ.get("DINOSCOPE_CACHE", str(folder / "cache"))  # fixtures of modules have none
        request = {"program": program, "question": question, "folder": str(folder), "cache": cache}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.said.seek(0)
            raise AssertionError(f"the process ended with {self.process.wait()}: {self.said.read()}")
        result = json.loads(line)
        assert "error" not in result, result["error"]
        return result["answer"]

    def run(self, commands: Mapping[str, Sequence[str]], folder: Path) -> dict[str, tuple[int, str, str]]:
        """Exit code, stdout and stderr of each of these commands of `dinoscope`, one after the other."""
        return self.ask(RUN_COMMANDS, commands, folder)

    def end(self) -> None:
        """Stop the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.said.close()
