"""Workers, threads, memory, and what a process tree costs."""

import ctypes
import gc
import os
import threading
import time
from contextlib import contextmanager

import joblib
import psutil
from joblib.externals.loky import get_reusable_executor
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm


def n_workers() -> int:
    """Return the number of worker processes or threads to use."""
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


def share_memory_pools():
    """Let all threads take memory from two pools: the C library of Linux would keep what each thread has freed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-8, 2)  # M_ARENA_MAX


def release_memory():
    """Give freed memory back to the system before worker processes need it.

    The C library of Linux keeps freed blocks for later; where memory is limited, as on Binder, they count as used.
    Elsewhere only Python's own garbage is collected.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def run_jobs(function, jobs, take, *, workers=None, backend="loky", **bar):
    """Call `function(*job)` for each job and hand its result to `take`, which returns by how much the bar moves.

    Results come as they are done, from worker processes if there are several. Returns whether all jobs were done:
    after an interrupt (stop button) what is done has been handed over.
    """
    with tqdm(**{"unit": "spectrum"} | bar) as shown:
        try:
            for done in _results(function, jobs, workers or n_workers(), backend):
                shown.update(take(done))
        except KeyboardInterrupt:
            return False
    return True


def _results(function, jobs, workers, backend):
    if workers == 1 and backend == "loky":
        for job in jobs:
            # Matrices this small are only slowed down by threads.
            with threadpool_limits(1):
                done = function(*job)
            yield done
        return
    release_memory()
    options = {"inner_max_num_threads": 1} if backend == "loky" else {}
    work = (joblib.delayed(function)(*job) for job in jobs)
    with joblib.parallel_config(backend=backend, **options):
        # Dask decides on its workers itself.
        yield from joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(work)
    if backend == "loky":
        # Idle workers would keep 200 MB each, of the 1 GB that Binder grants.
        get_reusable_executor().shutdown(wait=True)


MB = 1e6


def tree_rss(pid: int | None = None) -> int:
    """Return the resident memory of a process and all its descendants."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


class Usage:
    """Clock and memory watch, running from the moment it is made until :meth:`stop`.

    Parameters
    ----------
    pid : int, optional
        The root process to watch; this one by default.
    interval : float
        Seconds between two looks at the memory.

    Attributes
    ----------
    peak_rss_mb : float
        The largest resident memory of the process tree seen so far, MB (1e6 bytes).

    Examples
    --------
    >>> with Usage() as usage:
    ...     values = [0] * 1000
    >>> usage.seconds >= 0 and usage.peak_rss_mb > 1
    True
    """

    def __init__(self, pid: int | None = None, *, interval: float = 0.25):
        self.pid = pid
        self._begin = time.perf_counter()
        self._end = None
        self.peak_rss_mb = tree_rss(pid) / MB
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, args=(interval,), name="spectool-usage", daemon=True
        )
        self._thread.start()

    def _watch(self, interval):
        while not self._stopped.wait(interval):
            self._look()

    def _look(self):
        self.peak_rss_mb = max(self.peak_rss_mb, tree_rss(self.pid) / MB)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the start, up to now or to :meth:`stop`."""
        return (self._end or time.perf_counter()) - self._begin

    def stop(self) -> "Usage":
        """Stop the watch (again, if need be) and return it."""
        if self._end is None:
            self._look()
            self._end = time.perf_counter()
            self._stopped.set()
            self._thread.join()
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()


@contextmanager
def single_thread():
    """Run torch on one thread: for a single spectrum, starting more costs longer than the work itself."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
