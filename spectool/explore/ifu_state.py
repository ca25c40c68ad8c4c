"""What the galaxy-map dashboard knows and does, without a widget: usable, and tested, from plain code."""

import threading

import numpy as np
import traitlets
import xarray as xr
from astropy.stats import mad_std

from spectool.explore import ifu_data as data
from spectool.explore.ifu_gradients import fit_galaxy

VIEWS = ("value", "difference", "error")
DEFAULTS = {"quantity": "log_age", "view": "value", "reference": data.TRUTH}
KEPT = 8  # galaxies whose rebuilt spectra stay in memory


class IfuState(traitlets.HasTraits):
    """Which galaxy is mapped, in which version of its ages and metallicities, and which spectrum is looked at."""

    galaxy = traitlets.Int(-1, help="row of the galaxy table that is mapped")
    source = traitlets.Unicode(help="version of ages and metallicities that is mapped")
    quantity = traitlets.Unicode(help='"log_age" or "log_z"')
    view = traitlets.Unicode(
        help='what is mapped: "value", "difference" from the labels, or predicted "error"'
    )
    reference = traitlets.Unicode(help='labels to compare with: "truth" or "fitted"')
    spectrum = traitlets.Int(-1, help="position of the spectrum that is drawn; -1 for none")
    index = traitlets.Instance(np.ndarray, help="positions of the galaxy's spectra")
    points = traitlets.Dict(help="columns of the galaxy's spectra, float32, by name")
    limits = traitlets.Tuple(help="range of the map's colours, the same for all sources of the galaxy")
    gradients = traitlets.Dict(help="`spectool.explore.ifu_gradients.Gradient` by source, of the quantity")
    spectra = traitlets.Instance(xr.Dataset, allow_none=True, help="rebuilt, of the galaxy")
    busy = traitlets.Bool(False, help="whether spectra are being rebuilt")
    problem = traitlets.Unicode(help="why there are no spectra, in words")

    def __init__(self, sample, predictions=None, *, rebuild=None):
        super().__init__()
        self.lock = threading.RLock()
        self.sample, self.rebuild = sample, rebuild
        self.start = lambda function, *arguments: function(*arguments)
        self.sources = data.read_sources(sample, predictions or {})
        self.references = tuple(name for name, source in self.sources.items() if not source.predicted)
        galaxy_index = sample["galaxy_index"].values.astype(int)
        self.members = {int(g): np.flatnonzero(galaxy_index == g) for g in np.unique(galaxy_index)}
        if not self.members:
            raise ValueError("the sample has no spectrum")
        self.galaxies = {
            g: data.describe_galaxy(sample, g, members.size) for g, members in self.members.items()
        }
        self._all_gradients, self._rebuilt, self._request = {}, {}, 0
        self.reset()

    # ---- what is shown

    def values(self, source=None, quantity=None):
        """Ages or metallicities of the galaxy's spectra, (n,) [dex]; of the chosen source and quantity by default."""
        return self.sources[source or self.source].values[quantity or self.quantity][self.index]

    def errors(self):
        """Predicted errors of the chosen source and quantity, (n,) [dex]; NaN where there are none."""
        errors = self.sources[self.source].errors.get(self.quantity)
        return np.full(self.index.size, np.nan) if errors is None else errors[self.index]

    def choose(self, **options):
        """Map another galaxy, source, quantity or view, or compare with other labels."""
        allowed = {
            "galaxy": tuple(self.members),
            "source": tuple(self.sources),
            "quantity": tuple(data.QUANTITIES),
            "view": VIEWS,
            "reference": self.references,
        }
        for name, value in options.items():
            if name not in allowed:
                raise ValueError(f"no option {name!r}; there are {', '.join(allowed)}")
            if value not in allowed[name]:
                some = ", ".join(map(str, allowed[name][:8])) + (", …" if len(allowed[name]) > 8 else "")
                raise ValueError(f"{name} {value!r} is none of {some}")
        with self.lock, self.hold_trait_notifications():
            moved = options.get("galaxy", self.galaxy) != self.galaxy
            for name, value in options.items():
                setattr(self, name, value)
            if moved:
                self._go_to_galaxy()
            self._place()

    def step(self, by):
        """Map the next (1) or the last (-1) galaxy, and begin anew at the end."""
        with self.lock:
            numbers = list(self.members)
            self.choose(galaxy=numbers[(numbers.index(self.galaxy) + by) % len(numbers)])

    def select(self, spectrum):
        """Look at one of the galaxy's spectra."""
        with self.lock:
            if spectrum not in self.index:
                raise ValueError(f"spectrum {spectrum} is not of the galaxy that is mapped")
            self.spectrum = int(spectrum)

    def reset(self):
        """Go back to what the dashboard opens with."""
        with self.lock:
            self.choose(galaxy=next(iter(self.members)), source=list(self.sources)[-1], **DEFAULTS)
            self.select(self.middle())

    def middle(self):
        """Position of the galaxy's innermost spectrum."""
        radius = self.sample["radius"].values[self.index]
        return int(self.index[np.argmin(np.where(np.isfinite(radius), radius, np.inf))])

    def _go_to_galaxy(self):
        self.index = self.members[self.galaxy]
        self.spectrum = self.middle()
        self._request += 1
        self.spectra, self.problem, self.busy = self._rebuilt.get(self.galaxy), "", False
        if self.spectra is None and self.rebuild is not None:
            self.busy = True
            self.start(self._rebuild, self._request, self.galaxy)

    def _place(self):
        """Compute what the panels draw."""
        at, sample = self.index, self.sample
        value, reference = self.values(), self.values(self.reference)
        columns = {name: sample[name].values[at] for name in ("x", "y", "radius")}
        columns |= {"value": value, "reference": reference, "error": self.errors()}
        columns["shown"] = {"value": value, "difference": value - reference, "error": columns["error"]}[
            self.view
        ]
        self.points = {name: np.asarray(column, dtype=np.float32) for name, column in columns.items()}
        self.limits = self._find_limits()
        if self.galaxy not in self._all_gradients:
            one, columns = data.galaxy_sample(sample, at, self.sources)
            self._all_gradients[self.galaxy] = fit_galaxy(one, columns)
        fits = self._all_gradients[self.galaxy]
        self.gradients = {name: fits[data.column_name(name, self.quantity)] for name in self.sources}

    def _find_limits(self):
        """One range for all sources: a map must not look better for its own colours."""
        if self.view == "value":
            everything = np.concatenate([self.values(name) for name in self.sources])
            good = everything[np.isfinite(everything)]
            low, high = np.quantile(good, [0.02, 0.98]) if good.size else (0.0, 1.0)
        elif self.view == "difference":
            others = [n for n in self.sources if n != self.reference]
            apart = [np.abs(self.values(n) - self.values(self.reference)) for n in others] or [np.zeros(1)]
            apart = np.concatenate(apart)
            good = apart[np.isfinite(apart)]
            high = max(float(np.quantile(good, 0.95)) if good.size else 0.0, 0.02)
            low = -high
        else:
            errors = [s.errors[self.quantity][self.index] for s in self.sources.values() if s.errors]
            good = np.concatenate(errors or [np.zeros(0)])
            good = good[np.isfinite(good)]
            low, high = 0.0, float(np.quantile(good, 0.98)) if good.size else 1.0
        return float(low), float(max(high, low + 0.02))

    def scatter(self):
        """How far the chosen source lies from the labels in this galaxy."""
        difference = self.points["value"] - self.points["reference"]
        good = difference[np.isfinite(difference)].astype(float)
        if not good.size:
            return float("nan"), float("nan")
        return float(np.median(good)), float(mad_std(good))

    # ---- spectra

    def _rebuild(self, request, galaxy):
        """Rebuild spectra outside the lock, and draw them if they are still wanted."""
        spectra, problem = None, ""
        try:
            spectra = self.rebuild(self.sample, galaxy)
            if spectra["flux"].shape[0] != self.members[galaxy].size:
                raise ValueError(f"{spectra['flux'].shape[0]} spectra came back")
        except (FileNotFoundError, KeyError, ValueError, MemoryError) as error:
            spectra, problem = None, f"the spectra could not be rebuilt: {error}"
        with self.lock, self.hold_trait_notifications():
            if spectra is not None:
                self._rebuilt[galaxy] = spectra
                while len(self._rebuilt) > KEPT:
                    self._rebuilt.pop(next(iter(self._rebuilt)))
            if request == self._request:
                self.busy, self.spectra, self.problem = False, spectra, problem

    def photometry(self):
        """Bands and spectrum that are looked at."""
        with self.lock:
            flux, error = data.bands_of(self.sample, self.spectrum)
            at, width = data.band_wavelengths(self.sample)
            wavelength = spectrum = np.zeros(0)
            if self.spectra is not None:
                row = int(np.flatnonzero(self.index == self.spectrum)[0])
                wavelength = np.asarray(self.spectra["wavelength"].values, dtype=float)
                spectrum = data.to_f_nu(wavelength, self.spectra["flux"].values[row], at, flux)
            bands = {"band_wavelength": at, "band_width": width, "band_flux": flux, "band_error": error}
            return bands | {"wavelength": wavelength, "flux": spectrum}
