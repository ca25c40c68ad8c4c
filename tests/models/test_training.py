"""The training loop: it learns, repeats itself, resumes, stops as told and keeps what it learnt."""

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from spectool.models import training
from spectool.models.training import History, Step, fit, one_cycle, replay_plateau
from tests.refusals import refused


def mean_squared(model, batch, step):
    return {"loss": (model(batch["x"]) - batch["y"]).square().mean()}


def linear_data(n=200, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return {"x": x, "y": (x @ np.array([[1.0], [-2.0], [0.5]]) + 0.3).astype(np.float32)}


def linear(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, 1)


def train(model, **options):
    options = {"loss": mean_squared, "epochs": 4, "lr": 0.05, "progress": False, **options}
    return fit(model, linear_data(), linear_data(50, 1), **options)


def test_recovers_a_linear_relation_repeatably_and_without_global_seeding():
    before, models = torch.random.get_rng_state(), [linear() for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        history = train(model, epochs=40, seed=seed)
        assert history.best_loss < 1e-5 and history.stopped == "epochs" and len(history.records) == 40
        np.testing.assert_allclose(model.weight.detach().numpy(), [[1.0, -2.0, 0.5]], atol=0.01)
    assert torch.equal(models[0].weight, models[1].weight)
    assert not torch.equal(models[0].weight, models[2].weight)
    assert torch.equal(before, torch.random.get_rng_state())


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


def train_on_noise(model, **options):
    """On data that no line fits, so that the plateau rule has something to do."""
    data = linear_data(128)
    data["y"] += np.random.default_rng(1).normal(size=(128, 1)).astype(np.float32)
    how = {"epochs": 200, "lr": 0.05, "patience": None, "plateau": True, "optimizer": "fused adam"}
    return fit(model, data, data, loss=mean_squared, progress=False, **how | options)


def test_stops_at_a_plateau_when_nothing_improves_or_the_time_is_up():
    history = train_on_noise(linear())
    assert history.stopped == "plateau"
    values = list(history.column("valid_loss"))
    assert replay_plateau(values)[1] and not replay_plateau(values[:-1])[1]
    rates = [0.05 * replay_plateau(values[:k])[0] for k in range(len(values))]
    np.testing.assert_allclose(history.column("lr"), rates)
    assert rates[-1] < 0.05
    history = train(linear(), epochs=50, lr=0.0, patience=3)
    assert history.stopped == "patience" and len(history.records) == 4
    history = train(linear(), epochs=10**6, max_seconds=0.2, patience=None)
    assert history.stopped == "time" and history.records


@pytest.mark.parametrize("run", [train, train_on_noise])
def test_resumed_training_equals_an_uninterrupted_one(run, tmp_path):
    whole, again = linear(), linear(seed=9)
    expected = run(whole)
    n = len(expected.records)
    for epochs in (2, n - 1):
        run(linear(), epochs=epochs, checkpoint=tmp_path / "run.safetensors")
    history = run(again, epochs=max(n, 4), checkpoint=tmp_path / "run.safetensors")
    assert torch.equal(whole.weight, again.weight)
    assert list(history.column("epoch")) == list(range(1, n + 1))
    np.testing.assert_array_equal(history.column("lr"), expected.column("lr"))
    (tmp_path / "run.safetensors").write_bytes(b"not one")
    refused(r"run\.safetensors is no checkpoint", run, linear(), checkpoint=tmp_path / "run.safetensors")


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_weights_of_the_lowest_validation_loss_are_kept(interrupted):
    model, weights = linear(), []

    def look(history: History):
        weights.append(model.weight.detach().clone())
        if interrupted and len(history.records) == 2:
            raise KeyboardInterrupt

    history = train(model, epochs=8, lr=0.9, callbacks=[look])
    best = int(np.argmin(history.column("valid_loss")))
    assert history.stopped == ("interrupted" if interrupted else "epochs")
    assert history.best_epoch == best + 1 and torch.equal(model.weight, weights[best]) and not model.training


def test_loss_that_is_not_finite_is_told_and_the_best_weights_stay():
    def loss(model, batch, step):
        factor = float("nan") if step.training and step.epoch >= 1 else 1.0
        return {"loss": mean_squared(model, batch, step)["loss"] * factor}

    refused("epoch 2, batch 1", train, model := linear(), error=FloatingPointError, loss=loss)
    assert torch.isfinite(model.weight).all()


def test_schedules_and_augmentation_follow_the_training_and_spare_validation():
    ends = [one_cycle(0.1)(Step(0, fraction, True, torch.Generator())) for fraction in (0.1, 1.0)]
    assert ends == pytest.approx([1.0, 0.0], abs=1e-12)
    draws = []

    def augment(batch, step):
        draws.append((step.training, torch.rand(1, generator=step.generator).item()))
        return batch

    how = {"schedule": lambda step: 0.5 ** int(step.epoch), "augment": augment, "batch_size": 200}
    np.testing.assert_allclose(train(linear(), epochs=3, lr=1.0, **how).column("lr"), [1, 0.5, 0.25])
    assert len(set(draws)) == 3 and all(training for training, _ in draws)


@pytest.mark.parametrize(("optimizer", "shrunk"), [("adam", 0.01), ("adamw", 0.001)])
def test_coupled_and_decoupled_weight_decay_differ(optimizer, shrunk):
    """Adam divides an L2 penalty by the gradient's size, AdamW does not: only AdamW shrinks by lr * decay."""
    data = {"x": np.zeros((8, 3), np.float32), "y": np.zeros((8, 1), np.float32)}
    model = nn.Linear(3, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    how = {"epochs": 1, "batch_size": 8, "lr": 0.01, "weight_decay": 0.1, "progress": False}
    how |= {"loss": lambda m, b, s: {"loss": m(b["x"]).sum() - s.epoch}, "optimizer": optimizer}
    fit(model, data, data, **how)
    assert 1.0 - float(model.weight.mean().detach()) == pytest.approx(shrunk, rel=1e-3)


@pytest.mark.parametrize("kind", ["memmap", "zarr", "rows", "tensor"])
def test_reads_rows_of_any_array(kind, tmp_path):
    values = np.arange(40, dtype=np.float16).reshape(10, 4)
    index = np.array([7, 2, 2, 9])
    np.save(tmp_path / "x.npy", values)
    stored = zarr.create_array(str(tmp_path / "x.zarr"), shape=values.shape, chunks=(3, 4), dtype="f2")
    stored[:] = values
    arrays = {"memmap": np.load(tmp_path / "x.npy", mmap_mode="r"), "zarr": stored}
    arrays["rows"] = training.Rows(np.vstack([values, values])[::-1].copy(), np.arange(19, -1, -1)[:10])
    array = arrays.get(kind, torch.from_numpy(values))
    batch = training.read_batch({"x": array}, index)
    assert batch["x"].dtype == torch.float32
    np.testing.assert_array_equal(batch["x"].numpy(), values[index])


def test_splits_are_whole_and_bad_arguments_are_told():
    uneven, empty = {"x": np.zeros((2, 3)), "y": np.zeros((3, 1))}, {"x": np.zeros((0, 3))}
    for arrays in ((uneven, linear_data()), (linear_data(), empty)):
        refused("no rows or different numbers of rows", fit, linear(), *arrays, loss=mean_squared)
    refused("optimizer", train, linear(), optimizer="lion")
    refused("add up", training.split, 10, (0.5, 0.4), seed=0)
    parts, again = training.split(1003, seed=4), training.split(1003, seed=4)
    assert sorted(np.concatenate(parts)) == list(range(1003)) and [len(p) for p in parts] == [802, 101, 100]
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
