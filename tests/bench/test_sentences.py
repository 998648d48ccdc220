"""The bench of readers on a corpus: every reader trained and scored on real files, and clear errors without them."""

import pytest

from course_lib import bench
from course_lib.bench import core, sentences, temporal
from course_lib.bench.core import Options


@pytest.fixture
def corpus(tmp_path):
    """Two files of lines, one word apart."""
    folder = tmp_path / "films"
    folder.mkdir()
    for name, verdict in (("bad", "dull"), ("good", "fine")):
        lines = [f"the {k} of them thought this one was {verdict} and left" for k in range(40)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_every_reader_is_scored_on_the_corpus(corpus):
    options = Options(quick=True, data="sentences", root=str(corpus))
    assert options.label == "films"
    report = temporal.run(options)
    core.validate(core.recorded(report, command="course bench temporal --quick", device="cpu"))
    rows = {row.name: row for row in report.rows}
    assert set(rows) == {f"{name}: {what}" for name in sentences.PRICES for what in ("right", "read", "work")}
    assert rows["read all: read"].median == 100 == rows["read all: work"].median
    for name in sentences.PRICES:
        assert rows[f"{name}: work"].median > 0 and 0 <= rows[f"{name}: right"].median <= 100
        assert rows[f"{name}: read"].median <= 100 and rows[f"{name}: read"].details["price"] == sentences.PRICES[name]
    assert rows["Skip RNN 0.01: read"].repeats == 1


@pytest.mark.parametrize("root", [None, "nowhere"])
def test_without_a_corpus_it_says_so(root, tmp_path, capsys):
    where = [] if root is None else ["--root", str(tmp_path / root)]
    arguments = ["temporal", "--device", "cpu", "--quick", "--data", "sentences", *where]
    assert bench.run([*arguments, "--out", str(tmp_path / "out.json")]) == 2
    assert "root: " in capsys.readouterr().err
