"""Which models a published table is made of, and which figures they are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from dinoscope.evaluation import compare
from dinoscope.evaluation.davis import PUBLISHED
from dinoscope.models.pretrained import CATALOGUE
from dinoscope.study.definition import study_files
from dinoscope.study.reproduce import PROBES, TABLES
from dinoscope.study.targets import OTHER_WEIGHTS, OWN_CLASSIFIER, TABLE_2, Target, chosen, row_key


def targets(table: str, models: Sequence[str] = (), linear: str | None = "linear") -> list[Target]:
    _, figures = TABLES[f"{table}-table"]
    return chosen(models, study_files()[f"{table}-table"]["models"], lambda target: figures(target, linear))


def test_imagenet_takes_the_figures_of_the_very_weights_and_marks_those_of_others() -> None:
    found = {each.name: {f.evaluation: f for f in each.figures} for each in targets("imagenet")}
    for name in ("dino_vits16", "dino_vits8", "dino_vitb16", "dino_vitb8", "dino_resnet50"):
        knn, linear = found[name]["knn"], found[name]["linear"]
        assert (knn.published, linear.published) == (CATALOGUE[name].knn, CATALOGUE[name].linear)
        assert knn.note == linear.note == ""
    byol = found["byol_resnet50"]
    # OpenMMLab published a linear figure of these weights; the paper's k-NN is of the authors'.
    assert (byol["linear"].published, byol["linear"].note) == (71.8, "")
    assert (byol["knn"].published, byol["knn"].source, byol["knn"].note) == (64.8, TABLE_2, OTHER_WEIGHTS)
    assert found["deit_small"]["knn"].published == 79.8
    assert found["deit_small"]["knn"].note == OWN_CLASSIFIER


def test_any_released_model_may_be_named_and_the_probe_left_out() -> None:
    every = targets("imagenet", tuple(CATALOGUE), None)
    assert [each.name for each in every] == list(CATALOGUE)
    assert {each.evaluations for each in every} == {("knn",)}
    published = {each.name: each.figures[0].published for each in every}
    assert published["dinov2_vits14"] == 79.0
    assert published["deit_tiny"] is None
    assert targets("imagenet", ("dino_vits16",), "linear-reference")[0].evaluations == ("knn", "linear-reference")


def test_jaccard_of_the_three_kinds() -> None:
    found = {each.name: each.figures[0].published for each in targets("voc")}
    assert found == {
        "random:dino_vits16": 22.0,
        "deit_small": 27.3,
        "dino_vits16": 45.9,
        "random:dino_vits8": 21.8,
        "dino_vits8": 44.7,
    }
    others = targets("voc", ("moco_v3_vits16", "dino_resnet50", "random:dino_vitb16"))
    assert [each.figures[0].published for each in others] == [None, None, None]


def test_davis_has_every_published_row() -> None:
    found = [tuple(figure.published for figure in each.figures) for each in targets("davis")]
    assert sorted(found) == sorted((row["jf_mean"], row["j_mean"], row["f_mean"]) for row in PUBLISHED.values())
    assert {figure.published for figure in targets("davis", ("swav_resnet50",))[0].figures} == {None}


def test_rows_that_nobody_released_are_named() -> None:
    released = {row_key(release) for release in CATALOGUE.values()}
    missing = [row for row in compare.PUBLISHED if (row.method, row.architecture) not in released]
    names = ", ".join(f"{compare.METHOD_NAMES[row.method]} {row.architecture}" for row in missing)
    assert study_files()["imagenet-table"]["missing"] == names == "MoCo v2 ViT-S/16, BYOL ViT-S/16, SwAV ViT-S/16"


def test_all_tables_make_targets_for_every_probe() -> None:
    for table in TABLES:
        for probe in PROBES.values():
            assert len(targets(table.removesuffix("-table"), (), probe)) > 3
