"""What the line-flux dashboard knows and does, without a widget: usable, and tested, from plain code."""

import threading

import numpy as np
import traitlets
import xarray as xr

from spectool.explore import line_data as data
from spectool.measure.classes import CLASSES
from spectool.measure.stats import running_percentiles, summarize

MAX_LIVE = 20  # brushed galaxies that are noised, de-noised and fitted again at each move of the slider
SIGMA, SIGMA_RANGE = 0.04, (0.005, 0.1)
DEFAULTS = {
    "line": "Hα",
    "quantity": "peak",
    "kind": "VAE",
    "size": 4,
    "axes": (0, 1),
    "diagrams": "original",
}
EVERY_SN = (0.0, np.inf)


class LineState(traitlets.HasTraits):
    """Which line of which model is compared, which galaxies take part, and which are brushed."""

    line = traitlets.Unicode(help="line that is compared")
    quantity = traitlets.Unicode(help='"peak" or "integrated"')
    kind = traitlets.Unicode(help="PCA, AE or VAE")
    size = traitlets.Int(help="latent dimensions of the model")
    axes = traitlets.Tuple(help="the two latent dimensions that are drawn")
    diagrams = traitlets.Unicode(help='lines behind BPT and metallicity: "original" or "recovered"')
    classes = traitlets.Tuple(help="spectral classes that take part")
    sn_range = traitlets.Tuple(help="smallest and largest S/N of Hα in the original spectrum that take part")
    sigma = traitlets.Float(help="noise added per pixel of a normalised spectrum")
    brushed = traitlets.Instance(np.ndarray, help="positions along `galaxy`, sorted")
    shown = traitlets.Int(-1, help="position of the galaxy whose spectrum is drawn; -1 for none")
    points = traitlets.Dict(help="columns (galaxy,) of all panels, float32; NaN where not drawn")
    bins = traitlets.Dict(help="from `spectool.explore.line_running_percentiles`")
    summary = traitlets.Dict(help="from `spectool.explore.line_summarize`")
    live = traitlets.Dict(help="the same columns for `live_index`, from spectra made now; empty for none")
    spectra = traitlets.Instance(xr.Dataset, allow_none=True, help="of `live_index`, original to fit")
    busy = traitlets.Bool(False, help="whether spectra are being rebuilt")
    problem = traitlets.Unicode(help="why the brushed galaxies have no spectra, in words")

    def __init__(self, product, pipeline, *, start=None):
        super().__init__()
        self.lock = threading.RLock()
        self.product, self.pipeline = product, pipeline
        self._start = start or (lambda function, *arguments: function(*arguments))
        self.lines = tuple(str(name) for name in product["line"].values)
        self.candidates = product["candidate"].values.astype(int)
        self.galaxy_class = product["spectral_class"].values.astype(str)
        self.sn = data.signal_to_noise(product)
        self._diagrams, self._rebuilt, self._request = {}, {}, 0
        self._together = ((), None)
        self.live_index = np.zeros(0, dtype=int)
        self.reset()

    # ---- what is compared

    @property
    def source(self):
        """Name of the chosen model, such as "VAE 4"."""
        return data.source_name(self.kind, self.size)

    @property
    def passing(self):
        """Which galaxies (galaxy,) the filters let through."""
        low, high = self.sn_range
        return np.isin(self.galaxy_class, self.classes) & (self.sn >= low) & (self.sn <= high)

    def choose(self, **options):
        """Compare another line, quantity, model or pair of latent dimensions."""
        with self.lock:
            new = {**{name: getattr(self, name) for name in DEFAULTS}, **options}
            self._check(new, options)
            if max(new["axes"]) >= new["size"]:
                new["axes"] = DEFAULTS["axes"]
            other_model = (new["kind"], new["size"]) != (self.kind, self.size)
            with self.hold_trait_notifications():
                for name in DEFAULTS:
                    setattr(self, name, tuple(new[name]) if name == "axes" else new[name])
                self._place()
                self._run() if other_model else self._place_live()

    def _check(self, new, options):
        allowed = {
            "line": self.lines,
            "quantity": tuple(data.QUANTITIES),
            "kind": data.KINDS,
            "size": data.SIZES,
            "diagrams": ("original", "recovered"),
        }
        unknown = sorted(options.keys() - DEFAULTS.keys())
        if unknown:
            raise ValueError(f"no option {unknown[0]!r}; there are {', '.join(DEFAULTS)}")
        for name, choices in allowed.items():
            if new[name] not in choices:
                raise ValueError(f"{name} {new[name]!r} is none of {', '.join(map(str, choices))}")
        source = data.source_name(new["kind"], new["size"])
        if source not in self.product["source"].values:
            raise ValueError(f"the table of lines has no model {source!r}")
        axes = new["axes"]
        if len(axes) != 2 or not all(isinstance(k, int | np.integer) and k >= 0 for k in axes):
            raise ValueError(f"axes are two dimensions, counted from 0; got {axes!r}")
        if "axes" in options and max(axes) >= new["size"]:
            raise ValueError(f"{source} has the dimensions 0 to {new['size'] - 1}; got {axes!r}")

    def set_filter(self, *, classes=None, sn_range=None):
        """Let only some galaxies take part."""
        classes = self.classes if classes is None else tuple(classes)
        low, high = (float(value) for value in (self.sn_range if sn_range is None else sn_range))
        unknown = [name for name in classes if name not in CLASSES]
        if unknown:
            raise ValueError(f"no class {unknown[0]!r}; there are {', '.join(CLASSES)}")
        if not low <= high:
            raise ValueError(f"a range of S/N runs from low to high; got {low:g} to {high:g}")
        with self.lock, self.hold_trait_notifications():
            self.classes, self.sn_range = tuple(c for c in CLASSES if c in classes), (low, high)
            self._place()
            self._choose_live()

    def reset(self):
        """Go back to what the dashboard opens with."""
        with self.lock, self.hold_trait_notifications():
            for name, value in DEFAULTS.items():
                setattr(self, name, value)
            self.classes, self.sn_range, self.sigma = CLASSES, EVERY_SN, SIGMA
            self._place()
            self.brush(self.example())
            if self.live_index.size:
                self.show(self.live_index[-1])

    def _place(self):
        """Compute the columns of all panels."""
        passing = self.passing
        x, x_error = data.log_flux(self.product.sel(source="original"), self.line, self.quantity)
        y, y_error = data.log_flux(self.product.sel(source=self.source), self.line, self.quantity)
        x, y = np.where(passing, x, np.nan), np.where(passing, y, np.nan)
        latent = self.product["latent"].sel(model=self.source).values
        columns = {
            "original": x,
            "recovered": y,
            "residual": y - x,
            "original_error": x_error,
            "recovered_error": y_error,
            "log_mass": self.product["log_mass"].values,
            "latent_x": latent[:, self.axes[0]],
            "latent_y": latent[:, self.axes[1]],
            **self._diagram_columns("original" if self.diagrams == "original" else self.source),
        }
        self.points = {
            name: np.where(passing, values, np.nan).astype(np.float32) for name, values in columns.items()
        }
        residual = running_percentiles(x, y - x)
        self.bins = {
            **running_percentiles(x, y),
            **{f"{name}_residual": residual[name] for name in ("low", "middle", "high")},
        }
        self.summary = summarize(x, y, self.bins)

    def _diagram_columns(self, source):
        if source not in self._diagrams:
            self._diagrams[source] = data.diagnostics(self.product.sel(source=source), self.galaxy_class)
        return self._diagrams[source]

    # ---- brushed galaxies

    def example(self):
        """Galaxies to open with, brightest in the line last: one of each class, and a bright one that forms stars."""
        x = self.points["original"]
        both = np.isfinite(x) & np.isfinite(self.points["recovered"])
        chosen = []
        for name, rank in ((CLASSES[0], 0.9), *((name, 0.5) for name in CLASSES)):
            members = np.flatnonzero(both & (self.galaxy_class == name))
            if members.size:
                members = members[np.argsort(x[members], kind="stable")]
                chosen.append(int(members[int(rank * (members.size - 1))]))
        return sorted(set(chosen), key=lambda galaxy: x[galaxy])

    def brush(self, index):
        """Mark galaxies in all panels; up to `MAX_LIVE` of them get spectra, spread evenly in the line's flux."""
        index = np.unique(np.asarray(index, dtype=int))
        if index.size and not 0 <= index[0] <= index[-1] < self.candidates.size:
            raise ValueError(f"galaxies are counted from 0 to {self.candidates.size - 1}")
        with self.lock, self.hold_trait_notifications():
            self.brushed = index
            self._choose_live()

    def show(self, galaxy):
        """Draw the spectrum of one of the brushed galaxies."""
        with self.lock:
            if galaxy not in self.live_index:
                raise ValueError(f"galaxy {galaxy} is not among those whose spectra are drawn")
            self.shown = int(galaxy)

    def step(self, by):
        """Show the next (1) or the last (-1) of the brushed galaxies' spectra, and begin anew at the end."""
        with self.lock:
            if self.live_index.size:
                now = int(np.flatnonzero(self.live_index == self.shown)[0])
                self.shown = int(self.live_index[(now + by) % self.live_index.size])

    def set_sigma(self, sigma):
        """Add another amount of noise to the brushed galaxies; values outside the range go to its edge."""
        if not np.isfinite(sigma):
            raise ValueError(f"the noise must be a number, not {sigma}")
        with self.lock, self.hold_trait_notifications():
            self.sigma = float(np.clip(sigma, *SIGMA_RANGE))
            self._run()

    # ---- their spectra

    def _choose_live(self):
        members = self.brushed[self.passing[self.brushed]]
        self.live_index = spread(members, self.points["original"], MAX_LIVE)
        if self.shown not in self.live_index:
            self.shown = int(self.live_index[0]) if self.live_index.size else -1
        self._request += 1
        wanted = [int(c) for c in self.candidates[self.live_index] if int(c) not in self._rebuilt]
        if wanted:
            self.live, self.spectra, self.busy, self.problem = {}, None, True, ""
            self._start(self._rebuild, self._request, wanted)
        else:
            self.busy = False
            self._run()

    def _rebuild(self, request, candidates):
        """Rebuild spectra (outside the lock: it may take seconds), and draw them if they are still wanted."""
        problem, rebuilt = "", None
        try:
            rebuilt = self.pipeline.prepare(np.asarray(candidates))
        except (FileNotFoundError, ValueError, MemoryError) as error:
            problem = f"the spectra could not be rebuilt: {error}"
        with self.lock, self.hold_trait_notifications():
            if rebuilt is not None:
                for k, candidate in enumerate(candidates):
                    self._rebuilt[candidate] = rebuilt.isel(galaxy=k)
            if request == self._request:
                self.busy, self.problem = False, problem
                if not problem:
                    self._run()

    def _run(self):
        """Noise, de-noise and fit the brushed galaxies anew."""
        ids = [int(c) for c in self.candidates[self.live_index]]
        if not ids or any(c not in self._rebuilt for c in ids):
            self.live, self.spectra = {}, None
            return
        try:
            self.spectra = self.pipeline.run(self._originals(ids), self.kind, self.size, self.sigma)
            self.problem = ""
        except (FileNotFoundError, ValueError) as error:
            self.live, self.spectra, self.problem = {}, None, str(error)
            return
        self._place_live()

    def _originals(self, ids):
        if self._together[0] != ids:
            spectra = [self._rebuilt[candidate] for candidate in ids]
            self._together = ids, xr.concat(spectra, dim="galaxy", combine_attrs="override")
        return self._together[1]

    def _place_live(self):
        """Compute where the brushed galaxies lie with the noise that is set now."""
        if self.spectra is None:
            return
        at = self.live_index
        y, y_error = data.log_flux(self.spectra, self.line, self.quantity)
        x = self.points["original"][at]
        latent = self.spectra["latent"].values
        columns = {
            "original": x,
            "recovered": y,
            "residual": y - x,
            "original_error": self.points["original_error"][at],
            "recovered_error": y_error,
            "log_mass": self.points["log_mass"][at],
            "latent_x": latent[:, self.axes[0]],
            "latent_y": latent[:, self.axes[1]],
            **data.diagnostics(self.spectra, self.galaxy_class[at]),
        }
        self.live = {name: np.asarray(values, dtype=np.float32) for name, values in columns.items()}


def spread(members, values, n):
    """Choose up to n members, evenly spaced in the rank of their values.

    Parameters
    ----------
    members : ndarray of int, shape (m,)
    values : ndarray, shape (galaxy,)
        NaN ranks last.
    n : int

    Returns
    -------
    ndarray of int
        In the order of their values.
    """
    members = members[np.argsort(values[members], kind="stable")]
    if members.size <= n:
        return members
    return members[np.linspace(0, members.size - 1, n).round().astype(int)]
