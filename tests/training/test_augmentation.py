"""What is done to images before a step: each by itself, the same in every process and run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnxqat.core.errors import ConfigError
from onnxqat.core.signature import InputSpec
from onnxqat.data import Batch
from onnxqat.training import FinetuneConfig, finetune
from onnxqat.training.augmentation import augmented
from tests.support.students import Images, student_and_teacher, values_of

SPEC = InputSpec("image", "float32", ("batch", 3, 8, 8))
LAST = InputSpec("image", "float32", ("batch", 8, 8, 3))


class Numbered:
    """One batch of images of which every pixel is told from every other, and their labels."""

    size, has_labels = 64, True

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.images = np.arange(64 * np.prod(shape), dtype=np.float32).reshape(64, *shape)

    def batches(
        self, batch_size: int, *, samples: int | None = None, seed: int | None = None
    ) -> Iterator[Batch]:
        for first in range(0, 64, batch_size):
            part = slice(first, first + batch_size)
            inputs = {"image": self.images[part], "other": self.images[part, 0]}
            yield Batch(inputs, np.arange(64)[part], batch_size)


def changed(spec: InputSpec, *changes: str, seed: int = 0) -> np.ndarray:
    data = augmented(Numbered(spec.shape[1:]), changes, (spec,))
    read = list(data.batches(16, seed=seed))
    assert np.array_equal(np.concatenate([batch.labels for batch in read]), np.arange(64))
    plain = np.concatenate([batch.inputs["other"] for batch in read])
    assert np.array_equal(plain, Numbered(spec.shape[1:]).images[:, 0])
    return np.concatenate([batch.inputs["image"] for batch in read])


def test_a_flip_mirrors_about_half_of_the_images_left_to_right() -> None:
    before, after = Numbered((3, 8, 8)).images, changed(SPEC, "flip")
    kept = [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    flipped = [np.array_equal(a[:, :, ::-1], b) for a, b in zip(before, after, strict=True)]
    assert all(a != b for a, b in zip(kept, flipped, strict=True))
    assert 16 <= sum(flipped) <= 48


def test_a_shift_is_one_of_torchs_mirrored_crops() -> None:
    """By an eighth of 8 pixels: one step in each direction, all nine of which are drawn."""
    import torch

    before, after = Numbered((3, 8, 8)).images, changed(SPEC, "shift")
    wide = torch.nn.functional.pad(torch.from_numpy(before), (1, 1, 1, 1), mode="reflect").numpy()
    seen = set()
    for image, moved in zip(wide, after, strict=True):
        crops = {(y, x): image[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)}
        seen |= {place for place, crop in crops.items() if np.array_equal(crop, moved)}
        assert any(np.array_equal(crop, moved) for crop in crops.values())
    assert len(seen) == 9


def test_channels_may_come_last() -> None:
    first = changed(SPEC, "flip", "shift")
    data = Numbered((8, 8, 3))
    data.images = np.moveaxis(Numbered((3, 8, 8)).images, 1, -1)
    read = augmented(data, ("flip", "shift"), (LAST,)).batches(16, seed=0)
    last = np.concatenate([batch.inputs["image"] for batch in read])
    assert np.array_equal(np.moveaxis(last, -1, 1), first)


def test_each_epoch_and_each_batch_draws_its_own_and_again_the_same() -> None:
    one, again, other = (changed(SPEC, "shift", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    offsets = one - Numbered((3, 8, 8)).images
    assert not np.array_equal(offsets[:16], offsets[16:32])


def test_without_an_image_it_is_refused() -> None:
    sound = InputSpec("sound", "float32", ("batch", 98, 40))
    maps = InputSpec("maps", "float32", ("batch", 64, 8, 8))
    with pytest.raises(ConfigError, match="no input is an image"):
        augmented(Images(), ("flip",), (sound, maps))


def test_without_changes_the_data_is_left_alone() -> None:
    data = Images()
    assert augmented(data, (), (SPEC,)) is data


def test_the_steps_see_changed_images_and_the_validation_does_not() -> None:
    def run(*augment: str) -> tuple[list[float | None], float, dict[str, np.ndarray]]:
        student, teacher = student_and_teacher()
        config = FinetuneConfig(steps=4, batch_size=32, validate_every=4, augment=augment)
        tuned = finetune(student, teacher, Images(samples=64), config=config)
        assert tuned.history[0].validation is not None
        losses = [record.loss for record in tuned.history]
        return losses, tuned.history[0].validation.loss, values_of(tuned.module)

    plain, plain_start, _ = run()
    losses, start, values = run("flip", "shift")
    assert losses[1] != plain[1]
    assert start == plain_start
    _, _, again = run("flip", "shift")
    assert all(np.array_equal(values[name], again[name]) for name in values)
