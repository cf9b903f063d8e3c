"""Numbers that no machine can use are refused by name, before anything starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dinoscope.cli import main
from dinoscope.config import changed, check_numbers, from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.evaluation.knn import KNNConfig
from dinoscope.recipes import run_config
from dinoscope.training.config import RunConfig, check
from tests.conformance import cases


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    rates: tuple[float, ...] = (0.1, 0.2)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    seed: int = 0
    batch_size: int = 10**9
    note: str | None = None


def test_good_numbers_pass() -> None:
    check_numbers(Outer())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Outer(Inner(rate=math.inf)), "--inner.rate must be a finite number, not inf"),
        (Outer(Inner(rates=(0.1, math.nan))), "--inner.rates must be a finite number, not nan"),
        (Outer(seed=2**63), "--seed must be from 0 to 9223372036854775807, not 9223372036854775808"),
        (Outer(seed=-1), "--seed must be from 0 to"),
    ],
    ids=["inf", "nan", "too-large", "negative"],
)
def test_others_are_named(settings: Outer, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_numbers(settings)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["knn", "--model", "m", "--data", "d", "--workers", "1000000"],
            "--workers must be from -1 to 1024, not 1",
        ),
        (["linear", "--model", "m", "--data", "d", "--workers", "-7"], "--workers must be from -1 to 1024, not -7"),
        (["throughput", "--model", "m", "--threads", "-1"], "--threads must be from 0 to 1024, not -1"),
        (
            ["davis", "--model", "m", "--data", "d", "--temperature", "nan"],
            "--temperature must be a finite number",
        ),
        (["segment", "--model", "m", "d", "--mass", "inf"], "--mass must be a finite number"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_refuse_before_they_look_at_anything(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": math.inf}, "--epochs must be a finite number, not inf"),
        ({"epochs": math.nan}, "--epochs must be a finite number, not nan"),
        ({"threads": -1}, "--threads must be from 0"),
        ({"workers": 10**6}, "--workers must be from -1"),
        ({"seed": 10**30}, "--seed must be from 0"),
        ({"std": (0.2, 0.0, 0.2)}, "--std must be above 0 in each channel, not 0.2 0.0 0.2"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_run_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    config = RunConfig(tmp_path, tmp_path / "run", cases.DINO, "vit_micro_conv8", views=cases.VIEWS, batch_size=4)
    with pytest.raises(UserError, match=message):
        check(replace(config, **changes), images=100, processes=1)


def test_a_setting_keeps_its_earlier_name_for_one_release() -> None:
    config = run_config("quickstart", Path("data"), Path("out"))
    assert changed(config, {"method.balance": "none"}) == changed(config, {"method.centering": "none"})
    stored = to_dict(config)
    stored["method"]["balance"] = stored["method"].pop("centering")
    assert from_dict(RunConfig, stored, "config.json") == config


def test_a_list_of_any_length() -> None:
    assert changed(KNNConfig(), {"ks": [20]}).ks == (20,)
    assert changed(KNNConfig(), {"ks": (1, 2, 3)}).ks == (1, 2, 3)
    with pytest.raises(UserError, match="ks must be a whole number, not 'two'"):
        changed(KNNConfig(), {"ks": [1, "two"]})
    with pytest.raises(UserError, match="ks must be a list of values, each a whole number, not 20"):
        changed(KNNConfig(), {"ks": 20})
