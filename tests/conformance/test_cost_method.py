"""A new method costs one file and one registry line: with these it trains, and every part of the project knows it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dinoscope

LINE = '    "supervised": supervised.METHOD,\n'

FILE = '''
"""Alignment and uniformity (Wang & Isola 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dinoscope.methods import method
from dinoscope.methods.method import Method, MethodConfig, Outputs, by_view, view_features
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class AlignConfig(MethodConfig):
    """Settings of alignment and uniformity.

    uniformity: weight of the second term.
    """

    uniformity: float = 1.0


class Align(Method):
    """One network: views of an image are near each other, images are spread over the sphere."""

    additive = False

    def __init__(self, config: AlignConfig, backbone: BackboneConfig) -> None:
        super().__init__()
        self.config, self.backbone = config, build_backbone(backbone)

    def encode(self, views: Views) -> Outputs:
        return by_view({"features": view_features(self.backbone, views)}, views)

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        features = F.normalize(outputs["features"].float(), dim=-1)
        alignment = (features[0] - features[1]).square().sum(dim=-1).mean()
        uniformity = torch.pdist(features.flatten(0, 1)).square().mul(-2).exp().mean().log()
        return StepOutput(alignment + self.config.uniformity * uniformity, {"alignment": alignment.detach()})


METHOD = method.MethodEntry(
    config=AlignConfig,
    build=Align,
    display=method.Display("Alignment", "#123456", {"method.uniformity": (1.0, "weighted otherwise")}),
    year=2030,
    recipes={"align_tiny": method.Recipe("For a test.", {"backbone": "vit_micro_conv8", "views": "scenes"})},
)
'''

DRIVER = """
import json, sys
from dinoscope.cli import main, schema
from dinoscope.methods import DISPLAY
from dinoscope.recipes import RECIPES
from dinoscope.report.charts import color_of

schema.FILE.write_text(schema.text())  # a generated file
data, run, out = sys.argv[1:]
small = "--epochs 2 --batch-size 8 --optimizer.warmup-epochs 0 --device cpu --workers 0 --threads 1 --log-every 1"
codes = [
    main(["train", "--recipe", "align_tiny", "--data", data, "--out", run, "--method.uniformity", "2", *small.split()]),
    main(["train", "--method", "align", "--data", data, "--out", run + "-again", "--backbone", "resnet_micro"]
         + ["--drop-path", "0", "--views", "scenes", *small.split()]),
    main(["compare", run, "--data", data, "--out", out, "--skip", "linear", "throughput"]),
]
print(json.dumps({"codes": codes, "shown": list(DISPLAY), "recipes": list(RECIPES), "color": color_of("Alignment")}))
"""


def test_a_method_is_one_file_and_one_line(picture_folder, tmp_path: Path) -> None:
    source = tmp_path / "src" / "dinoscope"
    shutil.copytree(Path(dinoscope.__file__).parent, source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "methods" / "align.py").write_text(FILE)
    registry = source / "methods" / "__init__.py"
    text = registry.read_text()
    assert text.count(LINE) == 1
    imports = "from dinoscope.methods.method import "
    text = text.replace(imports, f"from dinoscope.methods import align\n{imports}", 1)
    text = text.replace(LINE, f'{LINE}    "align": align.METHOD,\n')
    registry.write_text(text)

    data = picture_folder(16, classes=2, split="train")
    picture_folder(8, classes=2, split="val")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(data), str(tmp_path / "run"), str(tmp_path / "compared")],
        env={**os.environ, "PYTHONPATH": str(source.parent)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["codes"] == [0, 0, 0], done.stderr
    assert found["shown"][-1] == "align"  # the newest method is the last row
    assert {"align_tiny", "align_small_images"} <= set(found["recipes"])

    settings = json.loads((tmp_path / "run" / "config.json").read_text())["run"]
    assert settings["method"] == {"kind": "AlignConfig", "uniformity": 2.0}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "alignment" in line] == [0, 1, 2, 3]
    table = (tmp_path / "compared" / "comparison.md").read_text()
    assert "Alignment" in table
    assert "weighted otherwise (2)" in table
    assert found["color"] == "#123456"
