"""What the mass-metallicity dashboard opens with: samples of galaxies, by the paper that they come from."""

from functools import partial

import numpy as np

from spectool.explore.mzr_quantities import quantities_of
from spectool.explore.mzr_spectra import rebuild_galaxy
from spectool.explore.mzr_zahid import read_zahid2019, rebuild_zahid2019
from spectool.papers.scourfield2023.sample import read_lines

# Classes of Table 1 of Scourfield (2023), in its order.
CLASSES = (
    "emission line galaxy",
    "absorption galaxy",
    "quiescent galaxy",
    "narrow-line AGN",
    "broad-line AGN",
)


# What may have one number per galaxy, and nothing else.
PER_GALAXY = ("oxygen", "oxygen_error", "h_alpha_sn", "log_sfr", "log_z_gas", "candidate")
PER_GALAXY += ("log_z_predicted", "log_z_error", "log_z_lw", "log_age_lw", "sn", "outlier", "redshift")


def check_sample(name, sample):
    """Return a sample with what the dashboard needs, or say what it lacks."""
    needed = {"log_mass": ("galaxy",)}
    if "line_flux" in sample or not quantities_of(sample):
        needed |= {"line_flux": ("galaxy", "line"), "line_flux_error": ("galaxy", "line")}
    needed |= {column: ("galaxy",) for column in PER_GALAXY if column in sample}
    for column, dims in needed.items():
        if column not in sample:
            hint = " (nor metallicities, 'oxygen' or 'log_z_predicted')" if column == "line_flux" else ""
            raise ValueError(f"the sample {name!r} has no column {column!r}{hint}")
        if set(sample[column].dims) != set(dims):
            raise ValueError(
                f"{column!r} of the sample {name!r} has the dimensions {sample[column].dims}, not {dims}"
            )
    if sample.sizes["galaxy"] == 0:
        raise ValueError(f"the sample {name!r} holds no galaxy")
    if "line_flux" in sample:
        sample = sample.transpose("galaxy", "line", ...)
        if "Hα" not in sample["line"].values:
            raise ValueError(f"the line table of the sample {name!r} has no line 'Hα'")
    if "candidate" not in sample:
        sample = sample.assign(candidate=("galaxy", np.arange(sample.sizes["galaxy"])))
    return sample


#: What a notebook may name in ``open_mzr_dashboard(samples=...)``, and how its spectra are rebuilt; see
#: `register_samples`.
READERS = {
    "scourfield2023": read_lines,
    "scourfield2023 null": partial(read_lines, "null"),
    "zahid2019": read_zahid2019,
    "zahid2019 null": partial(read_zahid2019, "null"),
}
REBUILDERS = {
    "scourfield2023": rebuild_galaxy,
    "scourfield2023 null": partial(rebuild_galaxy, sample="null"),
    "zahid2019": rebuild_zahid2019,
    "zahid2019 null": partial(rebuild_zahid2019, sample="null"),
}


def register_samples(key, reader, *, rebuild=None):
    """Make the galaxies of another paper known to the dashboard.

    Parameters
    ----------
    key : str
        What it is called, such as the paper's.
    reader : callable without arguments
        Returns samples by name; see `check_sample` for what each must hold.
    rebuild : callable, optional
        From a galaxy's ``candidate`` number to its spectra, an xarray.Dataset with ``flux`` (source, wavelength).
    """
    READERS[key] = reader
    if rebuild is not None:
        REBUILDERS[key] = rebuild


def read_samples(*keys, missing=None):
    """Read registered samples."""
    samples = {}
    for key in keys:
        if key not in READERS:
            raise KeyError(f"there are no samples {key!r}; there are: {', '.join(READERS)}")
        try:
            found = READERS[key]()
        except FileNotFoundError as error:
            if missing is None:
                raise
            missing.append(str(error))
            continue
        for name, sample in found.items():
            samples[f"{key}: {name}" if name in samples else name] = sample.assign_attrs(family=key)
    return samples
