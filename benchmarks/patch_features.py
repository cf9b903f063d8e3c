"""Features of every patch of a clip as zarr: `dinoscope embed --patches`, next to dinotool if it is there, in turn.

    python benchmarks/patch_features.py [--dinotool PYTHON] [--frames 72] [--batch-size 8] [--repeats 3]
        [--threads 1] [--network NAME]

--dinotool: Python of an environment with dinotool 0.2.2 and timm. Its pipeline runs as it is, except that instead of
weights from the net it is given timm's network of the same shape with random weights, ViT-S/14 with registers, as ours;
so both have torch's fused attention. Whole commands are measured, each a fresh process: wall and CPU time, the largest
memory, and the bytes written. The clip is drawn; features are those of 17 x 30 patches a frame.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

from dinoscope.scenes import ScenesConfig, write_scenes

NETWORK = "vit_small_patch14_reg4_dinov2"
SIZE, GIVEN = (240, 426), (238, 420)  # height and width: of a frame, and as the network is given it

THEIRS = """
import sys
import timm
import dinotool.cli as command

def random_model(name):
    model = timm.create_model(sys.argv.pop(1), pretrained=False, dynamic_img_size=True)
    model.patch_size, forward, prefix = 14, model.forward_features, model.num_prefix_tokens
    model.forward_features = lambda images: {"x_norm_patchtokens": forward(images)[:, prefix:]}
    return model

network = sys.argv[1]
parse = command.ArgumentParser.parse
def parse_rest(self):
    sys.argv.remove(network)
    config = parse(self)
    sys.argv.insert(1, network)
    return config
command.ArgumentParser.parse = parse_rest
command.load_model = random_model
command.main()
"""


def draw_clip(folder: Path, frames: int) -> Path:
    write_scenes(
        folder / "scenes",
        ScenesConfig(
            train_per_class=0, val_per_class=0, voc_images=0, davis_sequences=1, davis_frames=frames, davis_size=SIZE
        ),
    )
    path = folder / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 12, SIZE[::-1])
    for file in sorted((folder / "scenes" / "DAVIS" / "JPEGImages").rglob("*.jpg")):
        writer.write(cv2.imread(str(file)))
    writer.release()
    return path


def timed(command: list[str], folder: Path, threads: int) -> dict[str, float]:
    """Run a command in `folder`; return wall and CPU seconds and the largest memory in MB."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **limits, "CUDA_VISIBLE_DEVICES": ""}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed:\n{told.decode()[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall": time.perf_counter() - begin, "cpu": cpu, "megabytes": usage.ru_maxrss / 1024}


def written(out: Path) -> int:
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dinotool", type=Path)
    parser.add_argument("--network", default=NETWORK)
    parser.add_argument("--frames", type=int, default=72)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = draw_clip(folder, given.frames)
        batch = ["--batch-size", str(given.batch_size)]
        ours = ["embed", "--patches", "--model", f"random:{given.network}", "--data", str(clip), "--out", "ours.zarr"]
        size = ["--image-size", str(GIVEN[0]), "--device", "cpu"]
        sides = {"ours": [sys.executable, "-m", "dinoscope", *ours, *size, *batch]}
        if given.dinotool is not None:
            theirs = [str(clip), "-o", "dinotool.zarr", "--no-vis", "--save-features", "full", "--input-size"]
            theirs += [str(GIVEN[1]), str(GIVEN[0]), *batch]
            sides["dinotool"] = [str(given.dinotool), "-c", THEIRS, given.network, *theirs]
        results: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(given.repeats):
            for side, command in sides.items():
                shutil.rmtree(folder / f"{side}.zarr", ignore_errors=True)
                results[side].append(
                    {**timed(command, folder, given.threads), "bytes": written(folder / f"{side}.zarr")}
                )
                print(side, json.dumps(results[side][-1]), flush=True)
    for side, runs in results.items():
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        rate = given.frames / medians["wall"]
        print(f"{side}: {json.dumps({key: round(value, 1) for key, value in medians.items()})}, {rate:.2f} frames/s")


if __name__ == "__main__":
    main()
