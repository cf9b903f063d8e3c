"""A study in plain words: what is said, what is not, and that nothing makes it fall over."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dinoscope.cli.console import Console
from dinoscope.cli.studies import show_ablation as show
from dinoscope.report.ablation import markdown_text, mean_lines
from dinoscope.study.definition import Variant
from dinoscope.study.effects import LOGGED, AblationResult, AblationRun, Collapse, arrange, collapse_of, columns, stayed
from dinoscope.study.reading import axis_reading, study_reading
from dinoscope.study.results import from_json, to_json
from tests.study.studies import BASE, realistic, run, study

LN_K = math.log(256)


def said(result: AblationResult) -> list[str]:
    (axis,) = arrange(result).axes
    return axis_reading(axis)


def one(base: list[float | None], variant: list[float | None]) -> list[str]:
    return said(study(base, {("size", "32"): variant}))


def test_a_difference_is_said_with_its_interval() -> None:
    assert one([34.0, 35.0, 36.0], [30.0, 32.0, 34.0]) == [
        "32: k-NN 32.0 against 35.0, 3.0 lower (95\xa0% interval 0.5 to 5.5, 3 seeds)."  # 3 ± 4.3027 / sqrt(3)
    ]


def test_no_difference_is_claimed_where_the_interval_holds_zero() -> None:
    assert one([34.0, 35.0], [33.0, 32.0]) == [
        "32 (−2.0 [−14.7, 10.7]): no difference in k-NN that 2 seeds could show."  # 2 ± 12.706 * 1
    ]


def test_one_seed_is_never_judged() -> None:
    assert one([34.0], [11.0]) == ["32: k-NN 11.0 against 34.0, one seed: how much of −23.0 is chance cannot be told."]
    assert one([34.0, 33.0], [33.0, 32.0]) == [
        "32: k-NN 32.5 against 33.5, −1.0 with each of 2 seeds: no interval can be drawn from that."
    ]


def test_of_one_seed_the_whole_judges_nothing() -> None:
    base = Variant("", "baseline")
    runs = (run(base, 0, 34.0), run(Variant("size", "32"), 0, 11.0))
    text = "\n".join(study_reading(arrange(AblationResult("s", "", base, {}, runs))))
    assert "Baseline: k-NN 34.0." in text
    assert "Without an interval, and so without a judgement, the largest of each axis: size (32: −23.0)." in text
    assert "No effect" not in text
    assert "Effects on" not in text


def test_what_failed_or_was_not_measured_is_said() -> None:
    assert one([34.0], [None]) == ["32: no run is left; failed with seed 0."]
    assert one([34.0, 34.0], [None, 30.0])[1] == "32: failed with seed 0; left out."
    assert one([None], [30.0]) == ["32: k-NN 30.0, and no seed in common with the baseline to compare it by."]
    runs = (run(BASE, 0, 34.0), run(Variant("size", "32"), 0, None, metrics={"knn": math.nan}))
    assert said(AblationResult("s", "", BASE, {}, runs)) == ["32: k-NN was not measured."]


def test_runs_that_were_ended_early_are_said_to_be() -> None:
    runs = (run(BASE, 0, 34.0), run(Variant("size", "32"), 0, 20.0, "stopped"))
    assert said(AblationResult("s", "", BASE, {}, runs))[1:] == [
        "32: 1 run ended early by rule: left out of k-NN, and its other figures are of less training."
    ]


def collapsed(curve: str, values: list[float], **fields: Any) -> AblationResult:
    curves = {curve: tuple((100 * at, value) for at, value in enumerate(values))}
    runs = (run(BASE, 0, 34.0), run(Variant("x", "no centring"), 0, 11.2, "collapsed", curves=curves, **fields))
    return AblationResult("s", "", BASE, {}, runs, 256)


def test_the_two_collapses_are_told_apart_with_the_step_they_stayed_from() -> None:
    # 0.02 of ln 256 is 0.11: below it at step 100, out of it again, in it for good from 300 on
    (sentence,) = said(collapsed("teacher_marginal_entropy", [5.0, 0.1, 2.0, 0.1, 0.05, 0.02]))
    assert sentence.startswith(
        "no centring: the output collapses to one class by step 300 (marginal entropy 0.02 of ln K = 5.55 nats): "
        "k-NN 11.2 against 34.0, one seed"
    )
    (sentence,) = said(collapsed("teacher_entropy", [5.5, 5.5, 5.54]))  # 0.98 of ln 256 is 5.43
    assert "becomes uniform over all classes from the start (entropy 5.54 of ln K" in sentence


def test_soft_targets_that_the_student_tells_apart_are_no_collapse() -> None:
    """As training judges: 0.98 of ln 256 for the targets, and 0.995 (5.52) for the student's cross-entropy."""
    entropy = tuple((100 * at, 5.50) for at in range(5))

    def found(*losses: float) -> Collapse | None:
        loss = tuple((100 * at, value) for at, value in enumerate(losses))
        curves = {"teacher_entropy": entropy, "cross_entropy": loss}
        return collapse_of(run(BASE, 0, 34.0, curves=curves), 256)

    assert found(5.54, 5.53, 5.50, 5.50, 5.50) is None
    assert found(5.60, 5.51, 5.54, 5.54, 5.54) == Collapse("uniform", 200, first=False, value=5.50)


