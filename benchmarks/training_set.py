"""Seconds to make the training set of Zahid et al. (2019): all 46,305 spectra, prepared, labelled and in memory.

Ours composes them from 2,205; the peer synthesizes each galaxy from its own history with our `synthesize`, and prepares
it the same way. The peer makes every 47th galaxy, and its time is scaled to all.
"""

import numpy as np
import xarray as xr

from benchmarks.row import make_row, seconds
from spectool.continuum import ContinuumBasis, normalize_continuum
from spectool.papers.zahid2019.sample import make_sample, training_table
from spectool.synth import SSPGrid, sfh, synthesize
from spectool.synth.histories import durations, equal_light_intervals, metallicities

EVERY = 47
ROUNDS = 3
DISPERSION = 127.0  # km/s, with the templates' own width 330 km/s (FWHM) at 5250 A


def run():
    """The row, after a check that both make the same spectra."""
    grid, table = SSPGrid.embedded(), training_table()
    some = table.isel(galaxy=slice(None, None, EVERY))
    require_same(make_sample(grid, table=some, dtype="float32")["flux"].values, make_directly(some, grid))
    scale = table.sizes["galaxy"] / some.sizes["galaxy"]
    rounds = [(seconds(make_sample), scale * seconds(make_directly, some, grid)) for _ in range(ROUNDS)]
    ours, theirs = np.median(rounds, axis=0)
    peer = f"spectool synthesize galaxy by galaxy, scaled from {some.sizes['galaxy']} of them"
    return make_row("training_set_46305_seconds", ours, "s", peer, theirs, higher_is_better=False)


def make_directly(table, grid):
    """Prepared spectra (galaxy, n) from a history per galaxy; an age bin gets the metallicity of its middle."""
    duration = durations()[table["duration_index"].values]
    edges = equal_light_intervals(grid)[table["duration_index"].values] * 1e9
    middle = 0.5 * (grid.age_edges[1:] + grid.age_edges[:-1])
    interval = (middle > edges[:, 1:5, None]).sum(1)
    base, varied = (metallicities()[table[f"{name}_index"].values] for name in ("metallicity", "varied"))
    is_varied = interval == table["interval_index"].values[:, None]
    zero = ("galaxy", np.zeros(duration.size))
    galaxies = xr.Dataset(
        {
            "mass_formed": (("galaxy", "age"), sfh.constant(grid.age_edges, duration * 1e9)),
            "log_z_star": (
                ("galaxy", "age"),
                np.where(is_varied, varied[:, None], base[:, None]),
                {"z_sun": 0.02},
            ),
            "velocity_dispersion": ("galaxy", np.full(duration.size, DISPERSION)),
            **dict.fromkeys(("dust1", "dust2", "dust_index"), zero),
        },
        coords={"age": ("age", grid.age)},
    )
    basis = ContinuumBasis.optical()
    sample = synthesize(galaxies, grid, wavelength=basis.wavelength, nebular=False, progress=False)
    return normalize_continuum(sample["flux"].values[:, basis.keep], None, basis)[0]


def require_same(ours, theirs):
    """Raise if the spectra differ: a time counts only for the same work."""
    difference = (ours - theirs).std() / ours.std()
    if not difference < 0.08:
        raise ValueError(
            f"the training spectra are not those of the peer: they differ by {difference:.0%} of a feature"
        )
