"""The plateau rule: what it does to the learning rate, when it ends, and that a resumed training keeps it."""

import numpy as np
import pytest
import torch
from torch import nn

from spectool.models.training import fit, replay_plateau


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (1.0, False)),
        ([100, 89, 79, 70, 60], (1.0, False)),
        ([100, 95, 94, 93, 92], (1.0, False)),  # four epochs without a drop of 10%
        ([100, 95, 94, 93, 92, 91], (0.1, False)),
        ([100, 95, 94, 93, 92, 89], (1.0, False)),  # 11% in the fifth
        ([100, 99, 99, 99, 99, 99, 80, 79, 79, 79, 79], (0.1, False)),
        ([100, 99, 99, 99, 99, 99, 80, 79, 79, 79, 79, 79], (0.01, False)),
        ([100] * 10, (0.1, False)),
        ([100] * 11, (0.1, True)),
        ([-100, -109, -109, -109, -109, -109], (0.1, False)),  # a likelihood below zero drops too
        ([-100, -111, -125], (1.0, False)),
    ],
)
def test_rate_and_end_follow_from_the_values(values, expected):
    rate, stop = replay_plateau(values)
    assert rate == pytest.approx(expected[0])
    assert stop is expected[1]


def mean_squared(model, batch, step):
    return {"loss": (model(batch["x"]) - batch["y"]).square().mean()}


def run(model, epochs, **options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, 3)).astype(np.float32)
    data = {"x": x, "y": (x.sum(axis=1, keepdims=True) + rng.normal(size=(128, 1))).astype(np.float32)}
    return fit(
        model,
        data,
        data,
        loss=mean_squared,
        epochs=epochs,
        lr=0.05,
        patience=None,
        plateau=True,
        progress=False,
        optimizer="fused adam",
        **options,
    )


def linear(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, 1)


def test_training_lowers_its_rate_and_ends_by_the_rule():
    history = run(linear(), 200)
    assert history.stopped == "plateau"
    values = list(history.column("valid_loss"))
    assert replay_plateau(values)[1]
    assert not replay_plateau(values[:-1])[1]
    rates = [0.05 * replay_plateau(values[:k])[0] for k in range(len(values))]
    np.testing.assert_allclose(history.column("lr"), rates)
    assert rates[-1] < 0.05


def test_a_resumed_training_goes_on_by_the_rule(tmp_path):
    whole, again = linear(), linear(9)
    expected = run(whole, 200)
    n = len(expected.records)
    for epochs in (2, n - 3):
        run(linear(), epochs, checkpoint=tmp_path / "run.safetensors")
    history = run(again, 200, checkpoint=tmp_path / "run.safetensors")
    assert len(history.records) == n
    assert history.stopped == "plateau"
    np.testing.assert_array_equal(history.column("lr"), expected.column("lr"))
    assert torch.equal(whole.weight, again.weight)
