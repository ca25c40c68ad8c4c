"""Training galaxies as shallower and deeper surveys would see them."""

import numpy as np

from spectool.models.bands import FACILITY_BANDS, BandInputs

VARIED = (0.02, 3.0)


def vary_errors(inputs: BandInputs, true_flux: np.ndarray, *, bands, seed) -> BandInputs:
    """The same galaxies with errors of another size, alike in all bands but for 0.5 in the logarithm per facility."""
    rng = np.random.default_rng(seed)
    factor = np.exp(rng.uniform(*np.log(VARIED), (len(inputs), 1))) * np.ones(inputs.value.shape)
    for members in FACILITY_BANDS.values():
        factor[:, np.isin(bands, members)] *= np.exp(0.5 * rng.standard_normal((len(inputs), 1)))
    error = inputs.error * factor
    flux = true_flux + error * rng.standard_normal(error.shape)
    return BandInputs(flux, error, inputs.mask, inputs.redshift)
