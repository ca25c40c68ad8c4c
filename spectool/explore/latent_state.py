"""What the latent dashboard knows and does, without a widget: usable, and tested, from plain code."""

import hashlib
import threading
from contextlib import contextmanager

import numpy as np
import torch
import traitlets
from scipy.spatial import KDTree

from spectool.models.autoencoder import decode_latent, encode_sample


@contextmanager
def single_thread():
    """Run torch on one thread: for a single spectrum, starting more costs longer than the work itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fingerprint(model):
    """Return a short hash of a model's weights, which tells two trainings of one architecture apart.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    str
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]


def informative_dimensions(arrays, n_latent):
    """Return the indices of the informative dimensions from a model file's arrays.

    Parameters
    ----------
    arrays : dict of ndarray
        ``informative`` holds integer indices, or one boolean per dimension. Without it all are informative.
    n_latent : int

    Returns
    -------
    ndarray of int, shape (n_informative,)
    """
    if "informative" not in arrays:
        return np.arange(n_latent)
    informative = np.asarray(arrays["informative"])
    return np.flatnonzero(informative) if informative.dtype == bool else informative.astype(int)


def traverse(decode, latent, dimension, values):
    """Decode positions along one dimension, up to where a flux turns negative.

    This is the rule of Marziano (2024, Section 4.4). A start that is negative already does not stop it.

    Parameters
    ----------
    decode : callable
        From latents (n, n_latent) to spectra (n, wavelength).
    latent : ndarray, shape (n_latent,)
        Where the other dimensions stay.
    dimension : int
    values : ndarray, shape (n,)
        Of the dimension, from the start outwards.

    Returns
    -------
    values : ndarray, shape (m,)
        Those before the first negative flux.
    spectra : ndarray, shape (m, wavelength)
    """
    latents = np.repeat(np.asarray(latent)[None], len(values), axis=0)
    latents[:, dimension] = values
    spectra = decode(latents)
    negative = (spectra < 0).any(axis=1)
    stop = int(np.argmax(negative)) if negative.any() and not negative[0] else len(values)
    return np.asarray(values)[:stop], spectra[:stop]


