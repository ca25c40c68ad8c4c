"""Histories without dust and motion, for `synthesize`."""

import numpy as np
import xarray as xr


def bare_stars(mass, log_z, *, z_sun=0.02, **columns):
    """Mass formed in each age bin (n, a), metallicities (n,) or (n, a), and what is not 0 [of -0.7: the dust's law]."""
    quiet = {"dust1": 0.0, "dust2": 0.0, "dust_index": -0.7, "velocity_dispersion": 0.0} | columns
    values = {name: ("galaxy", np.broadcast_to(value, len(mass))) for name, value in quiet.items()}
    dims = ("galaxy", "age")
    values["mass_formed"] = (dims, mass, {"units": "Msun"})
    return xr.Dataset(values | {"log_z_star": (dims[: np.ndim(log_z)], log_z, {"z_sun": z_sun})})
