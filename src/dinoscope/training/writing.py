"""What a run says where one of its files cannot be written: one line for the person, and the run can be resumed."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from dinoscope.errors import UserError

GO_ON = (
    "The run ends here; the checkpoints that it has written are whole: free space, or give the rights back, then go "
    "on with --resume"
)


@contextlib.contextmanager
def writing(path: Path, then: str = GO_ON) -> Iterator[None]:
    """Turn an OSError of the block (a full disk, rights that are gone) into a UserError that names the file.

    then: what it means for the run, and what to do.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, then) from error


def unwritable(path: Path, error: OSError, then: str = GO_ON) -> UserError:
    """The line for a file of a run that could not be written."""
    return UserError(f"{path} could not be written: {error.strerror or error}. {then}")


def is_full(error: OSError) -> bool:
    """Whether a disk or a quota is full. Safetensors gives the words alone."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or "quota" in str(error)