class LatentState(traitlets.HasTraits):
    """One position in the latent space of an autoencoder, and everything that follows from it.

    Observers of the traits are called in the thread that made the change. All changes happen under `lock`,
    since ipykernel 7 runs widget callbacks in other threads than cells.

    Parameters
    ----------
    model : ConvBetaVAE
    info : spectool.models.store.ModelInfo
        Its ``arrays`` may hold ``latent_min`` and ``latent_max`` (n_latent,), the range that the encoder has
        seen, and ``informative``; what is missing is measured on `galaxies`.
    galaxies : xarray.Dataset
        Mock galaxies of the training population as the model takes them: ``flux`` (galaxy, wavelength),
        ``mask``, and the columns that are named in `columns`.
    seeds : xarray.Dataset
        Galaxies to start from, prepared in the same way, with a coordinate ``name`` (galaxy).
    columns : sequence of str
        Per-galaxy columns of `galaxies` to predict and to list.
    fit_predictor : callable, optional
        ``fit_predictor(latent (galaxy, n_latent), table (galaxy, column))`` returns a function from latents
        to ``(mean, sigma)``, each (n, column). Without it no parameters are predicted.

    Raises
    ------
    ValueError
        If the seeds or the galaxies are not on the model's wavelength grid.
    """

    latent = traitlets.Instance(np.ndarray, help="current position (n_latent,), float32")
    decoded = traitlets.Instance(np.ndarray, help="decoded spectrum (wavelength,), normalised flux, float32")
    residual = traitlets.Instance(np.ndarray, help="galaxy minus decoded (wavelength,), NaN where masked")
    seed_name = traitlets.Unicode(help="galaxy that the position started from")
    playing = traitlets.Bool(False, help="whether an animation is running")
    model_id = traitlets.Unicode(help="fingerprint of the model's weights")

    def __init__(self, model, info, galaxies, seeds, *, columns, fit_predictor=None):
        super().__init__()
        self.lock = threading.RLock()
        for label, sample in (("galaxies", galaxies), ("seeds", seeds)):
            n_pixels = sample.sizes["wavelength"]
            if n_pixels != model.n_pixels:
                raise ValueError(f"the {label} have {n_pixels} pixels, but the model takes {model.n_pixels}")
        self.wavelength = np.asarray(seeds["wavelength"].values, dtype=np.float32)
        self.galaxies, self.seeds = galaxies, seeds
        self.columns = [c for c in columns if c in galaxies]
        self._fit_predictor = fit_predictor
        self.set_model(model, info)

    # ---- the model

    def set_model(self, model, info):
        """Put another model in: the seeds and training galaxies are encoded anew and the seed is decoded.

        Parameters
        ----------
        model, info
            As in the constructor.
        """
        arrays = info.arrays
        n_latent = model.n_latent
        with single_thread():
            latents = encode_sample(model, self.galaxies)["latent"].values.astype(np.float32)
            seed_latents = encode_sample(model, self.seeds)["latent"].values.astype(np.float32)
            predict = None
            if self._fit_predictor is not None and self.columns:
                table = np.stack([self.galaxies[c].values for c in self.columns], axis=1)
                predict = self._fit_predictor(latents, table)
        with self.lock:
            self.model, self.info, self.name = model.eval(), info, info.name
            self.lower = np.asarray(arrays.get("latent_min", latents.min(axis=0)), dtype=np.float32)
            self.upper = np.asarray(arrays.get("latent_max", latents.max(axis=0)), dtype=np.float32)
            self.informative = informative_dimensions(arrays, n_latent)
            self.others = np.setdiff1d(np.arange(n_latent), self.informative)
            self.galaxy_latents, self.seed_latents = latents, seed_latents
            self._predict = predict
            self._spread = latents.std(axis=0).astype(np.float32)
            self._tree = KDTree(latents[:, self.informative] / self._scale())
            with self.hold_trait_notifications():
                self.model_id = fingerprint(model)
                self.select_seed(self.seed_name or self.seed_names[0])

    def _scale(self):
        return np.maximum(self._spread[self.informative], 1e-6)

    # ---- where we are

    @property
    def seed_names(self):
        """Names of the galaxies to start from."""
        return [str(name) for name in self.seeds["name"].values]

    def select_seed(self, name):
        """Go to a seed galaxy: its encoded position and its spectrum.

        Parameters
        ----------
        name : str

        Raises
        ------
        KeyError
            If there is no such seed; the message lists those there are.
        """
        if name not in self.seed_names:
            raise KeyError(f"there is no seed galaxy {name!r}; there are: {', '.join(self.seed_names)}")
        with self.lock:
            self.stop()
            index = self.seed_names.index(name)
            seed = self.seeds.isel(galaxy=index)
            bad = seed["mask"].values if "mask" in seed else np.zeros(self.wavelength.size, dtype=bool)
            flux = np.asarray(seed["flux"].values, dtype=np.float32)
            self.seed_flux = np.where(bad | ~np.isfinite(flux), np.float32(np.nan), flux)
            self.seed_truth = {c: float(seed[c]) for c in self.columns if c in seed}
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
        """Go to a position; values outside the encoder's range are moved to its edge.

        Parameters
        ----------
        latent : array_like, shape (n_latent,)

        Raises
        ------
        ValueError
            If the shape is wrong or a value is not finite.
        """
        latent = np.asarray(latent, dtype=np.float32)
        if latent.shape != self.lower.shape or not np.isfinite(latent).all():
            raise ValueError(f"a latent vector has {self.lower.size} finite values; got shape {latent.shape}")
        with self.lock:
            latent = np.clip(latent, self.lower, self.upper)
            decoded = self.decode(latent[None])[0]
            with self.hold_trait_notifications():
                self.latent, self.decoded, self.residual = latent, decoded, self.seed_flux - decoded

    def set_dimension(self, dimension, value):
        """Move along one dimension.

        Parameters
        ----------
        dimension : int
        value : float
        """
        with self.lock:
            latent = self.latent.copy()
            latent[dimension] = value
            self.set_latent(latent)

    def decode(self, latents):
        """Decode positions without moving.

        Parameters
        ----------
        latents : ndarray, shape (n, n_latent)

        Returns
        -------
        ndarray, shape (n, wavelength)
            Normalised flux, float32.
        """
        with single_thread():
            return np.asarray(decode_latent(self.model, latents), dtype=np.float32)

    # ---- what follows from it

    @property
    def negative(self):
        """Pixels (wavelength,) in which the decoded flux is below zero, which no galaxy is."""
        return self.decoded < 0

    def changes(self, *, step=0.5):
        """What each informative dimension changes around the current position.

        Parameters
        ----------
        step : float
            Half of the move, in standard deviations of the training galaxies along the dimension.

        Returns
        -------
        ndarray, shape (n_informative, wavelength)
            Decoded flux at ``z_i + step`` minus that at ``z_i - step``.
        """
        latent, n = self.latent, self.informative.size
        moves = np.zeros((n, latent.size), dtype=np.float32)
        moves[np.arange(n), self.informative] = step * self._scale()
        both = self.decode(np.concatenate([latent + moves, latent - moves]))
        return both[:n] - both[n:]

    def predict_parameters(self):
        """Predict the physical parameters of the current position.

        Returns
        -------
        dict of str to (float, float)
            Mean and standard deviation by column; empty if the state has no predictor.
        """
        if self._predict is None:
            return {}
        with single_thread():
            mean, sigma = self._predict(self.latent[None])
        pairs = zip(np.asarray(mean)[0], np.asarray(sigma)[0], strict=True)
        return {c: (float(m), float(s)) for c, (m, s) in zip(self.columns, pairs, strict=True)}

    def nearest(self, n=5):
        """Find the training galaxies nearest to the current position.

        Parameters
        ----------
        n : int

        Returns
        -------
        index : ndarray of int, shape (n,)
            Along ``galaxy`` of `galaxies`, nearest first.
        distance : ndarray, shape (n,)
            In standard deviations of the training galaxies, over the informative dimensions.
        """
        n = min(n, self.galaxies.sizes["galaxy"])
        distance, index = self._tree.query(self.latent[self.informative] / self._scale(), k=n)
        return np.atleast_1d(index), np.atleast_1d(distance)

    # ---- animation

    def animate(self, dimension, *, n_steps=48):
        """Move along one dimension and back, a step at each `next`.

        The way is that of the paper's traversals: to the upper end of the encoder's range, to the lower end
        and back to the start, turning early where a flux would drop below zero. It ends when it is through,
        or after `stop`.

        Parameters
        ----------
        dimension : int
        n_steps : int
            Steps over the whole range.

        Yields
        ------
        float
            The dimension's value after each step.

        Raises
        ------
        ValueError
            If the encoder gives the dimension the same value for every galaxy.
        """
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