def test_a_dip_or_too_few_values_are_no_collapse() -> None:
    assert stayed(((0, 0.0), (1, 0.0), (2, 5.0)), -1, 0.1) is None
    assert stayed(((0, 5.0), (1, 0.0), (2, 0.0)), -1, 0.1) is None
    assert stayed(((0, 0.0), (1, math.nan), (2, 0.0), (3, 0.0)), -1, 0.1) is None
    assert stayed(((0, 0.0), (1, 0.0), (2, math.inf)), -1, math.inf) is None
    assert stayed((), -1, 0.1) is None


def test_without_k_the_state_is_believed_and_its_diagnosis_cited() -> None:
    values = collapsed("teacher_entropy", [5.5] * 5, diagnosis="The teacher gives every image the same answer.")
    (sentence,) = said(AblationResult("s", "", BASE, {}, values.runs))
    assert "marked as collapsed (The teacher gives every image the same answer): k-NN 11.2" in sentence
    assert collapse_of(values.runs[1], None) == Collapse("marked")
    assert collapse_of(AblationRun(BASE, 0, "failed", curves=values.runs[1].curves), 256) is None


def test_the_whole_is_summed_up() -> None:
    result = realistic()
    text = "\n".join(study_reading(arrange(result)))
    assert "3 axes next to the baseline; 3 seeds; 72 runs: 60 finished, 9 collapsed and 3 failed." in text
    assert "Effects on k-NN that these seeds show, the largest of each axis: collapse (neither: −" in text
    assert "collapsed; of what did not, teacher temperature 0.07: −" in text
    assert "Failed, and in no ranking: components patches of 5." in text
    assert "RankMe ranks 23 variants much as k-NN does" in text
    assert "22 intervals of 95\xa0%" in text


def test_a_base_that_collapsed_or_is_missing_is_said() -> None:
    runs = (run(BASE, 0, 11.0, "collapsed"), run(Variant("x", "y"), 0, 34.0))
    assert any(
        "baseline itself has collapsed" in text
        for text in study_reading(arrange(AblationResult("", "", BASE, {}, runs)))
    )
    assert any("nothing to compare with" in text for text in study_reading(arrange(study([None], {("x", "y"): [1.0]}))))


def test_few_variants_are_no_proof_of_a_common_order() -> None:
    runs = [run(BASE, 0, 4.0, metrics={"rank": 40.0})]
    runs += [run(Variant("x", str(n)), 0, float(n), metrics={"rank": 10.0 * n}) for n in (1, 2, 3)]
    text = "\n".join(study_reading(arrange(AblationResult("", "", BASE, {}, tuple(runs)))))
    assert "4 variants are too few to tell whether RankMe ranks them as k-NN does (Spearman's rho 1.00" in text


def test_a_mean_counts_the_seeds_of_each_step() -> None:
    first, second = mean_lines(
        "x", [((0, 1.0), (10, 2.0), (20, 3.0)), ((0, 3.0), (20, 7.0)), ((0, 2.0),)], baseline=False
    )
    assert (first.x, second.x) == ((0,), (10, 20))  # of three seeds, then of two
    assert (first.y, second.y) == ((2.0,), (3.5, 5.0))  # the second curve is 5 at step 10, between 3 and 7
    assert first.high[0] - first.y[0] == pytest.approx(1.0)
    (alone,) = mean_lines("x", [((0, 1.0), (10, 2.0))], baseline=False)
    assert (alone.y, alone.low) == ((1.0, 2.0), ())
    assert mean_lines("x", [], baseline=False) == []


numbers = st.floats(-1e9, 1e9) | st.sampled_from([math.nan, math.inf, -math.inf])
drawn = st.tuples(
    st.sampled_from(["1", "2", "[b]", "|"]),
    st.sampled_from(["", "size", "x × y"]),
    st.integers(0, 3),
    st.sampled_from(["finished", "collapsed", "stopped", "failed"]),
    st.sampled_from(["", "It ended.", "[red]"]),
    st.dictionaries(st.sampled_from([*columns(), *LOGGED]), numbers),
    st.dictionaries(
        st.sampled_from(["teacher_entropy", "teacher_marginal_entropy", "loss"]),
        st.lists(st.tuples(st.integers(0, 50), numbers), max_size=6).map(tuple),
    ),
)


def run_of(label: str, axis: str, *rest: Any) -> AblationRun:
    """Made in the test, not by the strategy: the check of its types draws random numbers of its own."""
    return AblationRun(
        Variant(axis, label if axis else "baseline", {"method.out_dim": 1} if label == "[b]" else {}), *rest
    )


@settings(max_examples=30, phases=(Phase.explicit, Phase.generate))
@given(
    st.lists(drawn, max_size=8, unique_by=lambda run: (run[0] if run[1] else "baseline", run[1], run[2])),
    st.sampled_from([None, 1, 2, 256]),
)
def test_nothing_makes_the_reading_fall_over(values: list[tuple[Any, ...]], outputs: int | None) -> None:
    every = [run_of(*each) for each in values]
    result = AblationResult("s", "t", Variant("", "baseline"), {"size": "Size"}, tuple(every), outputs)
    arranged = arrange(result)
    text = markdown_text(arranged, [], {axis.name: "a" for axis in arranged.axes})
    show(result, Console(file=io.StringIO(), width=80))
    again = from_json(to_json(result), "file")
    assert to_json(again) == to_json(result)
    assert not re.search(r"\b(nan|inf)\b", text)
    if len({run.seed for run in every}) < 2:
        assert " lower (" not in text
        assert " higher (" not in text
