"""Run by `spectool.synth.sources` as a script in a process of its own, which FSPS may end as it likes."""

import json
import sys

import numpy as np


def main(parameters, output):
    """Compute all SSP spectra of FSPS and write them with their axes."""
    import fsps

    stars = fsps.StellarPopulation(
        compute_vega_mags=False,
        vactoair_flag=False,
        zcontinuous=0,
        sfh=0,
        add_neb_emission=False,
        add_neb_continuum=False,
        add_dust_emission=False,
        **parameters,
    )
    metallicity = np.asarray(stars.zlegend, dtype=float)
    flux, surviving = [], []
    for index in range(metallicity.size):
        print(f"PROGRESS {index} {metallicity.size}", flush=True)
        flux.append(np.float32(stars.get_spectrum(zmet=index + 1, tage=0.0, peraa=True)[1]))
        surviving.append(np.array(stars.stellar_mass, dtype=float))
    np.savez(
        output,
        flux=np.stack(flux),
        surviving_mass=np.stack(surviving),
        metallicity=metallicity,
        age=10.0 ** np.asarray(stars.ssp_ages, dtype=float),
        wavelength=stars.wavelengths,
        resolution=stars.resolutions,
        z_sun=stars.solar_metallicity,
        libraries=np.array([name.decode() for name in stars.libraries]),
        version=fsps.__version__,
    )
    print(f"PROGRESS {metallicity.size} {metallicity.size}")
    print("FSPS-DONE", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
