"""Mean spectra of galaxies of like mass, as Zahid et al. (2019, Section 3.1) stack them, accumulated in passing."""

from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from spectool.io import atomic
from spectool.prepare import stack_wavelength

MASS_EDGES = np.round(np.arange(8.5, 11.05, 0.1), 1)
"""Edges of the 25 bins [dex Msun]."""
_SUMS = ("flux", "variance", "square", "count", "truth")
_MEANS = ("log_mass", "log_sfr", "log_z_lw", "age_lw", "log_z_gas", "velocity_dispersion", "redshift", "sn")


@dataclass
class StackSums:
    """Running sums of spectra, each normalised to a mean of 1 over 4400-4450 A, by stellar mass."""

    sums: dict = field(
        default_factory=lambda: {
            name: np.zeros((MASS_EDGES.size - 1, stack_wavelength().size)) for name in _SUMS
        }
    )
    columns: dict = field(default_factory=dict)

    def add(self, sample):
        """Add galaxies; those outside the bins, or without a positive norm, are left out."""
        which = np.digitize(sample["log_mass"].values, MASS_EDGES) - 1
        rows = np.flatnonzero((which >= 0) & (which < MASS_EDGES.size - 1) & (sample["norm"].values > 0))
        member = np.zeros((MASS_EDGES.size - 1, rows.size), "f4")
        member[which[rows], np.arange(rows.size)] = 1
        norm = sample["norm"].values[rows, None].astype("f4")
        good = ~sample["mask"].values[rows]
        flux = np.where(good, sample["flux"].values[rows] / norm, 0)
        ivar = sample["ivar"].values[rows] * norm**2
        truth = sample["truth"].values[rows]
        window = (stack_wavelength() >= 4400) & (stack_wavelength() <= 4450)
        values = {
            "flux": flux,
            "variance": np.divide(1, ivar, out=np.zeros_like(ivar), where=good),
            "square": flux**2,
            "count": good.astype("f4"),
            "truth": truth / truth[:, window].mean(axis=1, keepdims=True),
        }
        for name in _SUMS:
            self.sums[name] += member @ values[name]
        for name in (*_MEANS, "light"):
            self.columns.setdefault(name, []).append(sample[name].values[rows])
        self.columns.setdefault("bin", []).append(which[rows])

    def save(self, path, **more):
        """Write everything to a ``.npz`` file, whole or not at all."""
        columns = {f"column_{k}": np.concatenate(v) for k, v in self.columns.items()}
        with atomic(path) as part:
            np.savez(part, **self.sums, **columns, **more)

    @classmethod
    def load(cls, path):
        """The sums of a file of `save`, and the other arrays in it."""
        stored = dict(np.load(path))
        sums = {name: stored.pop(name) for name in _SUMS}
        names = [name for name in stored if name.startswith("column_")]
        columns = {name.removeprefix("column_"): [stored.pop(name)] for name in names}
        return cls(sums, columns), stored

    def to_dataset(self):
        """The stacks."""
        count = self.sums["count"]
        columns = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        which = columns.pop("bin", np.zeros(0, int))
        n = np.bincount(which, minlength=len(count))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.sums["flux"] / count
            ivar = np.where(count > 0, count**2 / self.sums["variance"], 0)
            scatter = np.sqrt(np.maximum(self.sums["square"] / count - mean**2, 0))
            truth = self.sums["truth"] / n[:, None]
        pixels = {
            "flux": np.where(count > 0, mean, 0),
            "ivar": ivar,
            "scatter": np.nan_to_num(scatter),
            "truth": np.nan_to_num(truth),
        }
        dims = ("stack", "wavelength")
        out = xr.Dataset(
            {name: (dims, values.astype("f4"), {"units": ""}) for name, values in pixels.items()}
        )
        out["mask"] = (dims, count == 0, {"units": "", "description": "True = bad"})
        units = {
            "log_mass": "dex(Msun)",
            "log_sfr": "dex(Msun / yr)",
            "age_lw": "Gyr",
            "velocity_dispersion": "km / s",
        }
        units |= {"log_z_lw": "dex", "log_z_gas": "dex"}
        for name, values in columns.items():
            out[name] = ("stack", _by_bin(np.mean, values, which, len(n)), {"units": units.get(name, "")})
        if columns:
            light, log_z = columns["light"], columns["log_z_lw"]
            weighted = np.bincount(which, light * log_z, len(n)) / np.where(
                n > 0, np.bincount(which, light, len(n)), np.nan
            )
            out["log_z_light"] = ("stack", weighted, {"units": "dex", "z_sun": 0.02})
            out["median_log_z_lw"] = (
                "stack",
                _by_bin(np.median, log_z, which, len(n)),
                {"units": "dex", "z_sun": 0.02},
            )
        out["n_galaxies"] = ("stack", n, {"units": ""})
        out["mass_low"] = ("stack", MASS_EDGES[:-1], {"units": "dex(Msun)"})
        out["mass_high"] = ("stack", MASS_EDGES[1:], {"units": "dex(Msun)"})
        coordinate = (
            "wavelength",
            stack_wavelength(),
            {"units": "Angstrom", "description": "vacuum, rest frame"},
        )
        return out.assign_coords(wavelength=coordinate).assign_attrs(frame="rest", z_sun=0.02)


def _by_bin(statistic, values, which, n):
    return np.array([statistic(values[which == k]) if (which == k).any() else np.nan for k in range(n)])
