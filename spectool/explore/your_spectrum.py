"""What the page for a visitor's own spectrum knows and does, without a widget: read it, prepare it, ask the models."""

import threading
import warnings

import numpy as np
import pandas as pd
import traitlets
import xarray as xr

from spectool import prepare
from spectool.spectra import sps_wavelength
from spectool.surveys import packaged_spectra, read_spectrum

STEPS = (
    "as observed",
    "sky lines masked",
    "extinction corrected",
    "rest frame",
    "model's pixels",
    "normalised",
)


def prepare_in_steps(sample):
    """Go the way of `spectool.prepare.prepare_spectra`, and keep every step."""
    steps = {"as observed": prepare.mask_bad_pixels(sample)}
    steps["sky lines masked"] = last = prepare.mask_sky_lines(steps["as observed"])
    if "ebv" in sample:
        steps["extinction corrected"] = last = prepare.correct_extinction(last)
    steps["rest frame"] = prepare.to_rest_frame(last)
    steps["model's pixels"] = prepare.resample(steps["rest frame"], sps_wavelength())
    steps["normalised"] = prepare.normalize(steps["model's pixels"])
    return steps


def tabulate(answers):
    """Answers about a sample's first galaxy, a row per quantity."""
    rows = []
    for answer in answers:
        if answer.result is None:
            row = {"quantity": "does not apply", "note": answer.reason, "detail": False}
            rows.append({"model": answer.title} | row)
            continue
        one = answer.result.isel(galaxy=0)
        detail = one["detail"].values if "detail" in one.coords else np.zeros(one.sizes["quantity"], bool)
        for k in range(one.sizes["quantity"]):
            row = {"model": answer.title, "quantity": str(one["label"].values[k])}
            row |= {"value": float(one["value"][k]), "error": float(one["error"][k])}
            row |= {"unit": str(one["unit"].values[k]), "out of range": bool(one["out_of_range"])}
            rows.append(row | {"note": str(one["note"].values[k]), "detail": bool(detail[k])})
    columns = ["model", "quantity", "value", "error", "unit", "out of range", "note", "detail"]
    return pd.DataFrame(rows, columns=columns)


