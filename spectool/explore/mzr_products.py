"""Tables that tools make and the package ships, for the mass-metallicity dashboard to open."""

from pathlib import Path

import xarray as xr

from spectool.io import DATA


def load_product(name, tool, *, path=None):
    """Load a table, or say which tool makes it."""
    path = Path(path or DATA / name)
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is not in {path.parent}: `python -m {tool}` makes it")
    with xr.open_dataset(path, engine="h5netcdf") as file:
        return file.load(), path.name
