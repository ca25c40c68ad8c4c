"""One line of ``make bench``."""

import time


def make_row(
    name: str, value: float, unit: str, peer: str, peer_value: float, *, higher_is_better: bool
) -> dict:
    """Return a row whose ``ratio`` says how many times better than the peer ours is."""
    ratio = value / peer_value if higher_is_better else peer_value / value
    numbers = {"value": value, "peer_value": peer_value, "ratio": ratio}
    numbers = {key: float(f"{number:.4g}") for key, number in numbers.items()}
    return {
        "name": name,
        "value": numbers["value"],
        "unit": unit,
        "peer": peer,
        "peer_value": numbers["peer_value"],
        "ratio": numbers["ratio"],
    }


def seconds(function, *arguments) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin
