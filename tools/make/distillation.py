"""Make a trained dense autoencoder small: each layer's matrix as a product of two thin ones."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import torch

from spectool.models.denoise import DenseAutoencoder, LowRankLinear
from spectool.models.layers import seed_torch
from spectool.models.store import round_weights
from spectool.models.training import fit, select
from spectool.papers.scourfield2023.network import weighted_squares

_RIDGE = 1e-6
# The layers that give and read the latent vector are small, and every output of theirs counts.
_NARROW = 64
# Relative change of the loss that needs no more refining.
_CLOSE = 1e-3
PROBES, BATCH_SIZE = 2, 512
STEP_ROWS = 1024
REFINING = {"epochs": 1, "batch_size": 64, "optimizer": "fused adam", "progress": False}


def compress(model: DenseAutoencoder, moments: list, *, tolerance: float) -> DenseAutoencoder:
    """A copy whose dense layers have as low a rank as a given rise of the loss allows."""
    if model.config["ranks"] is not None:
        raise ValueError("this model is compressed already: compress the trained one")
    layers = dense_layers(model)
    allowed = tolerance / len(layers)
    factors = [_factorise(layer, *moment, allowed) for layer, moment in zip(layers, moments, strict=True)]
    config = model.config | {"ranks": [None if f is None else len(f[0]) for f in factors]}
    small = DenseAutoencoder(**config)
    small.set_statistics(*(x.numpy() for x in (model.pixel_mean, model.pixel_scale, model.wavelength)))
    with torch.no_grad():
        for old, new, factor in zip(layers, dense_layers(small), factors, strict=True):
            if isinstance(new, LowRankLinear):
                for target, value in zip((new.into.weight, *new.out.parameters()), factor, strict=True):
                    target.copy_(value)
            else:
                new.load_state_dict(old.state_dict())
    return small.eval()


def refine(small, model, train, valid, *, target, n_steps=24, lr=1e-4, seed=0) -> float:
    """Train a compressed model, in place, to answer as the whole one does, until it is as good."""
    rng = np.random.default_rng(seed)
    n = min(STEP_ROWS, len(train["flux"]))
    few = select(valid, np.arange(min(64, len(valid["flux"]))))
    change = _rounded_loss(small, valid) / target - 1.0
    for _ in range(n_steps):
        if change <= _CLOSE:
            break
        before = copy.deepcopy(small.state_dict())
        some = select(train, np.sort(rng.choice(len(train["flux"]), n, replace=False)))
        fit(
            small,
            some,
            few,
            loss=partial(_difference, model),
            augment=_add_noise,
            seed=rng,
            lr=lr,
            **REFINING,
        )
        change = _rounded_loss(small, valid) / target - 1.0
        if change < 0:
            change = _step_back(small, before, valid, target)
    return float(change)


def _step_back(small, before, valid, target, n: int = 6) -> float:
    """Set the weights between those before and after a step that went too far; returns the change that is left."""
    after = copy.deepcopy(small.state_dict())
    low, high = 0.0, 1.0
    for _ in range(n):
        middle = 0.5 * (low + high)
        small.load_state_dict({name: torch.lerp(before[name], after[name], middle) for name in after})
        change = _rounded_loss(small, valid) / target - 1.0
        low, high = (middle, high) if change > 0 else (low, middle)
    return change


def _rounded_loss(model, arrays) -> float:
    """Mean of eq. 3 of a copy whose weights are rounded."""
    model = copy.deepcopy(model).eval()
    round_weights(model, int8=True)
    total, n = 0.0, len(arrays["flux"])
    with torch.inference_mode():
        for start in range(0, n, STEP_ROWS):
            part = slice(start, start + STEP_ROWS)
            given = (arrays[name][part] for name in ("input", "flux", "weight"))
            read, flux, weight = map(torch.from_numpy, given)
            total += float(weighted_squares(model(read)[0], flux, weight).sum()) / n
    return total


def _add_noise(batch, step):
    flux = batch["flux"]
    noisy = flux + batch["sigma"] * torch.randn(flux.shape, generator=step.generator)
    return batch | {"input": noisy * (flux.sum(dim=1) / noisy.sum(dim=1))[:, None]}


def _difference(model, small, batch, step) -> dict:
    with torch.no_grad():
        target, mu, log_var = model(batch["input"])
    predicted, own_mu, own_log_var = small(batch["input"])
    loss = weighted_squares(predicted, target, batch["weight"]).mean()
    if model.variational:
        # So that the posteriors agree too: their divergence, with the means' part left to the prediction.
        loss = loss + 0.25 * (own_log_var - log_var).square().sum(dim=1).mean()
        loss = loss + 0.5 * (own_mu - mu).square().sum(dim=1).mean()
    return {"loss": loss}


def dense_layers(model: DenseAutoencoder) -> list:
    """Dense layers from the first of the encoder to the last of the decoder."""
    layers = [*model.encoder, *model.decoder]
    return [layer for layer in layers if isinstance(layer, (torch.nn.Linear, LowRankLinear))]


def measure_layers(model: DenseAutoencoder, flux, weight, *, seed) -> list:
    """What a trained model's layers do on some spectra, and how much the loss minds."""
    model.eval()
    layers = dense_layers(model)
    generator = seed_torch(seed)
    widths, zeros = [layer.out_features for layer in layers], partial(torch.zeros, dtype=torch.float64)
    sums = [[zeros(width), *zeros(2, width, width)] for width in widths]
    outputs, n = [], len(flux)
    handles = [layer.register_forward_hook(lambda _, __, y: outputs.append(y)) for layer in layers]
    try:
        for start in range(0, n, BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            outputs.clear()
            read, weights = (torch.from_numpy(np.asarray(x[rows], dtype=np.float32)) for x in (flux, weight))
            predicted, _, log_var = model(read)
            seen, scaled = list(outputs), predicted * weights.sqrt()
            if model.variational:
                # Two posteriors whose log variances differ by d diverge by d^2 / 4.
                scaled = torch.cat([scaled, log_var / 2**0.5], dim=1)
            for total, y in zip(sums, seen, strict=True):
                y = y.detach().double()
                total[0] += y.sum(dim=0) / n
                total[1] += y.T @ y / n
            for probe in range(PROBES):
                direction = torch.randn(scaled.shape, generator=generator)
                found = torch.autograd.grad(scaled, seen, direction, retain_graph=probe < PROBES - 1)
                for total, g in zip(sums, found, strict=True):
                    g = g.double()
                    total[2] += g.T @ g / (n * PROBES)
    finally:
        for handle in handles:
            handle.remove()
    return [(mean, second - torch.outer(mean, mean), metric) for mean, second, metric in sums]


def _factorise(layer, mean, covariance, metric, allowed):
    """Matrices (rank, n_in), (n_out, rank) and bias (n_out,) of the thin layers; None if they would not be smaller."""
    size = len(mean)
    if min(layer.in_features, size) < _NARROW:
        return None
    metric = metric + _RIDGE * metric.diagonal().mean().clamp(min=1e-30) * torch.eye(size, dtype=metric.dtype)
    values, vectors = torch.linalg.eigh(metric)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    inverse = (vectors / values.clamp(min=1e-300).sqrt()) @ vectors.T
    loss, directions = torch.linalg.eigh(root @ covariance @ root)
    loss, directions = loss.clamp(min=0).flip(0), directions.flip(1)
    dropped = 0.5 * (loss.sum() - loss.cumsum(0))
    rank = max(1, min(size, int((dropped > allowed).sum()) + 1))
    if rank * (layer.in_features + size) >= layer.in_features * size:
        return None
    kept, spread = directions[:, :rank], loss[:rank].clamp(min=1e-30).sqrt()
    # Coefficients of unit variance: then all rows of both matrices round alike in 8 bits.
    into, out = (kept / spread).T @ root, inverse @ (kept * spread)
    bias = layer.bias.detach().double()
    return into @ layer.weight.detach().double(), out, mean + out @ (into @ (bias - mean))
