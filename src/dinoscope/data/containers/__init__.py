"""The kinds of files that hold many images, by name."""

from dinoscope.data.containers import parquet, tar, zip
from dinoscope.data.containers.container import Container

CONTAINERS: dict[str, Container] = {"tar": tar.CONTAINER, "zip": zip.CONTAINER, "parquet": parquet.CONTAINER}
