"""Where batches of spectra go, memory or a resumable Zarr store: its own file, for it knows nothing of galaxies."""

from pathlib import Path

import numpy as np
import xarray as xr

DONE = "synthesized"


class BatchStore:
    """Collects arrays of a sample batch by batch without ever holding them twice."""

    def __init__(self, template, arrays, batch_size, path=None):
        self._template, self._arrays, self._path = template, arrays, path
        self._count = template.sizes["galaxy"]
        starts = range(0, self._count, batch_size)
        self._batches = [slice(start, min(start + batch_size, self._count)) for start in starts]
        if path is None:
            self._memory = {k: np.empty((self._count, size), "f4") for k, (_, size, _) in arrays.items()}
            self._done = np.zeros(self._count, bool)
        else:
            self._done = self._open()

    def _open(self):
        """Create the store, or find which galaxies of it are done already."""
        if Path(self._path).exists():
            with xr.open_zarr(self._path) as existing:
                same = existing.sizes.get("galaxy") == self._count and all(
                    name in existing and existing.sizes[dim] == size
                    for name, (dim, size, _) in self._arrays.items()
                )
                if not same or DONE not in existing or not self._same_columns(existing):
                    raise ValueError(f"{self._path} holds another sample: remove it or choose another store")
                return existing[DONE].values.copy()
        import dask.array

        rows = self._batches[0].stop if self._batches else 1
        lazy = {
            name: (("galaxy", dim), dask.array.zeros((self._count, size), chunks=(rows, -1), dtype="f4"))
            for name, (dim, size, _) in self._arrays.items()
        }
        done = np.zeros(self._count, bool)
        layout = self._template.assign(lazy).assign({DONE: ("galaxy", done)})
        encoding = {name: {"chunks": (rows, size)} for name, (_, size, _) in self._arrays.items()}
        encoding[DONE] = {"chunks": (rows,)}
        self._add_units(layout).to_zarr(self._path, compute=False, encoding=encoding)
        # Columns were written with the layout; flags must be there too, since only arrays of Dask are left out.
        return done

    def _same_columns(self, existing):
        """Whether the stored histories are those asked for: same numbers, not only the same shape."""
        return all(
            name in existing
            and np.array_equal(existing[name].values, self._template[name].values, equal_nan=True)
            for name in ("mass_formed", "log_z_star", "dust2")
        )

    def _add_units(self, dataset):
        for name, (_, _, units) in self._arrays.items():
            dataset[name].attrs["units"] = units
        return dataset

    def pending(self):
        """Batches (slices of galaxies) still to be made."""
        return [batch for batch in self._batches if not self._done[batch].all()]

    def write(self, batch, values):
        """Write one batch; ``values`` maps each array's name to (galaxy, size)."""
        self._done[batch] = True
        if self._path is None:
            for name, array in self._memory.items():
                array[batch] = values[name]
            return
        written = {name: (("galaxy", dim), values[name]) for name, (dim, _, _) in self._arrays.items()}
        written[DONE] = ("galaxy", np.ones(batch.stop - batch.start, bool))
        xr.Dataset(written).to_zarr(self._path, region={"galaxy": batch})

    def finish(self):
        """The sample: in memory, or opened lazily from the store."""
        if self._path is not None:
            return xr.open_zarr(self._path).drop_vars(DONE)
        filled = {name: (("galaxy", dim), self._memory[name]) for name, (dim, _, _) in self._arrays.items()}
        return self._add_units(self._template.assign(filled))
