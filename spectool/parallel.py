"""How many workers and threads this machine grants: the one place that decides it."""

import ctypes
import gc
import os

import joblib


def n_workers() -> int:
    """Return the number of worker processes or threads to use.

    It is the smaller of what joblib finds (affinity and cgroup limits heeded) and the environment variable
    ``CPU_LIMIT``, which Binder sets because its machines show the cores of their host.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ValueError
        If ``CPU_LIMIT`` is set and is not a positive number.
    """
    cores = joblib.cpu_count()
    limit = os.environ.get("CPU_LIMIT", "").strip()
    if not limit:
        return cores
    try:
        granted = float(limit)
    except ValueError:
        granted = 0.0
    if not granted > 0:
        raise ValueError(f"CPU_LIMIT must be a positive number of cores, such as 2, but it is {limit!r}")
    return int(max(1, min(cores, granted)))


def release_memory():
    """Give freed memory back to the system before worker processes need it.

    The C library of Linux keeps freed blocks for later; where memory is limited, as on Binder, they count as used.
    Elsewhere only Python's own garbage is collected.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
