"""What the mass-metallicity dashboard knows and does, without a widget: usable, and tested, from plain code."""

import threading

import numpy as np
import traitlets
import xarray as xr

from spectool.explore.mzr_choices import (
    NONE,
    OWN,
    SWITCHES,
    check_choice,
    first_choices,
    follow_sample,
    list_choices,
    list_quantities,
)
from spectool.explore.mzr_data import check_sample
from spectool.explore.mzr_panel import (
    color_values,
    correlate_panels,
    correlate_with_sfr,
    derive_panel,
)
from spectool.explore.mzr_quantities import QUANTITIES, without_dust
from spectool.measure.mzr import mass_bins


class MzrState(traitlets.HasTraits):
    """Which galaxies are compared on which scale, and everything that follows from it."""

    sample_names = traitlets.Tuple(read_only=True, help="names of the samples")
    quantity = traitlets.Unicode(read_only=True, help="whose metals are on the axis: 'gas' or 'stars'")
    left = traitlets.Unicode(read_only=True, help="sample of the first panel")
    right = traitlets.Unicode(NONE, read_only=True, help="sample of the second panel, or 'none'")
    overlaid = traitlets.Bool(False, read_only=True, help="whether both are drawn in the first panel")
    calibration = traitlets.Unicode(read_only=True, help="scale of the metallicities")
    dust_corrected = traitlets.Bool(False, read_only=True, help="by the Balmer decrement")
    min_sn = traitlets.Float(read_only=True, help="of Hα or of the spectrum, that a metallicity needs")
    color = traitlets.Unicode(read_only=True, help="what colours the galaxies")
    relations = traitlets.Tuple(read_only=True, help="published relations that are drawn")
    reference = traitlets.Unicode(read_only=True, help="relation that scatter is about")
    panels = traitlets.Tuple(read_only=True, help="one Panel, or two")
    selected = traitlets.Tuple(read_only=True, help="(family, candidate) of the galaxy looked at, or ()")
    spectrum = traitlets.Instance(xr.Dataset, allow_none=True, read_only=True, help="of that galaxy")
    spectrum_status = traitlets.Unicode(read_only=True, help="why there is no spectrum")

    def __init__(self, samples, *, rebuild=None):
        super().__init__()
        if not samples:
            raise ValueError("there is no sample to show")
        self.lock = threading.RLock()
        self.samples, self.rebuild = {}, dict(rebuild or {})
        self._corrected, self._measured, self._left_behind = {}, {}, {}
        for name, sample in samples.items():
            self._keep(name, sample)
        self.reset()

    def _keep(self, name, sample):
        sample = check_sample(name, sample)
        self.samples[name] = sample.assign_attrs(family=sample.attrs.get("family", name))
        self.set_trait("sample_names", tuple(self.samples))
        self._corrected.pop(name, None)
        self._measured = {key: value for key, value in self._measured.items() if key[0] != name}

    # ---- the choices

    def choices(self, control):
        """Return the values that a control may have."""
        return list_choices(control, self.samples, self.quantity)

    @property
    def kind(self):
        """The `spectool.explore.mzr_quantities.Quantity` on the axis."""
        return QUANTITIES[self.quantity]

    def add_sample(self, name, sample):
        """Add a sample, or replace one."""
        with self.lock, self.hold_trait_notifications():
            self._keep(name, sample)
            self._derive()

    def set(self, **changes):
        """Change controls, and derive what follows from them."""
        with self.lock:
            key = follow_sample(changes, self.samples, self.quantity)
            if another := key != self.quantity:
                own = self._left_behind.get(key) or first_choices(self.samples, key)
                changes = {"quantity": key} | own | changes
            changes = {n: check_choice(n, value, self.samples, key) for n, value in changes.items()}
            if another:
                self._left_behind[self.quantity] = {name: getattr(self, name) for name in OWN}
            changes = {name: value for name, value in changes.items() if getattr(self, name) != value}
            if not changes:
                return
            with self.hold_trait_notifications():
                for name, value in changes.items():
                    self.set_trait(name, value)
                if changes.keys() - {"overlaid", "relations"}:
                    self._derive()
                if another and not any(self.locate(name) is not None for name in self.shown):
                    self.clear()

    def reset(self):
        """Go back to the first quantity, its first two samples and the paper's choices; no galaxy is looked at."""
        with self.lock, self.hold_trait_notifications():
            self.clear()
            key = list_quantities(self.samples)[0]
            self.set(quantity=key, **dict.fromkeys(SWITCHES, False), **first_choices(self.samples, key))
            self._left_behind = {}

    # ---- what follows

    def metallicity(self, name):
        """Metallicities of a sample on the current scale."""
        key = (name, self.quantity, self.calibration, self.dust_corrected)
        if key not in self._measured:
            self._measured[key] = self.kind.measure(self.lines(name), self.calibration)
        return self._measured[key]

    def lines(self, name):
        """A sample as its metallicities are measured: its lines without dust, if that is chosen."""
        if not self.dust_corrected:
            return self.samples[name]
        if name not in self._corrected:
            self._corrected[name] = without_dust(self.samples[name])
        return self._corrected[name]

    @property
    def shown(self):
        """Names of the one or two samples that are compared."""
        return [self.left] if self.right == NONE else [self.left, self.right]

    @property
    def shown_spectra(self):
        """Sources of rebuilt spectra that the compared samples were measured on."""
        return [self.samples[name].attrs.get("spectrum", name) for name in self.shown]

    def _shade(self, name):
        """The quantity of the colour of all galaxies of a sample; it does not depend on the cut."""
        key = (name, self.quantity, self.calibration, self.dust_corrected, self.color)
        if key not in self._measured:
            self._measured[key] = color_values(
                self.samples[name], self.metallicity(name), self.color, self.kind
            )
        return self._measured[key]

    def _derive(self):
        shown = [(name, self.samples[name]) for name in self.shown]
        edges = mass_bins(np.concatenate([sample["log_mass"].values for _, sample in shown]))
        panels = [
            derive_panel(
                name,
                sample,
                self.metallicity(name),
                min_sn=self.min_sn,
                shade=None if self.color == "number" else self._shade(name),
                relation=self.kind.relations[self.reference],
                edges=edges,
            )
            for name, sample in shown
        ]
        self._color_range = None
        self.set_trait("panels", tuple(panels))

    @property
    def color_range(self):
        """Lowest and highest value of the colour, the same in both panels and at every cut above the paper's."""
        if self._color_range is None:
            self._color_range = self._find_color_range()
        return self._color_range

    def _find_color_range(self):
        if self.color == "number":
            return 0.0, max(
                [1.0, *(float(np.nanmax(p.color)) for p in self.panels if np.isfinite(p.color).any())]
            )
        values = []
        for name in self.shown:
            found = self.metallicity(name)
            # Errors of galaxies that nobody asked to see would leave the others one colour.
            seen = (found.sn > min(self.min_sn, self.kind.min_sn)) & np.isfinite(found.value)
            values.append(self._shade(name)[seen])
        values = np.concatenate(values)
        values = values[np.isfinite(values)]
        if values.size == 0:
            return 0.0, 1.0
        low, high = np.quantile(values, [0.02, 0.98])
        return float(low), float(max(high, low + 1e-3))

    def correlate(self):
        """Correlate at fixed mass: metallicity with star formation in each panel, and the panels with each other."""
        panels = self.panels
        samples = [self.samples[panel.name] for panel in panels]
        trends = [correlate_with_sfr(p, s) for p, s in zip(panels, samples, strict=True)]
        families = {sample.attrs["family"] for sample in samples}
        if len({panel.name for panel in panels}) < 2 or len(families) > 1:
            return trends, None
        return trends, correlate_panels(panels, samples)

    # ---- one galaxy

    def select(self, name, galaxy):
        """Look at a galaxy; `rebuild_spectrum` makes its spectrum."""
        sample = self.samples[name]
        if not 0 <= galaxy < sample.sizes["galaxy"]:
            raise IndexError(
                f"the sample {name!r} has galaxies 0 to {sample.sizes['galaxy'] - 1}, not {galaxy}"
            )
        selected = (sample.attrs["family"], int(sample["candidate"].values[galaxy]))
        with self.lock:
            if selected == self.selected:
                return
            known = sample.attrs["family"] in self.rebuild
            with self.hold_trait_notifications():
                self.set_trait("spectrum", None)
                self.set_trait("spectrum_status", "rebuilding…" if known else "this sample keeps no spectra")
                self.set_trait("selected", selected)

    def clear(self):
        """Look at no galaxy."""
        with self.lock, self.hold_trait_notifications():
            self.set_trait("spectrum", None)
            self.set_trait("spectrum_status", "")
            self.set_trait("selected", ())

    def locate(self, name):
        """Find the galaxy looked at in a sample."""
        sample = self.samples[name]
        if not self.selected or sample.attrs["family"] != self.selected[0]:
            return None
        found = np.flatnonzero(sample["candidate"].values == self.selected[1])
        return int(found[0]) if found.size else None

    def rebuild_spectrum(self):
        """Rebuild the spectra of the galaxy looked at, which may take seconds."""
        selected = self.selected
        if not selected or selected[0] not in self.rebuild:
            return
        spectrum, status = None, ""
        try:
            spectrum = self.rebuild[selected[0]](selected[1])
        except Exception as error:  # noqa: BLE001  (whatever a paper's own code raises is told to the reader)
            status = f"its spectrum cannot be rebuilt: {error}"
        with self.lock:
            if self.selected == selected:
                with self.hold_trait_notifications():
                    self.set_trait("spectrum", spectrum)
                    self.set_trait("spectrum_status", status)
