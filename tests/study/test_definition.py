"""`dinoscope.study.definition`, `settings_change` and `study_file`: what a study may say, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.errors import UserError
from dinoscope.recipes import run_config
from dinoscope.study.definition import (
    Axis,
    StudyDefinition,
    Variant,
    axis_titles,
    parse_study,
    read_study,
    resolve,
    slug,
    study_of,
    to_toml,
    variants_of,
)
from dinoscope.training.config import RunConfig

TEXT = """
title = "Sizes and balance"
recipe = "quickstart"
seeds = [0, 1]

[baseline]
epochs = 4
method.out_dim = 256
views.global_scale = [0.25, 1.0]

[axes.batch]
title = "Batch size (Table 9)"
setting = "batch_size"
values = [32, 64]

[axes.balance]
values = [
    { label = "centring", method.centering = "center" },
    { method.centering = "none", "method.koleo" = 0 },
]
"""


def resolved(text: str) -> tuple[RunConfig, list[tuple[Variant, RunConfig]], dict[str, str]]:
    """The baseline, the variants and the titles of the axes."""
    study = parse_study(text, "sizes", "sizes.toml")
    (_, baseline), *variants = resolve(study, Path("data"), Path("out"))
    return baseline, variants, axis_titles(study)


def test_a_file_becomes_settings() -> None:
    baseline, variants, titles = resolved(TEXT)
    assert (baseline.epochs, baseline.method.out_dim, baseline.views.global_scale) == (4.0, 256, (0.25, 1.0))
    assert isinstance(baseline.epochs, float)
    assert [(variant.axis, variant.label) for variant, _ in variants] == [
        ("batch", "32"),
        ("batch", "64"),
        ("balance", "centring"),
        ("balance", "none, 0"),
    ]
    batch, balance = variants[0][1], variants[3][1]
    assert (batch.batch_size, batch.method) == (32, baseline.method)
    assert (balance.batch_size, balance.method.centering, balance.method.koleo) == (baseline.batch_size, "none", 0.0)
    assert titles == {"batch": "Batch size (Table 9)", "balance": "balance"}


def test_a_grid_of_millions_is_refused_before_it_is_made() -> None:
    axes = tuple(
        Axis(name, name, tuple(Variant(name, str(value), {name: value}) for value in range(200)))
        for name in ("epochs", "batch_size", "log_every")
    )
    with pytest.raises(UserError, match="the grid has 8,000,000 runs; at most 10,000 are taken"):
        variants_of(StudyDefinition("large", "large", axes=axes, mode="grid"))


def test_a_grid_has_every_combination() -> None:
    _, variants, titles = resolved(TEXT.replace("seeds", 'mode = "grid"\nseeds'))
    assert [(variant.axis, variant.label) for variant, _ in variants] == [
        ("batch x balance", f"{size} x {balance}") for size in (32, 64) for balance in ("centring", "none, 0")
    ]
    assert [config.method.centering for _, config in variants] == ["center", "none"] * 2
    assert titles == {"batch x balance": "Batch size (Table 9) x balance"}


def test_listed_combinations_take_the_rest_from_the_base() -> None:
    text = TEXT.replace("seeds", 'mode = "listed"\nseeds')
    text += '[[combinations]]\nbatch = "64"\nbalance = "none, 0"\n[[combinations]]\nbatch = "32"\n'
    _, variants, _ = resolved(text)
    assert [(variant.axis, variant.label) for variant, _ in variants] == [
        ("batch x balance", "64 x none, 0"),
        ("batch", "32"),
    ]
    assert [config.batch_size for _, config in variants] == [64, 32]


REFUSALS = {
    "unknown setting": (
        "out_dim",
        "out_dimm",
        "sizes.toml, baseline: there is no setting 'method.out_dimm'; did you mean",
    ),
    "group": ("method.out_dim", "method", "there is no setting 'method'"),
    "text for a number": ("= 256", '= "256"', "baseline: method.out_dim must be a whole number, not '256'"),
    "fraction for a whole number": ("= 256", "= 2.5", "method.out_dim must be a whole number, not 2.5"),
    "truth for a number": ("[32", "[true", "value 'yes': batch_size must be a whole number, not True"),
    "not a number": ("epochs = 4", "epochs = nan", "epochs must be a finite number"),
    "choice": (
        '"center"',
        '"centre"',
        "axis balance, value 'centring': there is no value of method.centering 'centre'; did",
    ),
    "out of range": ("= 256", "= 1", "out_dim must be at least 2"),
    "length": ("[0.25, 1.0]", "[0.25]", "views.global_scale must be a list of 2 values, each a number"),
    "range": ("[0.25, 1.0]", "[1.0, 0.25]", "global_scale is (1.0, 0.25)"),
    "given elsewhere": ('"batch_size"', '"seed"', "seed cannot be set here: `seeds` lists"),
    "unknown key": ("[baseline]", "[baselin]", "sizes.toml: there is no key 'baselin'; did you mean baseline"),
    "unknown key of an axis": (
        "setting =",
        "settings =",
        "[axes.batch]: there is no key 'settings'; did you mean setting",
    ),
    "no values": ("values = [32, 64]", "", "[axes.batch]: values are missing"),
    "no setting": ('setting = "batch_size"', "", "value 1 is 32: name the `setting`"),
    "value twice": ("[32, 64]", "[32, 32]", "axis batch: the label '32' is given twice"),
    "labels alike": ('"centring"', '"None (0)"', "'None (0)' and 'none, 0' are too alike"),
    "no label": ('"centring"', '"?!"', "the label '?!' has neither letters nor digits"),
    "recipe": ('"quickstart"', '"quickstar"', "sizes.toml: there is no recipe 'quickstar'; did you mean quickstart"),
    "mode": ("seeds", 'mode = "gird"\nseeds', "there is no mode 'gird'; did you mean grid"),
    "combinations missing": ("seeds", 'mode = "listed"\nseeds', "mode = 'listed' and combinations go together"),
    "seed": ("[0, 1]", "[-1]", "a seed is a whole number from 0 up"),
    "seed twice": ("[0, 1]", "[1, 1]", "the seed '1' is given twice"),
    "no seeds": ("[0, 1]", "[]", "seeds must be one or more"),
    "syntax": ("[32, 64]", "[32, 64", "is not valid TOML"),
    "backbone": ('"batch_size"\nvalues = [32, 64]', '"backbone"\nvalues = ["resnet81"]', "did you mean resnet18"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_mistakes_name_the_place(name) -> None:
    before, after, words = REFUSALS[name]
    assert before in TEXT
    with pytest.raises(UserError) as error:
        resolved(TEXT.replace(before, after, 1))
    assert words in str(error.value)
    assert str(error.value).startswith("sizes.toml")
    assert "\n" not in str(error.value) or name == "syntax"


def test_axes_that_set_the_same_cannot_be_combined() -> None:
    text = TEXT.replace("seeds", 'mode = "grid"\nseeds').replace("method.centering", "batch_size = 8, method.centering")
    with pytest.raises(UserError, match="two of the axes that are combined set batch_size"):
        resolved(text)


def test_a_file_that_is_none(tmp_path) -> None:
    with pytest.raises(UserError, match=r"nothing\.toml cannot be read"):
        read_study(tmp_path / "nothing.toml")
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe9"')
    with pytest.raises(UserError, match=r"latin\.toml cannot be read"):
        read_study(tmp_path / "latin.toml")
    with pytest.raises(UserError, match="there is no axis"):
        resolve(parse_study("", "empty", "empty.toml"), tmp_path, tmp_path)


def test_a_run_is_the_baseline_of_a_study(tmp_path) -> None:
    config = run_config("quickstart", tmp_path, tmp_path)
    axes = {"batch_size": [32, 64], "views.global_scale": [(0.5, 1.0)], "form": {"narrow": {"method.hidden_dim": 64}}}
    (_, baseline), *variants = resolve(study_of(config, axes, seeds=2), Path("data"), Path("out"))
    assert baseline == replace(config, data=Path("data"), out=Path("out"))
    assert [(variant.axis, variant.label) for variant, _ in variants] == [
        ("batch_size", "32"),
        ("batch_size", "64"),
        ("views.global_scale", "0.5 to 1"),
        ("form", "narrow"),
    ]
    assert variants[2][1].views.global_scale == (0.5, 1.0)
    assert study_of(config, axes, seeds=2).seeds == (0, 1)
    assert study_of(config, axes, seeds=[7]).seeds == (7,)
    with pytest.raises(UserError, match="there is no setting 'batch_sise'; did you mean batch_size"):
        resolve(study_of(config, {"batch_sise": [1]}, seeds=1), Path("data"), Path("out"))


def test_slugs_are_names_of_folders() -> None:
    assert slug("No Centring (x 2)") == "no-centring-x-2"
    assert slug("../../etc") == "etc"
    assert slug("0.04 to 0.07") == "0.04-to-0.07"
    assert len(slug("a" * 500)) == 60


_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
_settings = st.sampled_from(
    ["batch_size", "method.out_dim", "epochs", "method.centering", "views.local_scale", "nothing"]
)
_values = st.one_of(
    st.integers(), st.floats(), st.booleans(), _names, st.lists(st.floats(0, 1), max_size=3), st.none(), st.dates()
)


@given(st.text())
@settings(max_examples=80)
def test_any_text_is_a_study_or_a_clear_error(text) -> None:
    _is_read_or_refused(text)


@given(st.text(alphabet='[]{}=.,"\n axesbatchvlu0123456789-x', max_size=200))
@settings(max_examples=120)
def test_nearly_toml_is_a_study_or_a_clear_error(text) -> None:
    _is_read_or_refused(text)


def _is_read_or_refused(text: str) -> None:
    refused = refusal(lambda: resolve(parse_study(text, "any", "any.toml"), Path("data"), Path("out")))
    assert refused is None or refused.startswith("any.toml")


def refusal(attempt: Callable[[], object]) -> str | None:
    """What a UserError says; any other exception is a failure of the test."""
    try:
        attempt()
    except UserError as error:
        return str(error)
    return None


@given(st.lists(st.tuples(_names, st.lists(st.tuples(_names, _settings, _values), max_size=3)), max_size=3))
@settings(max_examples=80)
def test_any_values_resolve_or_are_refused(axes) -> None:
    study = StudyDefinition(
        "any",
        "any",
        axes=tuple(
            Axis(name, name, tuple(Variant(name, label, {setting: value}) for label, setting, value in values))
            for name, values in axes
        ),
        source="any.toml",
    )
    refused = refusal(lambda: resolve(study, Path("data"), Path("out")))
    assert refused is None or refused.startswith("any.toml")
    if refused is None:
        assert len(resolve(study, Path("data"), Path("out"))) == 1 + len(variants_of(study)) > 1


_plain = st.one_of(st.integers(-(2**62), 2**62), st.floats(allow_nan=False), st.booleans(), _names.filter(str.strip))


@given(_names.filter(str.strip), st.lists(st.tuples(_names.filter(str.strip), _plain), min_size=1, max_size=4))
@settings(max_examples=80)
def test_what_is_written_is_read_back(title, values) -> None:
    study = StudyDefinition(
        "any",
        title,
        changes={"method.out_dim": 2, "views.local_scale": [0.1, 0.4]},
        axes=(Axis(title, title, tuple(Variant(title, label, {"batch_size": value}) for label, value in values)),),
        seeds=(3, 1),
        mode="listed",
        combinations=({title: values[0][0]},),
    )
    assert parse_study(to_toml(study), "any", "any.toml") == study


def test_numbers_and_nesting_beyond_all_limits() -> None:
    for text in (
        f"seeds = [{'9' * 5000}]",
        f"seeds = [0x{'f' * 9000}]",
        f"baseline{'.a' * 3000} = 1",
        "a = " + "[" * 3000,
    ):
        with pytest.raises(UserError, match=r"^any\.toml"):
            resolve(parse_study(text, "any", "any.toml"), Path("data"), Path("out"))
