"""Read prepared spectra with an ensemble: answers, what noise does to them, and how unusual the spectra are."""

from __future__ import annotations

import numpy as np
import torch

from spectool.broaden import make_broadening
from spectool.continuum_basis import ContinuumBasis
from spectool.models.chunked_ensemble import ChunkedEnsemble
from spectool.models.chunked_errors import scale_errors
from spectool.models.metallicity_outliers import BIN, rank_statistics, statistics
from spectool.models.stacked_ensemble import noise_variance

ANSWERS = ("mean", "spread", "noise")
SUSPICIONS = ("chi2", "excess", "distance", "score", "pixel", "which")


class MetallicityReader:
    """Networks, and what else is needed to read a batch of prepared spectra.

    Parameters
    ----------
    members
        `ChunkedEnsemble`, or a list of `spectool.models.mlp.ChunkedMLP`; None: the shipped ones.

    Attributes
    ----------
    arrays : dict
        Calibration of errors and reference for outliers, of the ensemble.
    stacked : spectool.models.stacked_ensemble.StackedEnsemble
    basis : ContinuumBasis
        Of the pixels that the networks read.

    Raises
    ------
    FileNotFoundError
        If the shipped networks are not here.
    ValueError
        If the networks read other pixels.
    """

    def __init__(self, members=None) -> None:
        from spectool.models.zahid2019 import load_ensemble

        members = load_ensemble() if members is None else members
        whole = members if isinstance(members, ChunkedEnsemble) else ChunkedEnsemble(members)
        self.arrays, self.stacked = whole.arrays, whole.stacked
        self.outputs, self.units = whole.outputs, whole.units
        self.basis = ContinuumBasis.zahid2019()
        if not np.array_equal(self.basis.kept_wavelength, whole.wavelength):
            raise ValueError("these networks do not read the pixels of spectool.continuum.kept_pixels")
        self.knows_outliers = "outlier_mean" in self.arrays
        # What a missing pixel may be wrong by: the scatter of prepared spectra.
        self._missing = float(np.mean([float(m.in_scale) for m in whole.members]))
        n = whole.wavelength.size
        self._chunk_of_bin = whole.chunk_index[np.minimum(np.arange(0, n, BIN) + BIN // 2, n - 1)]
        self._operators = {}

    def broaden_by(self, sigma: float):
        """Operator of a width [km/s], and what noise before it does behind the filters; kept for the next time."""
        if sigma not in self._operators:
            operator = make_broadening(sigma, self.basis.wavelength, keep=self.basis.keep)
            self._operators[sigma] = operator, self.stacked.filter_products(operator)
        return self._operators[sigma]

    @torch.inference_mode()
    def read(self, x: torch.Tensor, noise: np.ndarray, bad: torch.Tensor, products) -> dict[str, np.ndarray]:
        """Read a batch.

        Parameters
        ----------
        x
            (B, n_kept) prepared spectra, 0 in bad pixels.
        noise
            (B, n_chunks) noise of a pixel relative to the continuum, white before the spectra were broadened.
        bad
            (B, n_kept) bool.
        products
            Of `broaden_by`.

        Returns
        -------
        dict
            `ANSWERS`, (B, n_out) each, errors not calibrated; `SUSPICIONS`, (B,) each, if there is a reference.
        """
        outputs, gradient = self.stacked.answer(x)
        variance = noise_variance(gradient, products, torch.from_numpy(noise))
        variance += self.stacked.pixel_variance(gradient, bad) * self._missing**2
        single = len(outputs) == 1
        found = {
            "mean": outputs.mean(dim=0),
            "spread": torch.zeros_like(outputs[0]) if single else outputs.std(dim=0),
            "noise": variance.clamp(min=0).sqrt().T,
        }
        found = {name: value.numpy() for name, value in found.items()}
        if self.knows_outliers:
            variance = torch.from_numpy(np.square(noise)[:, self._chunk_of_bin])
            values = statistics(self.arrays, x, variance, bad)
            found |= values | rank_statistics(self.arrays, values)
        return found

    def calibrate(self, found, noise) -> np.ndarray:
        """Errors (N, n_out) of what `read` found."""
        level = np.sqrt(np.mean(np.square(noise), axis=1))
        return scale_errors(self.arrays, *(found[name] for name in ANSWERS), level)
