"""The LASNet bench: contenders that compute the same, masks at the rate that was asked for, complete reports."""

import pytest
import torch

from course_lib import measure
from course_lib.bench import core, lasnet
from course_lib.bench.core import Options
from course_lib.spatial.lasnet import LASNet


@pytest.fixture(scope="module")
def report():
    return lasnet.run(Options(quick=True))


def test_quick_run_reports_networks_and_blocks(report):
    core.validate(core.recorded(report, command="course bench lasnet --quick", device="cpu"))
    rows = {row.name: row for row in report.rows}
    assert {"probe", "network 4-4-2-1, static, channels last", "network 4-4-2-1, rate 0.5"} <= set(rows)
    assert {f"block 1024-256 at 14, N=1: S={s}, rate 0.5" for s in (1, 2, 7)} <= set(rows)
    assert not report.goals  # a quick run shows that it runs, and promises nothing


def test_rows_carry_what_was_predicted(report):
    dynamic = [row for row in report.rows if "rate 0.5" in row.name]
    assert all(row.details["predicted"] > 0 for row in dynamic)
    network = next(row for row in dynamic if row.name.startswith("network"))
    assert 0 < network.details["mac_rate"] < 1


def test_maskers_are_set_to_the_rate():
    options = Options(quick=True)
    for rate in (0.25, 0.75):
        model, x = lasnet._build((4, 4, 2, 1), options, rate)
        with torch.inference_mode():
            lasnet.calibrate(model, x, rate)
        found = model.infer(x).rates
        # a map of two cells cannot be active by a quarter
        cells = torch.tensor([mask.numel() for mask in model.infer(x).masks])
        assert ((found - rate).abs() <= 0.5 / cells + 1e-6).all()


def test_static_is_the_network_with_everything_active():
    torch.manual_seed(0)
    model = LASNet.resnet50(classes=5, granularity=(1, 1, 1, 1)).eval()
    x = torch.randn(1, 3, 64, 64)
    static = lasnet.Static(measure.fold_batchnorm(model)).eval()
    with torch.inference_mode():
        expected = model(x, masks=[torch.ones_like(mask) for mask in model(x).masks]).logits
        assert torch.allclose(static(x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
