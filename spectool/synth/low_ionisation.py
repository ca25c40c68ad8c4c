"""Mend the low-ionisation lines of the Cloudy grid, which come out too strong in metal-rich galaxies."""

import numpy as np
import torch

from spectool.synth.nebular import add_lines
from spectool.wavelength import pixel_edges

# Lines of O+, S+ and of neutral oxygen and nitrogen within the optical, by their names in the grid.
LOW_IONISATION = (
    "O 2 3726",
    "O 2 3729",
    "Blnd 7323",
    "Blnd 7332",
    "S 2 4069",
    "S 2 4076",
    "S 2 6716",
    "S 2 6731",
)
LOW_IONISATION += ("O 1 5577", "O 1 6300", "O 1 6364", "N 1 5200")


def low_ionisation_offset(log_z_gas):
    """Correction of the grid's low-ionisation lines [dex]: 0 at 0.27 solar and below, -0.48 at 0.7 solar and above.

    The grid gives star-forming galaxies their place on the diagram of Baldwin, Phillips & Terlevich only with
    ionisation parameters down to 10^-3.85, at which its [SII]/H-alpha is up to 0.48 dex above that of 2,100
    galaxies of the ECO survey (Moffett et al. 2015) of the same mass: -0.5 at all masses. With the offset, which is
    read off their [SII], [OI] comes to within 0.15 dex of theirs, and [OII]/H-alpha falls from 1.8 to 1.2 (metal-poor)
    - 0.6 (metal-rich), as observed (1.2 +- 0.3 of Kewley et al. 2004, AJ 127, 2002, who find it falling with
    metallicity).

    Parameters
    ----------
    log_z_gas : array_like
        [dex], on the scale of `spectool.synth.relations.OXYGEN_SUN`.

    Returns
    -------
    ndarray
    """
    return np.clip(-0.48 - 1.15 * (np.asarray(log_z_gas) + 0.15), -0.48, 0.0)


def mend_low_ionisation(sample):
    """Scale the low-ionisation lines of star-forming gas in spectra that are synthesized already.

    Parameters
    ----------
    sample : Dataset
        From `spectool.synth.synthesis.synthesize` with ``keep_lines=True``; before other lines are added.

    Returns
    -------
    Dataset
        A new one, with ``flux`` and ``line_luminosity`` changed by the same light.
    """
    names, at = sample["line"].values, sample["line_wavelength"].values
    where = np.flatnonzero(np.isin(names, LOW_IONISATION))
    lines = sample["line_luminosity"].transpose("galaxy", "line").values.copy()
    change = 10.0 ** low_ionisation_offset(sample["log_z_gas"].values)[:, None] - 1
    light = (lines[:, where] * change).astype("f4")
    lines[:, where] += light
    flux = sample["flux"].transpose("galaxy", "wavelength").values.copy()
    dispersion = sample["gas_dispersion" if "gas_dispersion" in sample else "velocity_dispersion"].values
    add_lines(
        torch.from_numpy(flux),
        torch.from_numpy(pixel_edges(sample["wavelength"].values)),
        at[where],
        torch.from_numpy(light),
        torch.from_numpy(dispersion.astype("f4")),
        sample.attrs["fwhm"],
    )
    return sample.assign(
        flux=(("galaxy", "wavelength"), flux, sample["flux"].attrs),
        line_luminosity=(("galaxy", "line"), lines, sample["line_luminosity"].attrs),
    )
