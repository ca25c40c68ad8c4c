"""The random search draws from the paper's ranges and ranks what it trained."""

import optuna

from spectool.papers.scourfield2023.network import make_arrays, suggest
from tests.denoising_toy import make_toy
from tools.make.random_search import search


def test_hyperparameters_lie_in_the_papers_ranges():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [suggest(study.ask()) for _ in range(300)]
    assert {d["dropout"] for d in drawn} == {round(0.1 * k, 1) for k in range(10)}
    assert {len(d["widths"]) for d in drawn} == {2, 3, 4}
    assert {d["widths"][0] for d in drawn} == set(range(100, 1001, 100))
    for d in drawn:
        assert all(later <= earlier for earlier, later in zip(d["widths"], d["widths"][1:], strict=False))
        assert all(w % 100 == 0 and w >= 100 for w in d["widths"])


def test_the_second_layer_is_uniform_up_to_the_first():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [suggest(study.ask())["widths"] for _ in range(1500)]
    second = [w[1] for w in drawn if w[0] == 500]
    counts = [second.count(n) for n in range(100, 501, 100)]
    assert sum(counts) == len(second)
    assert min(counts) > 0.5 * len(second) / 5


def test_trials_are_ranked_and_repeat_themselves():
    train, valid = make_arrays(make_toy(128)), make_arrays(make_toy(64, seed=5))
    found, again = (
        search(train, valid, n_latent=2, n_trials=3, epochs=1, seed=4, progress=False) for _ in range(2)
    )
    losses = [trial["loss"] for trial in found["trials"]]
    assert losses == sorted(losses)
    assert found["loss"] == losses[0]
    assert found["best"] == {name: found["trials"][0][name] for name in ("dropout", "widths")}
    assert found == again
