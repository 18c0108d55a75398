"""Sampling at places that the data says: grids, regions of interest, boxes."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.registry import Floats, Ints, Weight, op
from onnxqat.bridge.ops.window import Sizes
from onnxqat.core.errors import ModelError

_GRID_MODES = {
    "bilinear": "bilinear",
    "linear": "bilinear",
    "nearest": "nearest",
    "bicubic": "bicubic",
    "cubic": "bicubic",
}


@op("GridSample", versions=(16,))
def grid_sample_16(
    X: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> Tensor:
    return grid_sample(X, grid, align_corners=align_corners, mode=mode, padding_mode=padding_mode)


@op("GridSample", versions=(20, 22))
def grid_sample(
    X: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Tensor:
    return functional.grid_sample(X, grid, _GRID_MODES[mode], padding_mode, bool(align_corners))


@op("AffineGrid", versions=(20,))
def affine_grid(theta: Tensor, size: Ints, *, align_corners: int = 0) -> Tensor:
    return functional.affine_grid(theta, list(size), bool(align_corners))


@op("DeformConv", versions=(19, 22))
def deform_conv(
    X: Tensor,
    W: Weight,
    offset: Tensor,
    B: Weight | None = None,
    mask: Tensor | None = None,
    *,
    dilations: Sizes | None = None,
    group: int = 1,
    kernel_shape: Sizes | None = None,
    offset_group: int = 1,
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    """Dai et al. 2017: each weight meets the input where its offset says, bilinearly, 0 outside."""
    if X.ndim != 4:
        raise ModelError(f"DeformConv over {X.ndim - 2} spatial axes is not implemented")
    n, channels, cells = X.shape[0], X.shape[1], W.shape[2] * W.shape[3]
    out = tuple(offset.shape[2:])
    moves = offset.reshape(n * offset_group, cells, 2, *out)
    grid = _kernel_places(
        W.shape[2:], out, strides=strides or (1, 1), dilations=dilations or (1, 1), device=X.device
    )
    start = torch.tensor((pads or (0, 0))[:2], device=X.device).reshape(2, 1, 1)
    images = X.reshape(n * offset_group, channels // offset_group, *X.shape[2:])
    sampled = _bilinear(images, (grid - start + moves).unbind(2))
    sampled = sampled.reshape(n, offset_group, channels // offset_group, cells, *out)
    if mask is not None:
        sampled = sampled * mask.reshape(n, offset_group, 1, cells, *out)
    columns = sampled.reshape(n, group, -1, out[0] * out[1])
    weights = W.reshape(group, W.shape[0] // group, -1)
    y = (weights @ columns).reshape(n, W.shape[0], *out)
    return y if B is None else y + B.reshape(-1, 1, 1)


def _bilinear(images: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Images [n, channels, height, width] at rows and columns [n, *places]; 0 outside of them.

    Exact where a place is a pixel, which coordinates in units of the image are not.
    """
    height, width = images.shape[2:]
    flat = images.flatten(2)
    rows, columns = (place.flatten(1) for place in places)
    top, left = rows.detach().floor(), columns.detach().floor()
    total = flat.new_zeros(())
    for row, row_weight in ((top, top + 1 - rows), (top + 1, rows - top)):
        for column, weight in ((left, left + 1 - columns), (left + 1, columns - left)):
            is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            spread = index.to(torch.int64).unsqueeze(1).expand(-1, flat.shape[1], -1)
            total = total + flat.gather(2, spread) * (row_weight * weight * is_inside).unsqueeze(1)
    return total.reshape(*images.shape[:2], *places[0].shape[1:])


def _kernel_places(
    kernel: Sequence[int], out: Sizes, *, strides: Sizes, dilations: Sizes, device: torch.device
) -> Tensor:
    """Row and column [cells, 2, *out] that each weight meets in the padded input."""
    axes = [
        torch.arange(k, device=device).unsqueeze(1) * d + torch.arange(o, device=device) * s
        for k, o, s, d in zip(kernel, out, strides, dilations, strict=True)
    ]
    rows = axes[0].reshape(kernel[0], 1, out[0], 1).expand(kernel[0], kernel[1], *out)
    columns = axes[1].reshape(1, kernel[1], 1, out[1]).expand(kernel[0], kernel[1], *out)
    return torch.stack((rows, columns), 2).flatten(0, 1)


