import joblib
import pytest

from spectool.parallel import n_workers


@pytest.mark.parametrize(
    ("limit", "expected"), [("1", 1), ("0.5", 1), ("1.7", 1), ("2", 2), ("999", 4), ("", 4)]
)
def test_the_smaller_of_what_the_machine_has_and_what_is_granted(monkeypatch, limit, expected):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    monkeypatch.setenv("CPU_LIMIT", limit)
    assert n_workers() == expected


@pytest.mark.parametrize("limit", ["two", "0", "-1", "nan"])
def test_a_limit_that_is_no_number_of_cores_is_named(monkeypatch, limit):
    monkeypatch.setenv("CPU_LIMIT", limit)
    with pytest.raises(ValueError, match=f"CPU_LIMIT.*'{limit}'"):
        n_workers()
