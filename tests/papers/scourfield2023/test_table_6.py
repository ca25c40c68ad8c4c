import re

from spectool.papers.scourfield2023.network import PAPER_LINES, paper_scatter


def test_the_papers_scatter_is_that_of_its_table(shared):
    text = (shared / "papers/scourfield2023.txt").read_text(encoding="utf-8")
    table = text[text.index("2 dimensions") : text.index("Table 6. The standard deviations")]
    size, found = None, {}
    for row in table.splitlines():
        head = re.match(r"(\d+) dimensions", row)
        size = int(head[1]) if head else size
        values = re.findall(r"\d\.\d\d", row)
        if len(values) == 12:
            found[f"{row.split()[0]} {size}"] = [float(value) for value in values]
    assert set(found) == {f"{kind} {size}" for kind in ("PCA", "AE", "VAE") for size in (2, 4, 6, 10)}
    for source, values in found.items():
        assert [v for line in PAPER_LINES for v in paper_scatter(source, line)] == values, source
    assert paper_scatter("VAE 4", "Hβ") is None and paper_scatter("noise-added", "Hα") is None
