"""Containers: a million images indexed and opened, a tar next to a folder, and the first step of a large folder.

    python benchmarks/containers.py index [--images 1000000]
    python benchmarks/containers.py speed --data FOLDER [--repeats 5]
    python benchmarks/containers.py first-step [--images 200000]

index: a tar of small JPEGs made on the spot; time of the first opening and of the next ones, each in a fresh process,
and memory. speed: up to 10,000 images of a folder read and decoded in random order, from the folder and from a tar of
it, in turn. first-step: a folder of hard links in 100 classes, with a warm disk: seconds from the command to the first
step.
Everything is made in a temporary folder (`TMPDIR`), cache included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from taking_turns import measure

OPEN = """
import json, resource, sys, time
from pathlib import Path

import numpy as np
from dinoscope.data.finding import find_images

def private():
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Private_Dirty"].split()[0]) * 1024

before, begin = private(), time.perf_counter()
images = find_images(Path(sys.argv[1]))
opened = time.perf_counter() - begin
index = images.index
size = sum(file.stat().st_size for file in index.folder.iterdir())
begin = time.perf_counter()
for place in np.random.default_rng(0).permutation(len(images))[:10000]:
    images.read(int(place)), images.keys[int(place)], images.labels[int(place)]
read = time.perf_counter() - begin
print(json.dumps({"images": len(images), "classes": len(images.classes), "opened_s": opened, "index_bytes": size,
                  "private_bytes": private() - before, "read_10000_s": read}))
"""


def jpeg(seed: int) -> bytes:
    """A small photograph-like picture: about 700 bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    return file.getvalue()


def run(program: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, "-c", program, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def index(images: int, folder: Path) -> None:
    place, pictures = folder / "images.tar", [jpeg(seed) for seed in range(100)]
    with tarfile.open(place, "w") as archive:
        for number in range(images):
            content = pictures[number % 100]
            member = tarfile.TarInfo(f"class{number % 100:02d}/{number:08d}.jpg")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
            archive.members = []
    print(f"a tar of {images:,} images, {place.stat().st_size / 1e9:.2f} GB")
    for title in ("first opening", "second opening", "third opening"):
        result = run(OPEN, str(place))
        count = result["images"]
        print(
            f"{title}: {result['opened_s']:.2f} s for {count:,} images in {result['classes']} classes; index "
            f"{result['index_bytes'] / count:.0f} bytes an image, memory of the process itself "
            f"{result['private_bytes'] / count:.0f}; 10,000 random images read in {result['read_10000_s']:.2f} s"
        )


def speed(data: Path, repeats: int, folder: Path) -> None:
    from dinoscope.data.finding import find_images

    place = folder / "images.tar"
    with tarfile.open(place, "w") as archive:
        for file in sorted(data.rglob("*")):
            if file.is_file():
                archive.add(file, file.relative_to(data).as_posix())
    sources = {"folder": find_images(data), "tar": find_images(place)}
    order = np.random.default_rng(0).permutation(len(sources["folder"]))[:10_000]

    def read(name: str) -> None:
        for index in order:
            sources[name].read(int(index))

    read("folder")
    result = measure({name: lambda name=name: read(name) for name in sources}, repeats)
    for name, row in result.items():
        print(f"{name:7} {len(order) / row['wall_s']:8.0f} images/s, {len(order) / row['cpu_s']:8.0f} by CPU time")
    print(f"tar / folder: {result['folder']['cpu_s'] / result['tar']['cpu_s']:.3f} by CPU time")


def first_step(images: int, folder: Path) -> None:
    data = folder / "images"
    first = folder / "picture.jpg"
    for number in range(images):
        if number % 100 == 0:
            first = folder / f"picture-{number // 100 % 100}.jpg"
            if not first.exists():
                first.write_bytes(jpeg(number // 100))
        place = data / f"class{number % 100:02d}"
        if number < 100:
            place.mkdir(parents=True)
        os.link(first, place / f"{number:08d}.jpg")
    command = [sys.executable, "-m", "dinoscope", "train", "--data", str(data), "--recipe", "dino_small_images_cpu"]
    command += ["--device", "cpu", "--log-every", "1", "--epochs", "2"]
    for title in ("first run", "second run"):
        out, begin = folder / f"run-{title[:5]}", time.perf_counter()
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen([*command, "--out", str(out)], stdout=log, stderr=log)
            while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").stat().st_size:
                if process.poll() is not None:
                    raise SystemExit((folder / "log.txt").read_text())
                time.sleep(0.05)
            seconds = time.perf_counter() - begin
            process.kill()
            process.wait()
        print(f"{title}: {seconds:.1f} s from the command to the first step on {images:,} files")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["index", "speed", "first-step"])
    parser.add_argument("--images", type=int)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["DINOSCOPE_CACHE"] = str(folder / "cache")
        if arguments.what == "index":
            index(arguments.images or 1_000_000, folder)
        elif arguments.what == "speed":
            speed(arguments.data, arguments.repeats, folder)
        else:
            first_step(arguments.images or 200_000, folder)


if __name__ == "__main__":
    main()
