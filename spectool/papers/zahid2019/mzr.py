"""What the mass-metallicity dashboard shows of this paper: stars of the mock main sample, and their spectra."""

from functools import partial

import xarray as xr

from spectool.io import load_product
from spectool.papers.zahid2019.sample import rebuild

NAMES = {"galaxies": "SDSS main sample", "null": "null: SDSS main sample"}
NEEDED = ("candidate", "log_mass", "log_z_predicted")
OBSERVED, NOISELESS = "as SDSS sees it", "without noise"


def read_sample(sample="galaxies", *, path=None):
    """Read the mock main sample (Section 3.1), or the null one, with what the network predicts of it."""
    tool = f"tools.make.zahid2019_tables {sample}"
    product, file = load_product(f"zahid2019_{sample}.nc", tool, path=path)
    missing = [name for name in NEEDED if name not in product]
    if missing:
        raise ValueError(f"{file} is no table of metallicities: it has no {', '.join(missing)}")
    return {NAMES[sample]: product.assign_attrs(spectrum=OBSERVED)}


def rebuild_galaxy(candidate, sample="galaxies"):
    """Rebuild a galaxy of the mock main sample as SDSS sees it, and as it is: ``flux`` (source, wavelength)."""
    galaxy = rebuild([candidate], null=sample == "null").isel(galaxy=0, drop=True)
    seen = (galaxy["flux"] / galaxy["norm"]).where(~galaxy["mask"])
    spectra = {OBSERVED: seen, NOISELESS: galaxy["truth"] / galaxy["norm"]}
    joined = xr.concat(list(spectra.values()), "source", coords="minimal", compat="override")
    return xr.Dataset({"flux": joined.astype("f4").assign_coords(source=list(spectra))})


SAMPLES = {
    "zahid2019": (read_sample, rebuild_galaxy),
    "zahid2019 null": (partial(read_sample, "null"), partial(rebuild_galaxy, sample="null")),
}
"""Key -> how its samples are read, by name, and how the spectra of a galaxy are rebuilt from its number."""
