"""`python -m dinoscope.cli.ablation_worker SETTINGS.json`: what an ablation study starts for each of its runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dinoscope.cli.worker import bring, parse, parser

if TYPE_CHECKING:
    from dinoscope.training.config import RunConfig
    from dinoscope.training.listeners import Listener

MODULE = "dinoscope.cli.ablation_worker"


def command(*, stop_on_collapse: bool) -> tuple[str, ...]:
    """For `dinoscope.study`, which adds the settings file."""
    options = ("--stop-on-collapse",) if stop_on_collapse else ()
    return (sys.executable, "-m", MODULE, "--stop-with-stdin", *options)


def work(argv: list[str]) -> int:
    """As `dinoscope.cli.worker.work`; a collapsed run is stopped if that is asked for."""
    known = parser(MODULE)
    known.add_argument("--stop-on-collapse", action="store_true", help="end the run when it has collapsed")
    options = parse(known, argv)

    def listeners(config: RunConfig) -> Sequence[Listener]:
        from dinoscope.study.state import StopOnCollapse

        return [StopOnCollapse()] if options.stop_on_collapse else []

    return bring(options.settings, listeners)


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:]))
