"""Tables that tools make and the package ships, for the mass-metallicity dashboard to open."""

from pathlib import Path

import xarray as xr

from spectool.io import DATA


def load_product(name, tool, *, path=None):
    """Load a table, or say which tool makes it.

    Parameters
    ----------
    name : str
        Of the shipped file.
    tool : str
        What follows ``python -m`` to make it.
    path : str or pathlib.Path, optional
        Default: the shipped file.

    Returns
    -------
    product : xarray.Dataset
    name : str
        Of its file, for errors.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    """
    path = Path(path or DATA / name)
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is not in {path.parent}: `python -m {tool}` makes it")
    with xr.open_dataset(path, engine="h5netcdf") as file:
        return file.load(), path.name
