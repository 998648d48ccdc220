"""Print how long each notebook took in the test run, from the reports pytest wrote: notebook_times.py FOLDER."""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def seconds_by_notebook(report: Path) -> Counter[str]:
    """Seconds of all cells of a notebook together, the start of the kernel included."""
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        notebook = case.get("classname", "").removesuffix(".ipynb").replace(".", "/")
        seconds[notebook] += float(case.get("time", 0))
    return seconds


def main(folder: str) -> None:
    """Print every notebook of every report in the folder, and the sum."""
    total = 0.0
    for report in sorted(Path(folder).glob("*.xml")):
        for notebook, seconds in sorted(seconds_by_notebook(report).items()):
            print(f"{seconds:8.1f} s  {notebook}")
            total += seconds
    print(f"{total:8.1f} s  all notebooks together")


if __name__ == "__main__":
    main(sys.argv[1])
