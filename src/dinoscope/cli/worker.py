"""`python -m dinoscope.cli.worker SETTINGS.json`: what a study starts for each of its runs."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
import threading
from pathlib import Path

from dinoscope.errors import UserError
from dinoscope.text import printable


def work(argv: list[str]) -> int:
    """Bring one run to its end; return 0 when it is, 130 if a signal stopped it, 2 for a mistake (one line)."""
    parser = argparse.ArgumentParser(prog="dinoscope.cli.worker")
    parser.add_argument("settings", type=Path)
    parser.add_argument("--stop-with-stdin", action="store_true", help="save and end when standard input ends")
    parser.add_argument("--stop-on-collapse", action="store_true", help="end the run when it has collapsed")
    options = parser.parse_args(argv)
    if options.stop_with_stdin:  # from now on, before torch is imported
        threading.Thread(target=_stop_with_stdin, daemon=True).start()
    from dinoscope import api
    from dinoscope.cli.progress import ConsoleProgress
    from dinoscope.cli.train import one_line
    from dinoscope.study.run import read_settings
    from dinoscope.study.state import StopOnCollapse, bring_to_end

    listeners = [ConsoleProgress(), *([StopOnCollapse()] if options.stop_on_collapse else [])]
    train = functools.partial(api.train, listeners=listeners)
    try:
        config = read_settings(options.settings)
        with one_line(config.out):
            finished = bring_to_end(config, train)  # pyright: ignore[reportArgumentType] (it takes settings too)
    except UserError as error:
        print(printable(str(error)), file=sys.stderr)
        return 2
    return 0 if finished else 130


def _stop_with_stdin() -> None:
    """Wait for the end of standard input, a pipe from the study: however that dies, this run stops and is saved.

    The bare descriptor, because a thread that waits inside of `sys.stdin` makes Python fail at exit.
    """
    while os.read(0, 1024):
        pass
    if sys.platform == "win32":  # os.kill would end the process at once
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)  # to the process: it interrupts what the main thread waits for


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:]))
