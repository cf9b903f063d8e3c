"""`dinoscope.study.effects`: values by size, the baseline in its place, and the same in tables, figures and words."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from dinoscope.report.ablation import axis_bars, axis_curves
from dinoscope.report.charts import BASELINE as BLACK
from dinoscope.study.definition import Variant
from dinoscope.study.effects import AblationResult, arrange
from dinoscope.study.reading import axis_table
from tests.study.studies import BASE, full_run, run


def result(axis: str, *variants: Variant, own: Variant | None = None) -> AblationResult:
    runs = tuple(full_run(variant, seed, 30.0) for variant in (BASE, *variants) for seed in range(2))
    return AblationResult("s", "", BASE, {axis: axis}, runs, 256, {}, {} if own is None else {axis: own})


def sizes(*values: float) -> list[Variant]:
    return [Variant("batch", f"{value:g} images", {"batch_size": value, "drop_path": -value}) for value in values]


def names(found: AblationResult) -> list[str]:
    """Of the rows of the only axis's table."""
    (axis,) = arrange(found).axes
    (section,) = axis_table(axis).sections
    return [row.cells[0] for row in section.rows]


def test_numbers_stand_by_size_with_the_base_among_them() -> None:
    own = Variant("batch", "64", {"batch_size": 64})
    found = result("batch", *sizes(256, 32, 1024), own=own)
    assert names(found) == ["32 images", "64 (baseline)", "256 images", "1024 images"]
    assert names(result("batch", *sizes(256, 32), own=Variant("batch", "", {"batch_size": 512}))) == [
        "32 images",
        "256 images",
        "DINO (baseline)",
    ]
    assert names(result("batch", *sizes(256, 32))) == ["DINO (baseline)", "32 images", "256 images"]  # place not known


def test_what_is_no_number_stays_in_the_order_of_the_study() -> None:
    words = [Variant("loss", name, {"method.loss": name}) for name in ("mse", "kl")]
    assert names(result("loss", *words, own=Variant("loss", "cross_entropy", {"method.loss": "cross_entropy"}))) == [
        "cross_entropy (baseline)",
        "mse",
        "kl",
    ]
    switches = [Variant("norm", "yes", {"norm": True}), Variant("norm", "no", {"norm": False})]
    assert names(result("norm", *switches)) == ["DINO (baseline)", "yes", "no"]
    several = [Variant("part", "b", {"b": 2}), Variant("part", "a", {"a": 1})]
    assert names(result("part", *several)) == ["DINO (baseline)", "b", "a"]
    grid = [Variant("b x c", f"{b} x 1", {"b": b, "c": 1}) for b in (2, 1)]
    assert names(result("b x c", *grid)) == ["DINO (baseline)", "2 x 1", "1 x 1"]


def test_figures_have_the_order_of_the_table() -> None:
    (axis,) = arrange(result("batch", *sizes(256, 32, 1024), own=Variant("batch", "64", {"batch_size": 64}))).axes
    wanted = ["32 images", "64 (baseline)", "256 images", "1024 images"]
    bars = axis_bars(axis)
    assert bars is not None
    assert [text.get_text() for text in bars.axes[0].get_yticklabels()] == wanted
    assert [bar.get_facecolor()[:3] == (0, 0, 0) for bar in bars.axes[0].patches] == [False, True, False, False]
    curves = axis_curves(axis)
    assert curves is not None
    legend = legend_of(curves)
    assert [name for name, _ in legend] == wanted
    assert [color == BLACK for _, color in legend] == [False, True, False, False]


def test_a_variant_may_be_called_like_the_base() -> None:
    same = Variant("batch", "baseline", {"batch_size": 32})
    study = arrange(result("batch", same, *sizes(256), own=Variant("batch", "baseline", {"batch_size": 64})))
    curves = axis_curves(study.axes[0])
    assert curves is not None
    assert [(name, color == BLACK) for name, color in legend_of(curves)] == [
        ("baseline", False),
        ("baseline", True),
        ("256 images", False),
    ]


def legend_of(figure: Figure) -> list[tuple[str, object]]:
    (legend,) = figure.legends
    return [
        (text.get_text(), line.get_color()) for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    ]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, unique=True), st.floats(allow_nan=False))
@settings(max_examples=100, deadline=None)
def test_the_base_divides_the_smaller_from_the_larger(values: list[float], own: float) -> None:
    runs = tuple(run(variant, 0, 1.0) for variant in (BASE, *sizes(*values)))
    base = Variant("batch", "", {"batch_size": own})
    (axis,) = arrange(AblationResult("s", "", BASE, {}, runs, None, {}, {"batch": base})).axes
    found = [group.variant.settings["batch_size"] for group in axis.groups]
    assert axis.ordered
    assert found == sorted(values)
    if abs(own) == float("inf"):
        assert axis.place == 0
        return
    assert all(value < own for value in found[: axis.place])
    assert all(value >= own for value in found[axis.place :])
