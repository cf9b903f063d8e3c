"""What a run folder records of machine, versions and time."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime

import pytest

import dinoscope
from dinoscope import system
from dinoscope.errors import UserError
from dinoscope.system import commit
from dinoscope.training.loop import train
from dinoscope.training.run_folder import MACHINE, read_sessions
from tests.conformance import cases


def test_a_run_records_its_machine_its_images_and_how_long_it_took(picture_folder, tmp_path):
    config = cases.run_config("dino", picture_folder(12, classes=3), tmp_path / "run", epochs=1)
    train(config)
    (session,) = read_sessions(tmp_path / "run")
    assert session.machine == system.machine(cases.torch.device("cpu")).name
    assert (session.images, session.classes, session.first_step) == (12, 3, 0)
    assert session.total_steps == session.steps_per_epoch == 12 // config.batch_size
    assert session.seconds is not None
    assert 0 < session.seconds < 600
    assert datetime.fromisoformat(session.started).tzinfo is not None
    assert session.versions["dinoscope"] == dinoscope.__version__
    assert session.versions["torch"] == cases.torch.__version__.partition("+")[0]


def test_a_resumed_run_has_a_record_of_each_start(picture_folder, tmp_path):
    config = cases.run_config("dino", picture_folder(12), tmp_path / "run", epochs=1)
    train(config)
    train(config, resume=True)
    first, second = read_sessions(tmp_path / "run")
    assert second.first_step == first.total_steps


def test_runs_from_before_have_none_and_a_damaged_record_is_said(tmp_path):
    assert read_sessions(tmp_path) == ()
    (tmp_path / MACHINE).write_text("{")
    with pytest.raises(UserError, match=MACHINE):
        read_sessions(tmp_path)
    (tmp_path / MACHINE).write_text(json.dumps({"sessions": [{"started": 1}]}))
    with pytest.raises(UserError, match=MACHINE):
        read_sessions(tmp_path)


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_of_the_sources_and_says_whether_they_were_changed(tmp_path, monkeypatch):
    package = tmp_path / "project" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(dinoscope, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(system, "_installed_commit", lambda: None)
    assert commit() is None  # not in git
    git(tmp_path / "project", "init", "-q")
    assert commit() is None  # beside a project that is, as in its virtual environment
    git(tmp_path / "project", "add", ".")
    git(tmp_path / "project", "commit", "-qm", "first")
    head = git(tmp_path / "project", "rev-parse", "HEAD")
    assert commit() == head
    (package / "__init__.py").write_text("changed = True\n")
    assert commit() == head + "-changed"
