"""Which patches are like a chosen one: cosines of patch features, within an image and across images.

Also the way between pixels of an image and patches of its grid. `explain.attention.prepare` resizes an image as a
whole, so that the grid covers it exactly: the column of a pixel depends on the shares of the widths alone, not on
patch size or resized size, and the same holds for every kind of network.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope.errors import UserError


def patch_at(point: tuple[int, int], size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """The patch (row, column) that holds the centre of a pixel.

    point: (x, y) of the original image, from (0, 0) at the upper left.
    size: (height, width) of the original image. grid: (rows, columns).

    Raises UserError for a point outside of the image.
    """
    (x, y), (height, width), (rows, columns) = point, size, grid
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f"the point {x},{y} lies outside of the image, which is {width} x {height} px: "
            f"x is 0 to {width - 1}, y is 0 to {height - 1}"
        )
    # whole numbers, so that no rounding decides on which side of an edge a centre lies
    return (2 * y + 1) * rows // (2 * height), (2 * x + 1) * columns // (2 * width)


def patch_box(
    patch: tuple[int, int], size: tuple[int, int], grid: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Edges (left, top, right, bottom) of a patch (row, column), in pixels of the original image."""
    (row, column), (height, width), (rows, columns) = patch, size, grid
    return column * width / columns, row * height / rows, (column + 1) * width / columns, (row + 1) * height / rows


def similarity_maps(
    queries: Float[Tensor, "q d"], patches: Float[Tensor, "rows columns d"]
) -> Float[Tensor, "q rows columns"]:
    """Cosine of the angle between each query's features and each patch's, -1 to 1; 0 where features are all 0."""
    ours, theirs = F.normalize(queries, dim=-1), F.normalize(patches, dim=-1)
    return (theirs @ ours.T).permute(2, 0, 1)
