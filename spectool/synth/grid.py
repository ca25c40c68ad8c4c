"""The grid of simple stellar populations that galaxies are made of, and what it is made of itself."""

import json
from dataclasses import dataclass, field
from functools import cache, cached_property
from types import SimpleNamespace

import numpy as np

from spectool.io import DATA
from spectool.spectra import pixel_edges, rebin_matrix
from spectool.synth.sfh import age_bin_edges
from spectool.synth.sources import LAYOUT, ionizing_photon_rate, load_fsps_grid, load_ppxf_grid, ssp_dataset

EMBEDDED = {"optical": "bc03_miles_optical", "broadband": "bc03_miles_broadband"}


@dataclass(frozen=True)
class NebularGrid:
    """Emission of ionised gas around young stars, per solar mass of stars formed."""

    metallicity: np.ndarray
    log_u: np.ndarray
    age_edges: np.ndarray
    line_name: np.ndarray
    line_wavelength: np.ndarray
    line_luminosity: np.ndarray
    continuum_wavelength: np.ndarray
    continuum: np.ndarray
    ionizing_rate: np.ndarray
    provenance: dict = field(default_factory=dict)

    @cached_property
    def continuum_components(self):
        """The continuum as a product (Z * u * a, k) @ (k, m): smooth, so few components carry it to 1e-5."""
        flat = self.continuum.reshape(-1, self.continuum_wavelength.size).astype(float)
        left, values, right = np.linalg.svd(flat, full_matrices=False)
        kept = int((values > 1e-5 * values[0]).sum())
        return left[:, :kept] * values[:kept], right[:kept]

    @classmethod
    def embedded(cls):
        """Cloudy models for BC03-MILES stars (see NOTICE)."""
        data = _load("cloudy_nebular")
        scale = data.pop("continuum_scale")
        data["continuum"] = data["continuum"].astype("f4") * scale
        data["ionizing_rate"] = 10.0 ** data.pop("log_ionizing_rate").astype(float)
        return cls(**data)


def load_dust_emission():
    """Infrared emission of dust, the tables of Draine & Li (2007): qpah, umin, wavelength, energy (see NOTICE)."""
    data = _load("dl07_dust")
    data["energy"] = data["energy"].astype("f4") * data.pop("energy_scale")
    return SimpleNamespace(**data)


