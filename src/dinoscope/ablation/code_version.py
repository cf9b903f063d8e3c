"""Which code made a result: the package's version, and the commit where it runs from a checkout."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import dinoscope


@functools.cache
def code_version() -> str:
    """Such as "0.5.0, commit 1a2b3c4d5e6f", "... with changes" where files of the checkout were changed since."""
    commit = commit_of(Path(dinoscope.__file__).resolve().parent)
    return dinoscope.__version__ if commit is None else f"{dinoscope.__version__}, commit {commit}"


def commit_of(package: Path) -> str | None:
    """The commit of the checkout whose src/ holds this package; None where it is installed, or git is missing.

    Another project's checkout, in whose environment the package is installed, says nothing of this code.
    """
    root = _git(package, "rev-parse", "--show-toplevel")
    if not root or package != Path(root).resolve() / "src" / package.name:
        return None
    commit = _git(package, "rev-parse", "--short=12", "HEAD")
    changed = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{commit} with changes" if commit and changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        found = subprocess.run(("git", *arguments), cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
