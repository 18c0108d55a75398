import threading
import time

import pytest
import torch

from onnxqat.core.errors import DataError
from onnxqat.training.batches import Loader, prefetch
from onnxqat.training.setting import choose_memory_format
from onnxqat.training.sharding import Share
from tests.support.students import Images

CPU = torch.device("cpu")
LOADER = Loader(("image",), CPU)


def take(data: Images, count: int, *, batch_size: int, ahead: int = 0, seed: int = 0) -> list:
    steps = LOADER.steps(data, batch_size, share=Share(), seed=seed, ahead=ahead)
    taken = [next(steps).parts[0] for _ in range(count)]
    steps.close()
    return taken


def test_an_epoch_shows_every_sample_once_and_the_next_in_another_order() -> None:
    data = Images(samples=8)
    first, second, third, fourth = (b.inputs[0] for b in take(data, 4, batch_size=4))
    everything = torch.from_numpy(data.images).sum(dim=(1, 2, 3)).sort().values
    assert torch.equal(torch.cat([first, second]).sum(dim=(1, 2, 3)).sort().values, everything)
    assert torch.equal(torch.cat([third, fourth]).sum(dim=(1, 2, 3)).sort().values, everything)
    assert not torch.equal(first, third)


def test_the_last_smaller_batch_of_an_epoch_is_left_out() -> None:
    assert [b.samples for b in take(Images(samples=10), 6, batch_size=4)] == [4] * 6


def test_data_smaller_than_a_batch_is_one_batch() -> None:
    assert [b.samples for b in take(Images(samples=3), 2, batch_size=4)] == [3, 3]


def test_data_without_a_sample_is_refused() -> None:
    with pytest.raises(DataError, match="no sample"):
        take(Images(samples=0), 1, batch_size=4)


def test_batches_prepared_ahead_are_the_same_ones() -> None:
    data = Images(samples=16)
    plain = take(data, 6, batch_size=4)
    ahead = take(data, 6, batch_size=4, ahead=3)
    assert all(torch.equal(a.inputs[0], b.inputs[0]) for a, b in zip(plain, ahead, strict=True))


def test_no_more_is_prepared_than_was_asked() -> None:
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    batches = prefetch(items(), ahead=2)
    next(batches)
    time.sleep(0.2)
    batches.close()
    assert len(made) <= 4  # one taken, two waiting, one in the thread's hand


def test_an_error_in_the_thread_is_raised_where_the_batch_was_wanted() -> None:
    def items():
        yield 1
        raise DataError("sample 7 is spoiled")

    batches = prefetch(items(), ahead=2)
    assert next(batches) == 1
    with pytest.raises(DataError, match="sample 7"):
        next(batches)


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    batches = prefetch(iter(range(100)), ahead=2)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_images_lie_channels_last_where_that_is_wanted_with_the_same_values() -> None:
    shape = ("image",)
    plain = Loader(shape, torch.device("cpu"))
    last = Loader(shape, torch.device("cpu"), memory_format=torch.channels_last)
    (ours,), (theirs,) = (next(loader.in_order(Images(), 8, 8)).inputs for loader in (last, plain))
    assert torch.equal(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert theirs.is_contiguous()


def test_channels_last_is_chosen_for_a_cpu_or_where_asked() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_memory_format("auto", cpu) is torch.channels_last
    assert choose_memory_format("auto", cuda) is torch.contiguous_format
    assert choose_memory_format("channels_last", cuda) is torch.channels_last
    assert choose_memory_format("contiguous", cpu) is torch.contiguous_format