@dataclass(frozen=True)
class SSPGrid:
    """Simple stellar populations: one spectrum per metallicity and age.

    Attributes
    ----------
    edges : ndarray, shape (n + 1,)
        Edges of the pixels, vacuum [Angstrom].
    age : ndarray, shape (a,)
        Ages [yr]; each stands for the bin between `age_edges`.
    metallicity : ndarray, shape (Z,)
        Absolute metallicity (mass fraction of metals), increasing.
    flux : ndarray, shape (Z, a, n)
        Mean luminosity density in the pixels [Lsun / Angstrom] per solar mass formed.
    surviving_mass : ndarray, shape (Z, a)
        Mass in living stars per mass formed (for BC03 without remnants; a library says what it counts).
    ionizing_rate : ndarray, shape (Z, a)
        Photons shortward of 912 A [1 / s / Msun].
    z_sun : float
        The library's solar metallicity.
    fwhm : float
        Resolution [Angstrom] in the optical.
    nebular : NebularGrid or None
    provenance : dict
        What the grid is made of; ``name``, ``stars``, ``imf`` and ``source`` at least.
    """

    edges: np.ndarray
    age: np.ndarray
    metallicity: np.ndarray
    flux: np.ndarray
    surviving_mass: np.ndarray
    ionizing_rate: np.ndarray
    z_sun: float
    fwhm: float
    nebular: NebularGrid | None
    provenance: dict

    def __post_init__(self):
        shape = (len(self.metallicity), len(self.age), len(self.edges) - 1)
        if self.flux.shape != shape:
            raise ValueError(
                f"flux has shape {self.flux.shape}; metallicity, age and wavelength make {shape}"
            )
        for name in ("metallicity", "age", "edges"):
            if not np.all(np.diff(getattr(self, name)) > 0):
                raise ValueError(f"the grid's {name} must increase")
        if not np.isfinite(self.flux).all():
            raise ValueError("the grid's flux holds values that are not finite")

    @property
    def wavelength(self):
        """Pixel centres, vacuum [Angstrom]."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    @property
    def age_edges(self):
        """Edges of the age bins [yr], from 0."""
        return age_bin_edges(self.age)

    @classmethod
    def embedded(cls, kind="optical"):
        """The grid that comes with spectool: BC03-MILES stars and Cloudy gas.

        Parameters
        ----------
        kind : {"optical", "broadband"}
            980-10100 A at the MILES sampling, or 912 A - 1 mm at R = 200 for photometry and dust emission.
        """
        if kind not in EMBEDDED:
            raise ValueError(f"no embedded grid {kind!r}; choose from {sorted(EMBEDDED)}")
        data = _load(EMBEDDED[kind])
        centres = 0.5 * (data["edges"][1:] + data["edges"][:-1])
        smooth = _interpolate_log(data.pop("nodes"), data.pop("log_continuum"), centres)
        data["flux"] = (data.pop("ratio").astype("f4") * np.exp(smooth)).astype("f4")
        data["ionizing_rate"] = 10.0 ** data.pop("log_ionizing_rate").astype(float)
        return cls(**data, nebular=NebularGrid.embedded())

    @classmethod
    def from_fsps(cls, **options):
        """A grid computed by FSPS; see `spectool.synth.sources.load_fsps_grid` for the options."""
        return cls.from_dataset(load_fsps_grid(**options))

    @classmethod
    def from_ppxf(cls, path, **options):
        """Templates in pPXF's file format, such as E-MILES; see `spectool.synth.sources.load_ppxf_grid`."""
        return cls.from_dataset(load_ppxf_grid(path, embedded_grid, **options))

    @classmethod
    def from_dataset(cls, dataset):
        """Your own grid.

        Parameters
        ----------
        dataset : xarray.Dataset
            Coordinates ``metallicity`` (absolute), ``age`` [yr], ``wavelength`` [Angstrom, vacuum]; variable ``flux``
            with these dimensions [Lsun / Angstrom / Msun]; optional ``surviving_mass`` (default 1) and
            ``ionizing_rate`` (default: integrated below 912 A, and no nebular emission if the grid begins redder).
            ``attrs``: ``z_sun``, ``fwhm`` and ``provenance`` (dict or JSON) with at least a ``name``.

        Raises
        ------
        ValueError
            Naming what is missing.
        """
        missing = [name for name in ("metallicity", "age", "wavelength") if name not in dataset.coords]
        missing += [name for name in ("flux",) if name not in dataset]
        missing += [name for name in ("z_sun", "fwhm", "provenance") if name not in dataset.attrs]
        if missing:
            raise ValueError(f"this Dataset is no SSP grid: it lacks {', '.join(missing)}")
        provenance = dataset.attrs["provenance"]
        provenance = json.loads(provenance) if isinstance(provenance, str) else dict(provenance)
        flux, surviving, rate = (
            dataset[name].transpose(*LAYOUT[name][0]).values if name in dataset else None
            for name in ("flux", "surviving_mass", "ionizing_rate")
        )
        wavelength = dataset["wavelength"].values.astype(float)
        if rate is None and wavelength[0] < 600:
            rate = ionizing_photon_rate(flux, wavelength)
        return cls(
            edges=pixel_edges(wavelength),
            age=dataset["age"].values.astype(float),
            metallicity=dataset["metallicity"].values.astype(float),
            flux=flux.astype("f4"),
            surviving_mass=np.ones(flux.shape[:2]) if surviving is None else surviving,
            ionizing_rate=np.zeros(flux.shape[:2]) if rate is None else rate,
            z_sun=float(dataset.attrs["z_sun"]),
            fwhm=float(dataset.attrs["fwhm"]),
            nebular=None if rate is None else NebularGrid.embedded(),
            provenance=provenance,
        )

    def to_dataset(self):
        """The stellar part as a Dataset, the inverse of `from_dataset`."""
        names = ("flux", "surviving_mass", "ionizing_rate", "metallicity", "age", "wavelength")
        attrs = {"z_sun": self.z_sun, "fwhm": self.fwhm, "provenance": json.dumps(self.provenance)}
        return ssp_dataset({name: getattr(self, name) for name in names}, attrs)

    def rebinned_flux(self, edges):
        """SSP spectra on other pixels, flux conserved."""
        if edges[0] < self.edges[0] - 1e-6 or edges[-1] > self.edges[-1] + 1e-6:
            raise ValueError(
                f"wavelengths {edges[0]:.0f}-{edges[-1]:.0f} A reach beyond the grid's "
                f"{self.edges[0]:.0f}-{self.edges[-1]:.0f} A"
            )
        operator = rebin_matrix(self.edges, edges).astype("f4")
        flat = self.flux.reshape(-1, self.flux.shape[-1])
        return np.ascontiguousarray((operator @ flat.T).T).reshape(*self.flux.shape[:2], -1)


def _interpolate_log(nodes, values, wavelength):
    """Values linear in log wavelength between nodes, shape (..., n)."""
    position = np.interp(np.log(wavelength), np.log(nodes), np.arange(nodes.size))
    low = np.minimum(position.astype(int), nodes.size - 2)
    share = (position - low).astype("f4")
    return values[..., low] * (1 - share) + values[..., low + 1] * share


@cache
def embedded_grid():
    """The optical grid that comes with spectool, read once."""
    return SSPGrid.embedded()


def _load(name):
    """Arrays of one file of embedded data, with its provenance parsed."""
    with np.load(DATA / f"{name}.npz") as archive:
        data = {key: archive[key] for key in archive.files}
    data["provenance"] = json.loads(str(data["provenance"]))
    for scalar in ("z_sun", "fwhm"):
        if scalar in data:
            data[scalar] = float(data[scalar])
    return data
