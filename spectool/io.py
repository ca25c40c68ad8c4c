"""Files: where the shipped data lie, and writing that leaves a file whole or not there at all."""

import os
from contextlib import contextmanager
from pathlib import Path

import xarray as xr

DATA = Path(__file__).resolve().parent / "data"


@contextmanager
def atomic(path):
    """A temporary path that takes the place of `path` when the block ends without an error; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: numpy adds its own to any other.
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_dataset(dataset, path, **options):
    """Write a Dataset as netCDF, whole or not at all; options go to `xarray.Dataset.to_netcdf`."""
    with atomic(path) as part:
        dataset.to_netcdf(part, engine="h5netcdf", **options)


def read_dataset(path):
    """A Dataset from a netCDF file, in memory, its text in numpy's own type as before it was written."""
    dataset = xr.load_dataset(path, engine="h5netcdf")
    text = [name for name in dataset.variables if dataset[name].dtype.kind == "O"]
    return dataset.assign({name: dataset[name].astype(str) for name in text})


def read_or_make(path, make):
    """The Dataset kept in a file; made and kept where there is none yet: how long loops go on where they were."""
    if Path(path).exists():
        return read_dataset(path)
    made = make()
    write_dataset(made, path)
    return made


def load_product(name, tool, *, path=None):
    """Load a table, or say which tool makes it."""
    path = Path(path or DATA / name)
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is not in {path.parent}: `python -m {tool}` makes it")
    return xr.load_dataset(path, engine="h5netcdf"), path.name