@op("RoiAlign", versions=(10,))
def roi_align_10(
    X: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    return roi_align(
        X,
        rois,
        batch_indices,
        coordinate_transformation_mode="output_half_pixel",
        mode=mode,
        output_height=output_height,
        output_width=output_width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )


@op("RoiAlign", versions=(16, 22))
def roi_align(
    X: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    half_pixel = coordinate_transformation_mode == "half_pixel"
    boxes = (rois * spatial_scale - (0.5 if half_pixel else 0.0)).flip(1)  # rows before columns
    start, extent = boxes[:, 2:], boxes[:, :2] - boxes[:, 2:]
    if not half_pixel:
        extent = extent.clamp(min=1.0)
    bins = (output_height, output_width)
    images = batch_indices.to(torch.int64)
    if sampling_ratio > 0:
        each = (sampling_ratio, sampling_ratio)
        return _pooled(X, images, start, extent, bins=bins, samples=each, mode=mode)
    widths = extent.detach() / torch.tensor(bins, device=X.device)
    y = X.new_zeros(len(rois), X.shape[1], *bins)
    for samples, which in _alike(torch.ceil(widths).clamp(min=0).to(torch.int64)).items():
        if 0 in samples:  # a region that ends before it starts
            continue
        index = torch.tensor(which, device=X.device)
        part = _pooled(
            X, images[index], start[index], extent[index], bins=bins, samples=samples, mode=mode
        )
        y = y.index_put((index,), part)
    return y


def _alike(counts: Tensor) -> dict[Sizes, list[int]]:
    """The rows of counts that are equal, by their value; waits for the device."""
    groups: dict[Sizes, list[int]] = {}
    for i, row in enumerate(counts.tolist()):
        groups.setdefault(tuple(row), []).append(i)
    return groups


def _pooled(
    X: Tensor,
    images: Tensor,
    start: Tensor,
    extent: Tensor,
    *,
    bins: Sizes,
    samples: Sizes,
    mode: str,
) -> Tensor:
    """Regions [regions, channels, *bins] with the same number of samples in each bin."""
    axes = [
        _sample_places(start[:, a], extent[:, a], bins[a], samples[a], X.shape[2 + a])
        for a in (0, 1)
    ]
    corners = []
    for row, row_weight in axes[0]:
        for column, weight in axes[1]:
            values = X[images[:, None, None], :, row.unsqueeze(2), column.unsqueeze(1)]
            weights = row_weight.unsqueeze(2) * weight.unsqueeze(1)
            corners.append(values * weights.unsqueeze(3))
    cells = torch.stack(corners)  # corner, region, bin, sample, bin, sample, channel
    cells = cells.reshape(4, len(images), bins[0], samples[0], bins[1], samples[1], X.shape[1])
    if mode == "max":
        return cells.amax((0, 3, 5)).movedim(-1, 1)
    return cells.sum(0).mean((2, 4)).movedim(-1, 1)


def _sample_places(
    start: Tensor, extent: Tensor, bins: int, samples: int, length: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The cells before and after each sample along an axis [regions, bins × samples], weighted."""
    width = (extent / bins).reshape(-1, 1, 1)
    bin_ = torch.arange(bins, dtype=start.dtype, device=start.device).reshape(1, -1, 1)
    sample = torch.arange(samples, dtype=start.dtype, device=start.device)
    place = start.reshape(-1, 1, 1) + bin_ * width + (sample + 0.5) * width / samples
    is_inside = ((place >= -1) & (place <= length)).to(place.dtype).flatten(1)
    place = place.clamp(min=0).flatten(1)
    low = place.detach().floor().clamp(max=length - 1)
    place = torch.where(low >= length - 1, low, place)
    high = (low + 1).clamp(max=length - 1)
    after = (place - low) * is_inside
    return (low.to(torch.int64), is_inside - after), (high.to(torch.int64), after)


@op("MaxRoiPool", versions=(1, 22))
def max_roi_pool(
    X: Tensor, rois: Tensor, *, pooled_shape: Sizes, spatial_scale: float = 1.0
) -> Tensor:
    images = X[rois[:, 0].to(torch.int64)]
    corners = _rounded(rois[:, 1:] * spatial_scale)
    columns = _bins(corners[:, 0], corners[:, 2], pooled_shape[1], X.shape[3])
    rows = _bins(corners[:, 1], corners[:, 3], pooled_shape[0], X.shape[2])
    lowest = float("-inf")
    over_rows = [images.masked_fill(~r[:, None, :, None], lowest).amax(2) for r in rows.unbind(1)]
    across = torch.stack(over_rows, 2)
    bins = [across.masked_fill(~c[:, None, None], lowest).amax(3) for c in columns.unbind(1)]
    y = torch.stack(bins, 3)
    return torch.where(y == lowest, torch.zeros_like(y), y)  # a bin outside of the image


def _rounded(x: Tensor) -> Tensor:
    """Half away from 0, as C rounds."""
    return torch.where(x < 0, torch.ceil(x - 0.5), torch.floor(x + 0.5))


def _bins(start: Tensor, end: Tensor, count: int, length: int) -> Tensor:
    """Whether a cell belongs to a bin of a region [regions, bins, cells]."""
    width = ((end - start + 1).clamp(min=1) / count).unsqueeze(1)
    bin_ = torch.arange(count, device=start.device)
    low = torch.floor(bin_ * width) + start.unsqueeze(1)
    high = torch.ceil((bin_ + 1) * width) + start.unsqueeze(1)
    cell = torch.arange(length, device=start.device)
    return (cell >= low.unsqueeze(2)) & (cell < high.unsqueeze(2))


@op("NonMaxSuppression", versions=(10, 11))
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: Ints | None = None,
    iou_threshold: Floats | None = None,
    score_threshold: Floats | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    most = max_output_boxes_per_class[0] if max_output_boxes_per_class else 0
    limit = iou_threshold[0] if iou_threshold else 0.0
    lowest = score_threshold[0] if score_threshold else None
    chosen = []
    for image in range(boxes.shape[0]):
        overlap = (_overlaps(_corners(boxes[image], bool(center_point_box))) > limit).cpu()
        for class_ in range(scores.shape[1]):
            order = _candidates(scores[image, class_], lowest)
            kept = _greedy(order, overlap, most)
            chosen += [(image, class_, box) for box in kept]
    return torch.tensor(chosen, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _candidates(scores: Tensor, lowest: float | None) -> list[int]:
    """Boxes by falling score; the earlier first where scores are equal."""
    order = scores.sort(descending=True, stable=True).indices
    if lowest is not None:
        order = order[scores[order] > lowest]
    ordered: list[int] = order.tolist()
    return ordered


def _greedy(order: list[int], overlap: Tensor, most: int) -> list[int]:
    kept: list[int] = []
    for box in order:
        if len(kept) >= most:
            break
        if not overlap[box, kept].any():
            kept.append(box)
    return kept


def _corners(boxes: Tensor, is_centred: bool) -> Tensor:
    """Boxes as the smallest and the largest corner [boxes, 2, 2]."""
    first, second = boxes.reshape(-1, 2, 2).unbind(1)
    if is_centred:
        first, second = first - second / 2, first + second / 2
    return torch.stack((torch.minimum(first, second), torch.maximum(first, second)), 1)


def _overlaps(corners: Tensor) -> Tensor:
    """Intersection over union of each two boxes; 0 for boxes without area."""
    low, high = corners.unbind(1)
    shared = torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)
    intersection = shared.clamp(min=0).prod(-1)
    area = (high - low).prod(-1)
    union = area[:, None] + area - intersection
    is_box = (area[:, None] > 0) & (area > 0) & (union > 0) & (intersection > 0)
    return torch.where(is_box, intersection / union, torch.zeros_like(union))
