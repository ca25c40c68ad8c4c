"""What the latent dashboard knows and does, without a widget: usable, and tested, from plain code."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import traitlets
import xarray as xr
from scipy.spatial import KDTree

from spectool.models.store import ModelInfo
from spectool.models.vae import decode_latent, encode_sample, traverse
from spectool.parallel import single_thread


def fingerprint(model):
    """Return a short hash of a model's weights, which tells two trainings of one architecture apart."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]


def informative_dimensions(arrays, n_latent):
    """Return the indices of the informative dimensions from a model file's arrays."""
    if "informative" not in arrays:
        return np.arange(n_latent)
    informative = np.asarray(arrays["informative"])
    return np.flatnonzero(informative) if informative.dtype == bool else informative.astype(int)


@dataclass(frozen=True)
class LatentModel:
    """An autoencoder with what is known around its latent space."""

    network: torch.nn.Module
    info: ModelInfo
    atlas: xr.Dataset
    predict: Callable | None = None
    columns: tuple[str, ...] = ()


class LatentState(traitlets.HasTraits):
    """One position in the latent space of an autoencoder, and everything that follows from it."""

    latent = traitlets.Instance(np.ndarray, help="current position (n_latent,), float32")
    decoded = traitlets.Instance(np.ndarray, help="decoded spectrum (wavelength,), normalised flux, float32")
    residual = traitlets.Instance(np.ndarray, help="galaxy minus decoded (wavelength,), NaN where masked")
    seed_name = traitlets.Unicode(help="galaxy that the position started from")
    playing = traitlets.Bool(False, help="whether an animation is running")
    model_id = traitlets.Unicode(help="fingerprint of the model's weights")

    def __init__(self, model, seeds):
        super().__init__()
        self.lock = threading.RLock()
        self.seeds = seeds
        self.wavelength = np.asarray(seeds["wavelength"].values, dtype=np.float32)
        self.set_model(model)

    # ---- the model

    def set_model(self, model):
        """Put another model in: the seeds are encoded anew, and the current one is decoded."""
        network, arrays = model.network.eval(), model.info.arrays
        with single_thread():
            seed_latents = encode_sample(network, self.seeds)["latent"].values.astype(np.float32)
        lost = np.flatnonzero(~np.isfinite(seed_latents).all(axis=1))
        if lost.size:
            raise ValueError(f"the seed galaxy {self.seed_names[lost[0]]!r} has no usable pixel")
        atlas = np.asarray(model.atlas["latent"].values, dtype=np.float32)
        with self.lock:
            self.model, self.network, self.name = model, network, model.info.name
            self.lower = np.asarray(arrays.get("latent_min", atlas.min(axis=0)), dtype=np.float32)
            self.upper = np.asarray(arrays.get("latent_max", atlas.max(axis=0)), dtype=np.float32)
            self.informative = informative_dimensions(arrays, network.n_latent)
            self.others = np.setdiff1d(np.arange(network.n_latent), self.informative)
            self.seed_latents = seed_latents
            self.spread = np.maximum(atlas.std(axis=0), 1e-6)
            self._tree = KDTree((atlas / self.spread)[:, self.informative])
            with self.hold_trait_notifications():
                self.model_id = fingerprint(network)
                self.select_seed(self.seed_name or self.seed_names[0])

    # ---- where we are

    @property
    def seed_names(self):
        """Names of the galaxies to start from."""
        return [str(name) for name in self.seeds["name"].values]

    def select_seed(self, name):
        """Go to a seed galaxy: its encoded position and its spectrum."""
        if name not in self.seed_names:
            raise KeyError(f"there is no seed galaxy {name!r}; there are: {', '.join(self.seed_names)}")
        with self.lock:
            self.stop()
            index = self.seed_names.index(name)
            seed = self.seeds.isel(galaxy=index)
            bad = seed["mask"].values if "mask" in seed else np.zeros(self.wavelength.size, dtype=bool)
            flux = np.asarray(seed["flux"].values, dtype=np.float32)
            self.seed_flux = np.where(bad | ~np.isfinite(flux), np.float32(np.nan), flux)
            self.seed_truth = {c: float(seed[c]) for c in self.model.columns if c in seed}
            self.encoded = self.seed_latents[index]
            with self.hold_trait_notifications():
                self.seed_name = name
                self.set_latent(self.encoded)

    @property
    def out_of_range(self):
        """Dimensions in which the seed galaxy lies outside the range of the training galaxies."""
        outside = (self.encoded < self.lower) | (self.encoded > self.upper)
        return np.flatnonzero(outside)

    def reset(self):
        """Go back to the seed galaxy's own position."""
        with self.lock:
            self.stop()
            self.set_latent(self.encoded)

    def set_latent(self, latent):
        """Go to a position; values outside the encoder's range are moved to its edge."""
        latent = np.asarray(latent, dtype=np.float32)
        if latent.shape != self.lower.shape or not np.isfinite(latent).all():
            raise ValueError(f"a latent vector has {self.lower.size} finite values; got shape {latent.shape}")
        with self.lock:
            latent = np.clip(latent, self.lower, self.upper)
            decoded = self.decode(latent[None])[0]
            with self.hold_trait_notifications():
                self.latent, self.decoded, self.residual = latent, decoded, self.seed_flux - decoded

    def set_dimension(self, dimension, value):
        """Move along one dimension."""
        with self.lock:
            latent = self.latent.copy()
            latent[dimension] = value
            self.set_latent(latent)

    def decode(self, latents):
        """Decode positions without moving."""
        with single_thread():
            return np.asarray(decode_latent(self.network, latents), dtype=np.float32)

    # ---- what follows from it

    @property
    def negative(self):
        """Pixels (wavelength,) in which the decoded flux is below zero, which no galaxy is."""
        return self.decoded < 0

    def changes(self, *, step=0.5):
        """What each informative dimension changes around the current position."""
        latent, n = self.latent, self.informative.size
        moves = np.zeros((n, latent.size), dtype=np.float32)
        moves[np.arange(n), self.informative] = step * self.spread[self.informative]
        both = self.decode(np.concatenate([latent + moves, latent - moves]))
        return both[:n] - both[n:]

    def predict_parameters(self):
        """Predict the physical parameters of the current position."""
        if self.model.predict is None:
            return {}
        with single_thread():
            mean, sigma = self.model.predict(self.latent[None])
        return {
            c: (float(m), float(s)) for c, m, s in zip(self.model.columns, mean[0], sigma[0], strict=True)
        }

    def nearest(self, n=5):
        """Find the training galaxies nearest to the current position."""
        n = min(n, self.model.atlas.sizes["galaxy"])
        distance, index = self._tree.query((self.latent / self.spread)[self.informative], k=n)
        return np.atleast_1d(index), np.atleast_1d(distance)

    # ---- animation

    def animate(self, dimension, *, n_steps=48):
        """Move along one dimension and back, a step at each `next`."""
        low, high = self.lower[dimension], self.upper[dimension]
        if high <= low:
            raise ValueError(f"dimension {dimension} has no range to move in")
        step = (high - low) / n_steps
        latent, start = self.latent.copy(), float(self.latent[dimension])
        up = np.append(np.arange(start, high, step), high)
        down = np.append(np.arange(start, low, -step), low)
        up, down = (traverse(self.decode, latent, dimension, values)[0] for values in (up, down))
        self.playing = True
        try:
            for value in np.concatenate([up[1:], up[-2::-1], down[1:], down[-2::-1]]):
                with self.lock:
                    if not self.playing:
                        return
                    self.set_dimension(dimension, value)
                yield float(value)
        finally:
            self.playing = False

    def stop(self):
        """Stop a running animation where it is."""
        self.playing = False
