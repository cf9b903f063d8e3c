"""Fixtures for all tests. Shapes in signatures are checked while the tests run (jaxtyping's import hook)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

import tests.typechecking  # noqa: F401 (the hook looks it up by name)

install_import_hook("dinoscope", "tests.typechecking.check")

import cv2  # noqa: E402
import torch  # noqa: E402

from tests.pictures import draw_picture as draw_picture  # noqa: E402
from tests.pictures import write_pictures  # noqa: E402
from tests.plain_process import PlainProcess  # noqa: E402

torch.set_num_threads(1)
cv2.setNumThreads(1)

# The same examples everywhere, and no clock: neither chance nor a busy machine decides whether a test passes.
# `pytest --hypothesis-profile=search` draws new ones.
settings.register_profile("fixed", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache and key."""
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("DINOSCOPE_GROUP_KEY_FILE", str(tmp_path_factory.mktemp("config") / "group.key"))


@pytest.fixture(scope="session")
def plain_process() -> Iterator[PlainProcess]:
    """A process without these checks of types."""
    process = PlainProcess()
    yield process
    process.end()


@pytest.fixture
def picture_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of small pictures: `picture_folder(12, classes=3, split="train", size=(32, 40))`."""

    def make(
        count: int, *, classes: int = 0, split: str = "", size: tuple[int, int] = (32, 40), name: str = "pictures"
    ) -> Path:
        return write_pictures(tmp_path / name, count, classes=classes, split=split, size=size)

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests are skipped, with the reason, where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
