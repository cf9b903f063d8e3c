"""The collapse monitor on made-up scalars; RankMe and the spread of features by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dinoscope.methods.dino import DINO, DINOConfig
from dinoscope.methods.health import feature_standard_deviation, moments, rank_me, standard_deviation_of
from dinoscope.models.backbone import BackboneConfig
from dinoscope.training import trainer as trainer_module
from dinoscope.training.loop import CollapseMonitor
from tests.conformance import cases

LN_K = math.log(1024)
METHOD = DINO(
    DINOConfig(out_dim=1024, hidden_dim=8, bottleneck_dim=8), BackboneConfig("vit_micro_conv8", image_size=32)
)
HEALTHY = {"cross_entropy": 0.6 * LN_K, "teacher_entropy": 0.3 * LN_K, "teacher_marginal_entropy": 0.9 * LN_K}
ONE_OUTPUT = {"cross_entropy": 0.01, "teacher_entropy": 0.001, "teacher_marginal_entropy": 0.01}
UNIFORM = {"cross_entropy": LN_K, "teacher_entropy": 0.999 * LN_K, "teacher_marginal_entropy": 0.999 * LN_K}


def verdicts(*phases: tuple[dict[str, float], int], patience: int = 100, window: int = 20) -> list[tuple[int, str]]:
    """(step, verdict) of a run made of phases (scalars, steps)."""
    monitor = CollapseMonitor(METHOD.diagnose, patience=patience, window=window)
    steps = [values for values, count in phases for _ in range(count)]
    judged = [(step, monitor.judge(values)) for step, values in enumerate(steps, start=1)]
    return [(step, verdict.text) for step, verdict in judged if verdict is not None]


def test_a_healthy_run_is_left_in_peace() -> None:
    assert verdicts((HEALTHY, 500)) == []


def test_one_output_is_said_once_and_not_before_patience() -> None:
    ((step, verdict),) = verdicts((ONE_OUTPUT, 500))
    assert step == 100
    assert "collapsed to one output" in verdict
    assert "of 6.93 nats" in verdict
    assert "--method.teacher-temperature" in verdict


def test_uniform_is_said_once_and_not_before_patience() -> None:
    ((step, verdict),) = verdicts((UNIFORM, 500))
    assert step == 100
    assert "stuck at the uniform output" in verdict
    assert "ln K is 6.931" in verdict
    assert "--method.teacher-temperature" in verdict


def test_every_run_may_begin_uniform() -> None:
    assert verdicts((UNIFORM, 99), (HEALTHY, 400)) == []


def test_a_verdict_rests_on_a_whole_window() -> None:
    """Patience shorter than the window: the window is waited for."""
    ((step, _),) = verdicts((ONE_OUTPUT, 100), patience=3, window=20)
    assert step == 20


def test_a_run_that_goes_on_has_waited_before() -> None:
    """Only the window is made anew: not the patience."""
    monitor = CollapseMonitor(METHOD.diagnose, patience=100, window=20, steps=90)
    told = [step for step in range(91, 200) if monitor.judge(ONE_OUTPUT) is not None]
    assert told == [110]


def test_a_few_bad_steps_are_no_collapse() -> None:
    assert verdicts((HEALTHY, 200), (ONE_OUTPUT, 10), (HEALTHY, 200)) == []


def test_a_collapse_late_in_the_run_is_seen() -> None:
    ((step, verdict),) = verdicts((HEALTHY, 300), (ONE_OUTPUT, 100))
    assert 300 < step <= 320
    assert "collapsed to one output" in verdict


def test_both_kinds_are_said_where_both_happen() -> None:
    said = [verdict for _, verdict in verdicts((UNIFORM, 200), (ONE_OUTPUT, 200))]
    assert ["uniform" in said[0], "one output" in said[1]] == [True, True]
    assert len(said) == 2


def test_a_collapse_whose_figures_drift_is_still_said_once() -> None:
    """The sentence names the figures of the moment; it is the kind of collapse that is said once."""
    drifting = [({**UNIFORM, "cross_entropy": LN_K + 0.01 * number}, 30) for number in range(10)]
    assert len(verdicts(*drifting)) == 1


@pytest.mark.parametrize(("share", "end"), [(0.3, "one output"), (0.8, "the uniform output")])
def test_a_constant_output_between_the_ends_is_told(share: float, end: str) -> None:
    """Every image has the same output, of half of its entropy, say; the loss may be anything."""
    constant = {"cross_entropy": 1.2 * LN_K, "teacher_entropy": share * LN_K, "teacher_marginal_entropy": share * LN_K}
    ((step, verdict),) = verdicts((constant, 500))
    assert step == 100
    assert f"the same answer, nearer to {end} (its entropy is {share * LN_K:.3f} of 6.93 nats" in verdict


def test_an_output_that_tells_a_little_is_not_constant() -> None:
    """0.2 % of ln K: a run that begins to learn."""
    begun = {"cross_entropy": 0.99 * LN_K, "teacher_entropy": 0.9 * LN_K, "teacher_marginal_entropy": 0.902 * LN_K}
    assert verdicts((begun, 500)) == []


def test_sharp_targets_at_ln_k_are_not_uniform() -> None:
    """The loss may stand above ln K while the teacher is sharp: the student is bad, not uniform."""
    assert verdicts(({**UNIFORM, "teacher_entropy": 0.2 * LN_K}, 300)) == []


def test_rank_me_of_features_on_a_line_is_one() -> None:
    assert rank_me(torch.outer(torch.linspace(1, 2, 10), torch.tensor([3.0, -4.0, 0.0]))) == pytest.approx(1, abs=1e-4)


def test_rank_me_of_orthonormal_features_is_their_number() -> None:
    assert rank_me(torch.eye(5, 8)) == pytest.approx(5, rel=1e-4)
    assert rank_me(torch.eye(8)) == pytest.approx(8, rel=1e-4)


def test_rank_me_by_hand() -> None:
    """Singular values 3 and 1, shares 3/4 and 1/4: exp(-(3/4 ln 3/4 + 1/4 ln 1/4)) = 4 / 3^(3/4)."""
    assert rank_me(torch.tensor([[3.0, 0.0], [0.0, 1.0]])) == pytest.approx(4 / 3**0.75, rel=1e-5)


def test_feature_spread_of_equal_features_is_zero() -> None:
    assert float(feature_standard_deviation(torch.tensor([[1.0, 2.0]]).repeat(4, 1))) == pytest.approx(0, abs=1e-6)


def test_feature_spread_looks_at_directions_only() -> None:
    assert float(feature_standard_deviation(torch.tensor([[1.0, 2.0], [10.0, 20.0]]))) == pytest.approx(0, abs=1e-6)


def test_feature_spread_by_hand() -> None:
    """e1, e2: each column is (1, 0), of deviation 1/2, times sqrt 2. With -e1, -e2 too: 1/sqrt 2, times sqrt 2."""
    assert float(feature_standard_deviation(torch.eye(2))) == pytest.approx(math.sqrt(2) / 2)
    assert float(feature_standard_deviation(torch.cat([torch.eye(2), -torch.eye(2)]))) == pytest.approx(1)


def test_the_window_keeps_the_newest_features(picture_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trainer_module, "WINDOW_IMAGES", 5)
    trainer = cases.trainer(cases.run_config("dino", picture_folder(8), tmp_path / "run"))
    for number in range(4):
        trainer._remember(torch.full((3, 2), float(number), requires_grad=True))
    features = trainer.recent_features()
    # two batches of three are the fewest that hold five
    assert features[:, 0].tolist() == [2, 2, 2, 3, 3, 3]
    assert not features.requires_grad


def test_moments_of_parts_give_the_spread_of_the_whole() -> None:
    """Each part has its own mean: the mean of their spreads would be far too small."""
    generator = torch.Generator().manual_seed(0)
    parts = [offset + 0.1 * torch.randn(4, 3, 8, generator=generator) for offset in torch.eye(8)[:4]]
    whole = standard_deviation_of(torch.stack([moments(part) for part in parts]).mean(dim=0))
    assert float(whole) == pytest.approx(float(feature_standard_deviation(torch.cat(parts))), rel=1e-4)
    assert float(whole) > 2 * float(torch.stack([feature_standard_deviation(part) for part in parts]).mean())
    assert float(standard_deviation_of(moments(torch.ones(5, 8)))) < 0.001