class YourSpectrum(traitlets.HasTraits):
    """One spectrum on its way from a file to what the models say of it.

    `read` does all of it. It keeps what was there if the new file cannot be used, and puts the reason into
    `message`: a visitor's bad file is no traceback on the page. Who asks for the answers in code gets the
    reason as an error. Observers of `version` see everything else already changed.

    Parameters
    ----------
    ask : callable
        From an observed sample to a list of answers, each with ``name``, ``title``, ``result`` and ``reason``; see
        `spectool.papers.ask_all`.
    """

    name = traitlets.Unicode(help="of the spectrum")
    message = traitlets.Unicode(help="what went wrong, or what was noticed on the way; empty if all is well")
    failed = traitlets.Bool(False, help="whether the last file could not be used")
    busy = traitlets.Bool(False, help="whether a spectrum is being read or models are being asked")
    sample = traitlets.Instance(xr.Dataset, allow_none=True, help="as read, one galaxy")
    version = traitlets.Int(0, help="counts spectra; changes last")

    def __init__(self, ask):
        super().__init__()
        self.lock = threading.RLock()
        self._ask = ask
        self._last: tuple | None = None
        self.steps: dict[str, xr.Dataset] = {}
        self.answers: list = []

    def read(self, source, *, redshift=None, ebv=None, medium="vacuum", name=None):
        """Read a spectrum, prepare it and ask every model that applies."""
        with self.lock:
            self.busy = True
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", UserWarning)
                    sample = read_spectrum(source, redshift=redshift, ebv=ebv, medium=medium, name=name)
                    steps = prepare_in_steps(sample)
                    answers = self._ask(sample)
            except (ValueError, OSError) as error:
                self.failed, self.message = True, str(error)
                return False
            finally:
                self.busy = False
            self.sample, self.steps, self.answers = sample, steps, answers
            self._last = (source, {"redshift": redshift, "ebv": ebv, "medium": medium, "name": name})
            self.name = str(sample["name"].values[0])
            ours = (prepare.PrepareWarning, UserWarning)
            notes = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, ours))
            self.failed, self.message = False, "; ".join(notes)
            self.version += 1
            return True

    def read_again(self, **options):
        """Read the last spectrum again with other options of `read`; those not given (or None) stay."""
        if self._last is None:
            self.failed, self.message = True, "upload a file, or give a file name or URL"
            return False
        source, before = self._last
        return self.read(source, **{**before, **{k: v for k, v in options.items() if v is not None}})

    def read_example(self, galaxy="NGC 3522", *, ebv=0.02):
        """Read one of the SDSS spectra that ppxf ships.

        Parameters
        ----------
        galaxy : {"NGC 3522", "NGC 3073"}
        ebv : float
            E(B-V) [mag].
        """
        return self.read(packaged_spectra()[galaxy], ebv=ebv)

    def history(self):
        """What was done to the spectrum, sentence by sentence."""
        return prepare.history(self.steps["normalised"]) if self.steps else []

    def table(self):
        """The models' answers, a pandas.DataFrame, a row per quantity.

        Raises
        ------
        ValueError
            If the last file could not be used (saying why), or none was read: an empty table, or that of the spectrum
            before, would pass for its answers.
        """
        if self.failed or self.sample is None:
            raise ValueError(f"no answers: {self.message or 'no spectrum was read yet'}")
        return tabulate(self.answers)

    def out_of_range(self):
        """Model -> why its answer is an extrapolation; models in range are not listed."""
        return {
            a.title: str(a.result["reason"].values[0])
            for a in self.answers
            if a.result is not None and bool(a.result["out_of_range"].values[0])
        }

    def curves(self, step):
        """What to draw of a step."""
        data = self.steps[step]
        wavelength, _ = prepare.spectral_coordinate(data)
        wavelength = wavelength[0] if wavelength.ndim == 2 else wavelength
        flux, ivar, mask = (data[n].values[0] for n in ("flux", "ivar", "mask"))
        bad = np.full(flux.shape, np.nan)
        if "observed_wavelength" in data.coords and flux.size == self.sample.sizes["wavelength"]:
            read = self.sample["flux"].values[0]
            near = mask | np.roll(mask, 1) | np.roll(mask, -1)  # so that the grey piece joins the line
            bad = np.where(near & (self.sample["ivar"].values[0] > 0), read, np.nan)
        sigma = np.divide(1, np.sqrt(ivar), out=np.full(flux.shape, np.nan), where=~mask)
        curves = {"wavelength": wavelength, "good": np.where(mask, np.nan, flux), "bad": bad, "sigma": sigma}
        return {k: v.astype(np.float32) for k, v in curves.items()}

    def reconstruction(self):
        """The first model's reconstruction (4582,) in normalised flux, or NaN if no model gives one."""
        for answer in self.answers:
            if answer.result is not None and "reconstruction" in answer.result:
                return answer.result["reconstruction"].values[0].astype(np.float32)
        return np.full(sps_wavelength().size, np.nan, np.float32)

    def masked_ranges(self, step):
        """Where a step's spectrum is masked: (n, 2) wavelengths [Angstrom], between pixel centres."""
        curves = self.curves(step)
        wavelength, bad = curves["wavelength"].astype(float), np.isnan(curves["good"])
        edges = np.flatnonzero(np.diff(np.concatenate([[0], bad.astype(int), [0]])))
        starts, ends = edges[::2], edges[1::2] - 1
        step_width = np.gradient(wavelength) / 2
        return np.stack(
            [wavelength[starts] - step_width[starts], wavelength[ends] + step_width[ends]], axis=1
        )
