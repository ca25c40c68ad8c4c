"""Several chunked networks as one: their mean, how they disagree, and what noise in the spectrum does to the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from spectool.models.chunk_basis import split_chunks
from spectool.models.chunked_errors import scale_errors
from spectool.models.mlp import ChunkedMLP
from spectool.models.stacked_ensemble import StackedEnsemble, noise_variance


class ChunkedEnsemble:
    """Networks of one architecture, trained from different seeds; all their filters are applied in one go.

    Parameters
    ----------
    members
        `ChunkedMLP` on the same pixels, chunks and outputs.
    arrays
        Of `spectool.models.chunked_errors.fit_errors` (and what else is stored beside the first member); without
        them, errors are as they are: not calibrated.

    Attributes
    ----------
    wavelength, outputs, units
        Of the members.

    Raises
    ------
    ValueError
        If there is no member, or they do not fit together.
    """

    def __init__(self, members: Sequence[ChunkedMLP], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one member")
        first = members[0]
        for k, member in enumerate(members):
            if member.config != first.config:
                other = [name for name in first.config if first.config[name] != member.config[name]]
                raise ValueError(f"member {k + 1} has another {', '.join(other)} than the first")
        self.members, self.arrays = tuple(m.eval() for m in members), dict(arrays or {})
        self.wavelength, self.outputs, self.units = first.wavelength, first.outputs, first.units
        self.n_kept, self.n_chunks = first.n_kept, first.n_chunks
        self.chunk_index, self.n_filters = first.chunk_index, first.n_filters
        self.stacked = StackedEnsemble(self.members)
        self._products = self.stacked.filter_products()
        self._fill = float(np.mean([float(m.in_scale) for m in members]))

    def predict(
        self, x, sigma=None, bad=None, *, batch_size: int = 4096
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, error and spread of prepared spectra.

        Parameters
        ----------
        x
            (N, n_kept) prepared spectra; rows that are not finite give NaN.
        sigma
            Noise relative to the continuum, per pixel: a number, (N,), (N, n_chunks) or (N, n_kept); None = no noise.
        bad
            (N, n_kept) bool, pixels that were filled with 0: they are wrong by the scatter of prepared spectra, each on
            its own. Long gaps are wrong together, which this does not know: on held-out histories at S/N 20, errors
            cover 67% with 2% of the pixels bad here and there, 66% with 5% in runs of 5, 61% with 10% in runs of 30.
        batch_size
            Rows at a time.

        Returns
        -------
        mean, error, spread : ndarray, shape (N, n_out), float32
            In the outputs' units. The error is the quadrature sum of the members' spread, of the noise propagated
            through the mean's gradient, and of a floor, scaled so that 68% of held-out histories lie within one.

        Raises
        ------
        ValueError
            If shapes do not fit.
        """
        if np.ndim(x) != 2 or x.shape[1] != self.n_kept:
            raise ValueError(
                f"spectra of shape {np.shape(x)} do not fit: these networks take (N, {self.n_kept})"
            )
        sigma = self._noise(sigma, x.shape)
        level = self.noise_level(sigma)
        sigma = self._with_filled(sigma, bad)
        found = [np.empty((len(x), len(self.outputs)), np.float32) for _ in range(3)]
        for start in range(0, len(x), batch_size):
            part = slice(start, start + batch_size)
            mean, spread, noise = self.evaluate(
                torch.from_numpy(np.ascontiguousarray(x[part], dtype=np.float32)), sigma[part]
            )
            error = scale_errors(self.arrays, mean, spread, noise, level[part])
            for array, value in zip(found, (mean, error, spread), strict=True):
                array[part] = value
        return found[0], found[1], found[2]

    def evaluate(self, x: torch.Tensor, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, spread and propagated noise, each (B, n_out), of one batch; not calibrated."""
        values, gradient = self.stacked.answer(x)
        mean = values.mean(dim=0)
        spread = values.std(dim=0) if len(self.members) > 1 else torch.zeros_like(mean)
        noise = torch.zeros_like(mean)
        if np.any(sigma != 0):
            noise = self._propagate(gradient, sigma).T
        return mean.numpy(), spread.numpy(), noise.numpy()

    def noise_level(self, sigma: np.ndarray) -> np.ndarray:
        """Root mean square of the noise of each spectrum, (N,): 1 / (S/N per pixel)."""
        return np.sqrt(np.mean(np.square(sigma.reshape(len(sigma), -1)), axis=1))

    def _propagate(self, gradient: torch.Tensor, sigma: np.ndarray) -> torch.Tensor:
        """Deviations (n_out, B) of the mean for its gradient (n_out, n_chunks, B, filters) behind the filters."""
        if sigma.ndim == 2 and sigma.shape[1] == self.n_kept:
            pixels = split_chunks(sigma, self.members[0])
            curves = self.stacked.curves.transpose(1, 2)
            squares = [(torch.bmm(one, curves) * pixels).square().sum(dim=(0, 2)) for one in gradient]
            return torch.stack(squares).sqrt()
        sigma = sigma if sigma.ndim == 2 else np.broadcast_to(sigma[:, None], (len(sigma), self.n_chunks))
        variance = noise_variance(gradient, self._products, torch.from_numpy(np.ascontiguousarray(sigma)))
        return variance.clamp(min=0).sqrt()

    def _noise(self, sigma, shape) -> np.ndarray:
        sigma = np.asarray(0.0 if sigma is None else sigma, dtype=np.float32)
        sigma = np.broadcast_to(sigma, shape[:1]) if sigma.ndim == 0 else sigma
        if sigma.shape not in (shape[:1], (shape[0], self.n_chunks), tuple(shape)):
            raise ValueError(
                f"sigma of shape {sigma.shape} does not fit {shape[0]} spectra of {shape[1]} pixels in "
                f"{self.n_chunks} chunks"
            )
        return np.ascontiguousarray(sigma)

    def _with_filled(self, sigma, bad) -> np.ndarray:
        """Noise with what is wrong in bad pixels; per pixel if there are any."""
        if bad is None or not np.any(bad):
            return sigma
        if sigma.ndim == 1:
            sigma = sigma[:, None]
        elif sigma.shape[1] == self.n_chunks:
            sigma = sigma[:, self.chunk_index]
        return np.where(bad, np.float32(self._fill), sigma)
