"""The mock SDSS main sample of Zahid et al. (2019) for the dashboard: its stellar metallicities, and its spectra."""

import xarray as xr

from spectool.io import load_product

SAMPLES = {"galaxies": "SDSS main sample", "null": "null: SDSS main sample"}
NEEDED = ("candidate", "log_mass", "log_z_predicted")
OBSERVED, NOISELESS = "as SDSS sees it", "without noise"


def read_zahid2019(sample="galaxies", *, path=None):
    """Read the mock main sample of Zahid et al. (2019, Section 3.1) with what the network says of it."""
    tool = f"tools.make.zahid2019_tables {sample}"
    product, file = load_product(f"zahid2019_{sample}.nc", tool, path=path)
    missing = [name for name in NEEDED if name not in product]
    if missing:
        raise ValueError(f"{file} is no table of metallicities: it has no {', '.join(missing)}")
    return {SAMPLES[sample]: product.assign_attrs(spectrum=OBSERVED)}


def rebuild_zahid2019(candidate, sample="galaxies"):
    """Rebuild a galaxy of the mock main sample as SDSS sees it, and as it is."""
    from spectool.papers.zahid2019.sample import rebuild

    galaxy = rebuild([candidate], null=sample == "null").isel(galaxy=0, drop=True)
    seen = (galaxy["flux"] / galaxy["norm"]).where(~galaxy["mask"])
    spectra = {OBSERVED: seen, NOISELESS: galaxy["truth"] / galaxy["norm"]}
    joined = xr.concat(list(spectra.values()), "source", coords="minimal", compat="override")
    return xr.Dataset({"flux": joined.astype("f4").assign_coords(source=list(spectra))})
