"""What the dashboard of fluxes knows and does, without a widget: change a galaxy's photometry, and ask again."""

import threading
from dataclasses import dataclass, field

import numpy as np
import traitlets
import xarray as xr

from spectool.measure.sedfit import PROPERTIES, fit_library, nearest_models
from spectool.models.bands import FACILITY_BANDS
from spectool.papers.surana2020.network import predict_properties
from spectool.parallel import single_thread
from spectool.surveys.gama import BANDS

MOST_DEX = 1.0
"""How far a flux can be moved, up or down."""
MISTAKE = 1000.0
"""What fluxes in mJy are too high by if they are taken for Jy."""
N_NEAREST = 5
GROUPS = {
    "GALEX": FACILITY_BANDS["GALEX"],
    "WISE": FACILITY_BANDS["WISE"],
    "Herschel": FACILITY_BANDS["PACS"] + FACILITY_BANDS["SPIRE"],
}
"""Bands that a button drops together."""


@dataclass(frozen=True, eq=False)
class SedAnswer:
    """A galaxy's photometry as it was changed, and what is said of it."""

    flux: np.ndarray
    error: np.ndarray
    missing: np.ndarray
    predicted: dict
    reason: str = ""
    outlier_score: float = np.nan
    fitted: dict = field(default_factory=dict)
    fit_reason: str = ""
    nearest: xr.Dataset | None = None


