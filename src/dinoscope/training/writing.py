"""What a run says where one of its files cannot be written: one line for the person, and the run can be resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dinoscope.errors import UserError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block (a full disk, rights that are gone) into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> UserError:
    """The line for a file of a run that could not be written."""
    return UserError(
        f"{path} could not be written: {error.strerror or error}. The run ends here; the checkpoints that it has "
        "written are whole: free space, or give the rights back, then go on with --resume"
    )
