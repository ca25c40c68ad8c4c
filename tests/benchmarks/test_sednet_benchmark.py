import pytest

from benchmarks import sednet
from spectool.papers.surana2020.network import TABLE_3


def test_seconds_count_only_for_networks_as_good_as_the_papers():
    good = {name: {"sigma": row["sigma"]} for name, row in TABLE_3.items()}
    sednet.require_scatter(good, TABLE_3)
    with pytest.raises(ValueError, match=r"log_sfr 0\.2000 dex \(paper 0\.1643\)"):
        sednet.require_scatter(good | {"log_sfr": {"sigma": 0.2}}, TABLE_3)


def test_both_rows_are_measured_on_the_same_galaxies(monkeypatch):
    monkeypatch.setattr(sednet, "N_PEER", 20)
    sample, library = sednet.make_data(200, 1500)
    assert not sample["mask"].any()
    rows = sednet.measure(sample, library, epochs=2, limits={})
    assert [row["name"] for row in rows] == ["sednet_training_seconds", "sednet_galaxies_per_second"]
    assert "1770 s" in rows[0]["peer"] and "1500 models" in rows[1]["peer"]
    assert "on 40 test galaxies" in rows[0]["peer"]