class SedState(traitlets.HasTraits):
    """One galaxy, what was done to its fluxes, and the properties that follow."""

    galaxy = traitlets.Unicode(help="name of the galaxy")
    band = traitlets.Unicode(help="the band that moves")
    shifts = traitlets.Instance(np.ndarray, help="what was added to log flux (band,) [dex]")
    dropped = traitlets.Instance(np.ndarray, help="bands that were taken away (band,), bool")
    mistaken = traitlets.Bool(False, help="whether fluxes and errors in mJy are taken for Jy")
    answer = traitlets.Instance(SedAnswer, help="photometry and properties as they are now")

    def __init__(self, sample, networks, *, outliers=None, library=None):
        super().__init__()
        self.lock = threading.RLock()
        names = [str(name) for name in sample["name"].values] if "name" in sample else None
        self.names = names or [f"galaxy {i}" for i in range(sample.sizes["galaxy"])]
        if len(set(self.names)) < len(self.names):
            raise ValueError("two galaxies of the sample have the same name")
        if sample["flux"].attrs.get("units") != "Jy":
            raise ValueError(f"fluxes must be in Jy, not {sample['flux'].attrs.get('units')!r}: convert them")
        self.sample, self.networks, self.outliers, self.library = sample, networks, outliers, library
        self.bands = [str(band) for band in sample["band"].values]
        self.wavelength = 1e-4 * _wavelengths(sample, library)
        """Of the bands [micron]."""
        self._calibration = np.array([BANDS[b].calibration if b in BANDS else 0.0 for b in self.bands])
        self._noise = np.array([BANDS[b].noise if b in BANDS else 0.0 for b in self.bands])
        self.band = "r" if "r" in self.bands else self.bands[0]
        self.select_galaxy(self.names[0])

    # ---- the galaxy

    def select_galaxy(self, name):
        """Go to another galaxy, as it was observed."""
        if name not in self.names:
            raise KeyError(f"there is no galaxy {name!r}; there are: {', '.join(self.names)}")
        with self.lock:
            one = self.sample.isel(galaxy=[self.names.index(name)])
            self._one = one.transpose("galaxy", "band", ...)
            flux, error = (self._one[c].values[0].astype(float) for c in ("flux", "flux_error"))
            bad = ~np.isfinite(flux) | ~np.isfinite(error) | (error <= 0)
            bad |= self._one["mask"].values[0] if "mask" in one else False
            self.measured = ~bad
            self._flux, self._error = (np.where(bad, np.nan, values) for values in (flux, error))
            self.labels, self.truth = self._known("_fit"), self._known("")
            none = np.zeros(len(self.bands))
            self.original = self._ask(none, none > 0, mistaken=False)
            self._apply(none, none > 0, mistaken=False, answer=self.original, galaxy=name)

    def _known(self, ending):
        """Value, 16 and 84% of each property that the sample has a column for; NaN for what it does not tell."""
        found = {}
        for name in (n for n in PROPERTIES if n + ending in self._one):
            columns = [name + ending + end for end in ("", "_low", "_high")]
            found[name] = tuple(float(self._one[c].values[0]) if c in self._one else np.nan for c in columns)
        return found

    # ---- what is done to it

    def select_band(self, name):
        """Choose the band that `set_shift` moves."""
        self._index(name)
        self.band = name

    def set_shift(self, shift, *, band=None):
        """Multiply a flux by 10^shift."""
        if not np.isfinite(shift):
            raise ValueError(f"a shift must be finite, not {shift}")
        with self.lock:
            shifts = self.shifts.copy()
            shifts[self._index(band or self.band)] = np.clip(shift, -MOST_DEX, MOST_DEX)
            self._apply(shifts, self.dropped, mistaken=self.mistaken)

    def drop(self, *bands, dropped=True):
        """Take bands away, or give them back."""
        with self.lock:
            gone = self.dropped.copy()
            gone[[self._index(band) for band in bands]] = dropped
            self._apply(self.shifts, gone, mistaken=self.mistaken)

    def group_bands(self, name):
        """Bands of one of `GROUPS` that the sample has."""
        return [band for band in GROUPS[name] if band in self.bands]

    def is_dropped(self, *bands):
        """Whether all of some bands were dropped."""
        return bool(bands) and all(self.dropped[self._index(band)] for band in bands)

    def set_mistaken(self, mistaken):
        """Take fluxes and errors that are in mJy for Jy, as who misreads a catalogue does; or no longer."""
        with self.lock:
            self._apply(self.shifts, self.dropped, mistaken=bool(mistaken))

    def change(self, *, shifts, dropped, mistaken):
        """Do all at once to the galaxy as it was observed."""
        values, gone = np.zeros(len(self.bands)), np.zeros(len(self.bands), bool)
        for band, shift in shifts.items():
            values[self._index(band)] = shift
        for band in dropped:
            gone[self._index(band)] = True
        if not np.isfinite(values).all():
            raise ValueError("a shift must be finite")
        with self.lock:
            self._apply(np.clip(values, -MOST_DEX, MOST_DEX), gone, mistaken=bool(mistaken))

    def reset(self):
        """Go back to the galaxy as it was observed."""
        self.change(shifts={}, dropped=(), mistaken=False)

    def _index(self, band):
        if band not in self.bands:
            raise KeyError(f"there is no band {band!r}; there are {', '.join(self.bands)}")
        return self.bands.index(band)

    def _apply(self, shifts, dropped, *, mistaken, answer=None, galaxy=None):
        answer = answer or self._ask(shifts, dropped, mistaken=mistaken)
        with self.hold_trait_notifications():
            self.shifts, self.dropped, self.mistaken, self.answer = shifts, dropped, mistaken, answer
            self.galaxy = galaxy or self.galaxy

    # ---- what follows

    def move_fluxes(self, shifts):
        """Fluxes and errors after shifts (band,) [dex], both (band,) [Jy]; NaN where nothing was measured."""
        flux = self._flux * 10.0**shifts
        variance = self._error**2 + self._calibration**2 * (flux**2 - self._flux**2)
        # A measured flux may be above the one that its error was stated for: never below a point source's noise.
        least = np.minimum(self._error, self._noise) ** 2
        return flux, np.where(shifts == 0, self._error, np.sqrt(np.maximum(variance, least)))

    def _ask(self, shifts, dropped, *, mistaken):
        """The answer to changed photometry."""
        flux, error = self.move_fluxes(shifts)
        scale = MISTAKE if mistaken else 1.0
        flux, error, missing = scale * flux, scale * error, ~self.measured | dropped
        dims, attrs = ("galaxy", "band"), {"units": "Jy"}
        changed = xr.Dataset(
            {
                "flux": (dims, flux[None], attrs),
                "flux_error": (dims, error[None], attrs),
                "mask": (dims, missing[None], {"units": ""}),
                "redshift": self._one["redshift"],
            },
            coords={"band": self.bands},
        )
        with single_thread():
            return SedAnswer(flux, error, missing, **self._predict(changed), **self._fit(changed))

    def _predict(self, changed):
        try:
            found = predict_properties(changed, self.networks, outliers=self.outliers)
        except ValueError as error:  # fluxes that look like magnitudes, of a single galaxy
            return {
                "predicted": dict.fromkeys(self.networks.outputs, (np.nan, np.nan)),
                "reason": str(error),
            }
        score = float(found["outlier_score"].values[0]) if "outlier_score" in found else np.nan
        predicted = {
            name: (float(found[name].values[0]), float(found[f"{name}_error"].values[0]))
            for name in self.networks.outputs
        }
        return {"predicted": predicted, "reason": str(found["reason"].values[0]), "outlier_score": score}

    def _fit(self, changed):
        if self.library is None:
            return {}
        try:
            fitted = fit_library(changed, self.library, progress=False)
        except ValueError as error:  # as in _predict
            return {
                "fitted": dict.fromkeys(PROPERTIES, (np.nan,) * 3),
                "fit_reason": str(error),
                "nearest": None,
            }
        reason = str(fitted["fit_reason"].values[0])
        values = {
            name: tuple(float(fitted[name + end].values[0]) for end in ("_fit", "_fit_low", "_fit_high"))
            for name in PROPERTIES
        }
        nearest = None
        if not reason:
            nearest = nearest_models(changed, self.library, n=N_NEAREST).isel(galaxy=0)
        return {"fitted": values, "fit_reason": reason, "nearest": nearest}


def _wavelengths(sample, library):
    """Of the sample's bands [Angstrom]."""
    for source in (sample, library):
        if source is not None and "band_wavelength" in source.coords:
            return source["band_wavelength"].sel(band=sample["band"].values).values.astype(float)
    raise ValueError(
        "the sample lacks the coordinate band_wavelength (band) [Angstrom], and no library has it"
    )
