"""Compute a part, keep a summary of it in a file, and say what moved."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from tests.golden.parts import PARTS

FOLDER = Path(__file__).parent
TOLERANCE = 1e-6
"""Of numbers, relative to themselves and to the rms of their array, on processors with the instructions of the one
that they were stored on."""
ELSEWHERE = {"predictions": 0.03, "ensembles": 0.03, "lines": 5e-3, "calibrations": 0.01}
ELSEWHERE |= {"chunked_training": 0.02, "latents": 0.02, "observations": 0.1}
"""On other processors, where sums round otherwise; 1e-3 of parts not named. Two to four times what SSE gives."""
PICKS = 80


def compute(name):
    """Arrays of a part, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return {key: np.asarray(values) for key, values in PARTS[name]().items()}
    finally:
        torch.set_num_threads(threads)


def instructions():
    """What decides how sums are rounded: PyTorch's instruction set, and the kernels of BLAS."""
    kernels = {str(library["architecture"]) for library in threadpool_info() if "architecture" in library}
    return " ".join([torch.backends.cpu.get_cpu_capability(), *sorted(kernels)])


def digest(values):
    """Hash of every bit of an array."""
    values = values.astype(str) if values.dtype.kind in "OU" else values
    raw = "\n".join(values.ravel()).encode() if values.dtype.kind == "U" else values.tobytes()
    return hashlib.sha256(raw).hexdigest()


def summarise(arrays):
    """What is stored: of texts, integers and truth values a hash; of others the shape, some values, mean and rms."""
    index, numbers = {}, []
    for name, values in arrays.items():
        index[name] = {"shape": list(values.shape)}
        if values.dtype.kind != "f":
            exact = values if values.dtype.kind in "OU" else values.astype("i8")
            is_text = values.dtype.kind == "U" and not values.ndim
            index[name]["hash"] = str(values) if is_text else digest(exact)
            continue
        flat = values.ravel().astype(float)
        finite = flat[np.isfinite(flat)]
        some = flat[np.linspace(0, flat.size - 1, min(flat.size, PICKS)).astype(int)]
        mean, rms = (finite.mean(), np.sqrt(np.mean(finite**2))) if finite.size else (0.0, 0.0)
        index[name] |= {"finite": int(finite.size), "stored": some.size + 2}
        numbers.append(np.r_[some, mean, rms])
    return index, np.concatenate(numbers or [np.empty(0)])


def write(name, arrays):
    """Store a part, numbers to 8 digits."""
    index, numbers = summarise(arrays)
    fraction, exponent = np.frexp(numbers)
    rounded = np.ldexp(np.round(fraction * 2.0**27) / 2.0**27, exponent)
    np.savez_compressed(FOLDER / f"{name}.npz", index=json.dumps(index), numbers=rounded, kind=instructions())


def differences(name, arrays):
    """What is not as stored, each in words."""
    with np.load(FOLDER / f"{name}.npz") as file:
        known, stored, kind = json.loads(str(file["index"])), file["numbers"], str(file["kind"])
    tolerance = TOLERANCE if kind == instructions() else ELSEWHERE.get(name, 1e-3)
    index, numbers = summarise(arrays)
    faults = [f"{key} is {'gone' if key in known else 'new'}" for key in sorted(known.keys() ^ index.keys())]
    where = dict(zip([k for k in index if "stored" in index[k]], _parts(index, numbers), strict=True))
    for key, values in zip([k for k in known if "stored" in known[k]], _parts(known, stored), strict=True):
        if known[key] == index.get(key):
            off = np.abs(where[key] - values) - tolerance * np.abs(values)
            worst = np.nanmax(np.where(where[key] == values, 0.0, off), initial=0.0) / (values[-1] or 1.0)
            if worst > tolerance or (np.isnan(where[key]) != np.isnan(values)).any():
                faults.append(f"{key} is off by {worst:.1e} of its rms")
    return faults + [f"{key} is another" for key in known if key in index and known[key] != index[key]]


def _parts(index, numbers):
    sizes = [entry["stored"] for entry in index.values() if "stored" in entry]
    return np.split(numbers, np.cumsum(sizes)[:-1]) if sizes else []
