import numpy as np
import pytest

from onnxqat.core.errors import ConfigError
from onnxqat.data import Batch
from onnxqat.training.sharding import Share


def batch(samples: int) -> Batch:
    """Samples numbered from 0; `state` has them along its axis 1, `table` has none."""
    numbers = np.arange(samples)
    state = np.stack([numbers, -numbers])
    return Batch({"x": numbers, "state": state, "table": np.arange(3)}, numbers, samples)


AXES = {"state": 1, "table": None}


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("micro_batch", [None, 2, 100])
def test_the_shares_of_all_processes_make_up_the_step(world, micro_batch) -> None:
    shares = [Share(rank, world, micro_batch).of([batch(7)], AXES) for rank in range(world)]
    parts = [part for share in shares for part in share]
    assert np.concatenate([part.inputs["x"] for part in parts]).tolist() == list(range(7))
    assert all(len(part.inputs["x"]) == part.samples for part in parts)
    assert all(part.samples <= (micro_batch or 7) for part in parts)


def test_inputs_are_cut_where_they_have_their_samples() -> None:
    (part,) = Share(1, 2).of([batch(4)], AXES)
    assert part.inputs["state"].tolist() == [[2, 3], [-2, -3]]
    assert part.inputs["table"].tolist() == [0, 1, 2]
    assert part.labels is not None
    assert part.labels.tolist() == [2, 3]


def test_batches_that_the_model_fixes_are_dealt_out_whole() -> None:
    whole = [batch(2) for _ in range(5)]
    dealt = [Share(rank, 2).of(whole, AXES) for rank in range(2)]
    assert [len(share) for share in dealt] == [3, 2]
    assert dealt[0][1] is whole[2]


@pytest.mark.parametrize("whole", [[batch(2)], [batch(1), batch(1)]])
def test_more_processes_than_samples_are_refused(whole) -> None:
    with pytest.raises(ConfigError, match="fewer processes"):
        Share(0, 3).of(whole, AXES)
