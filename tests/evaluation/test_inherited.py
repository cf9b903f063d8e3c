"""Evaluations of a run take its groups and its split, so that they measure on what it did not see."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dinoscope import cli
from dinoscope.data.groups import own_key
from dinoscope.data.sources import split_images
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Context, inherited, labelled_images
from dinoscope.evaluation.compare import gather
from dinoscope.evaluation.knn import KNNConfig
from dinoscope.model_names import Model, load_model
from dinoscope.places import joined
from dinoscope.remote import remote_path
from dinoscope.training.loop import train
from tests.conformance import cases

PATTERN = r"(\d)\.png"


def run_of(data: Path, name: str = "a", **settings: Any) -> Model:
    """A model as if it had been trained on the data; its weights do not matter."""
    return replace(load_model("pixels"), name=name, run=data / name, settings={"data": str(data), **settings})


def taken(context: Context) -> tuple[object, object]:
    return context.group, context.split


@pytest.fixture
def data(picture_folder) -> Path:
    return picture_folder(40, classes=2)


def test_groups_and_split_are_those_of_the_run(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, others = run_of(data, group=PATTERN, split=0.6), [load_model("pixels"), run_of(data / "..", "b", split=0.5)]
    assert taken(inherited(Context(), [run], data)) == (PATTERN, 0.6)
    assert caplog.messages == [
        f"measured as a was trained: --group '{PATTERN}' --split 0.6 (--group none, --split none: without)"
    ]
    assert taken(inherited(Context(), [run, *others], data / "class0" / "..")) == (PATTERN, 0.6)
    assert taken(inherited(Context(split="none"), [run], data)) == (PATTERN, "none")
    assert taken(inherited(Context(group="none", split=0.5), [run], data)) == ("none", 0.5)
    assert taken(inherited(Context(group=PATTERN), [run], data)) == (PATTERN, 0.6)
    assert taken(inherited(Context(), [run_of(data), run_of(data, split=None)], data)) == (None, None)
    assert taken(inherited(Context(), [run], None)) == (None, None)
    for group in ("none", "(.)"):
        with pytest.raises(UserError, match="makes another split than that of a"):
            inherited(Context(group=group), [run], data)


def test_headers_of_the_run_are_headers_that_are_given(data: Path) -> None:
    run = run_of(data, group=f"header:patient#{own_key().name}", split=0.6)
    for context in (Context(), Context(group="header:patient"), Context(group="header:patient", split=0.6)):
        assert taken(inherited(context, [run], data)) == (run.settings["group"], 0.6), "the key must be that of the run"
    with pytest.raises(UserError, match="makes another split"):
        inherited(Context(group="header:study"), [run], data)


def test_other_data_have_their_own(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    moved = shutil.copytree(data, tmp_path / "moved")
    assert taken(inherited(Context(), [run_of(data, split=0.6)], moved)) == (None, None)
    assert caplog.messages == [f"a: the split of its data, {data} (--split 0.6), is not taken for {moved}"]
    caplog.clear()
    for context in (Context(split=0.6), Context(split="none")):
        assert inherited(context, [run_of(data, split=0.6)], moved) == context
    assert inherited(Context(), [run_of(data, group="(x)")], moved) == Context()
    assert not caplog.messages


def test_runs_that_differ_are_refused(data: Path) -> None:
    runs = [run_of(data, split=0.6), run_of(data, "b", split=0.8), run_of(data, "c")]
    with pytest.raises(UserError) as caught:
        inherited(Context(), runs, data)
    assert "(a: --split 0.6; b: --split 0.8; c: neither): give both, for all" in str(caught.value)
    assert taken(inherited(Context(split=0.5), runs, data)) == (None, 0.5)
    assert taken(inherited(Context(split="none"), runs, data)) == (None, "none")


def test_a_val_split_comes_before_the_split_of_the_run(picture_folder) -> None:
    picture_folder(6, classes=2, split="train")
    train_alone = picture_folder(6, classes=2, split="train")
    run = run_of(train_alone, group=PATTERN, split=0.5)
    for place in (train_alone, train_alone / "train"):
        context = inherited(Context(), [run], place)
        assert taken(context) == (PATTERN, 0.5)
        known, queries = labelled_images(place, context)
        assert queries is not None
        assert len(known) + len(queries) == 6
    both = picture_folder(4, classes=2, split="val")
    assert taken(inherited(Context(), [run], both)) == (PATTERN, None)


# From end to end


def test_the_commands_measure_on_the_rest(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    train(cases.run_config("dino", data, run, epochs=1, group=PATTERN, split=0.6))

    def protocol(*options: str) -> dict[str, Any]:
        line = ["knn", "--model", str(run), "--data", str(data), "--ks", "3", "--device", "cpu", "--json", *options]
        assert cli.main(line) == 0, capsys.readouterr()
        return json.loads(capsys.readouterr().out)["protocol"]

    usual = protocol()
    images = labelled_images(data, Context(group=PATTERN))[0]
    rest = split_images(images, 0.6)[1]
    assert (usual["group"], usual["split"], usual["query_images"]) == (PATTERN, 0.6, len(rest))
    assert sum("as run was trained" in text.replace(str(run), "run") for text in caplog.messages) == 1
    whole = protocol("--split", "none")
    assert (whole["group"], whole.get("split"), whole["query_images"]) == (PATTERN, None, 40)
    assert not {"group", "split"} & protocol("--split", "none", "--group", "none").keys()
    assert cli.main(["knn", "--model", str(run), "--data", str(data), "--group", "none"]) == 2
    assert "makes another split" in capsys.readouterr().err
    for command in (
        ["compare", str(run), "--out", str(tmp_path / "compared")],
        ["report", str(run), "--out", str(tmp_path / "report.html"), "--no-pictures"],
    ):
        shutil.rmtree(run / "evaluations")
        caplog.clear()
        options = ["--data", str(data), "--no-baselines", "--skip", "throughput", "linear", "--device", "cpu"]
        assert cli.main([*command, *options]) == 0, capsys.readouterr()
        assert sum("was trained" in text for text in caplog.messages) == 1
        (kept,) = (run / "evaluations").iterdir()
        kept_protocol = json.loads(kept.read_text())["protocol"]
        assert (kept_protocol["group"], kept_protocol["split"]) == (PATTERN, 0.6)


def test_runs_without_common_data_are_each_measured_on_their_own(
    picture_folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, runs = {"knn": (None, KNNConfig(ks=(3,)))}, []
    for name, split in (("first", 0.5), ("second", None)):
        data = picture_folder(20, classes=2, name=name)
        train(cases.run_config("dino", data, tmp_path / f"run-{name}", epochs=1, split=split))
        runs.append(load_model(str(tmp_path / f"run-{name}")))
    context = Context(workers=0, cached=False)

    def splits(models: list[Model], data: Path | None = None) -> list[object]:
        entries = [entry for row in gather(models, data, wanted, context=context).rows for entry in row.entries]
        return [entry.measurements["knn"].protocol.get("split") for entry in sorted(entries, key=lambda one: one.run)]

    assert splits(runs) == [0.5, None]
    assert splits(runs[:1]) == [0.5]
    assert splits(runs, tmp_path / "second") == [None, None]
    assert splits(runs, tmp_path / "first") == [0.5, 0.5]
    shutil.rmtree(tmp_path / "first")
    assert splits(runs[:1]) == [0.5], "kept results need no images"


def test_addresses_and_several_places_have_those_of_their_run(picture_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    picture_folder(8, classes=2, split="one")
    root = picture_folder(8, classes=2, split="two")
    one, two = root / "one", root / "two"
    run = run_of(joined([one, two]), split=0.6)
    for both in (joined([one, two]), joined([two, one])):
        assert taken(inherited(Context(), [run], both)) == (None, 0.6)
    assert taken(inherited(Context(), [run], one)) == (None, None)
    address = remote_path("https://host.invalid/images.tar")
    monkeypatch.setenv("DINOSCOPE_OFFLINE", "1")  # so nobody is asked which splits it has
    assert taken(inherited(Context(), [run_of(address, split=0.6)], address)) == (None, 0.6)
