"""The only way to change what the fence holds; each change comes with a page in docs/decisions/.

python -m tests.golden.update PART [PART ...]   store these parts (``rows``: from results/*.json)
python -m tests.golden.update --digest FILE     hash every bit of all parts, to compare two commits on one machine
"""

import sys
from pathlib import Path

from tests.golden import fence
from tests.golden.rows import update_rows


def main(names):
    """Update parts, or write the digests of all."""
    unknown = set(names) - {"rows", *fence.PARTS}
    if names[:1] == ["--digest"] and len(names) == 2:
        lines = (f"{p}: {k} {fence.digest(v)}\n" for p in fence.PARTS for k, v in fence.compute(p).items())
        Path(names[1]).write_text("".join(lines), encoding="utf-8")
    elif not names or unknown:
        sys.exit(f"{__doc__}\nparts: rows {' '.join(fence.PARTS)}")
    for name in names if not unknown else ():
        update_rows(Path("results")) if name == "rows" else fence.write(name, fence.compute(name))


if __name__ == "__main__":
    main(sys.argv[1:])
