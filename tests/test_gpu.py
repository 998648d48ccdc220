"""Training, adaptive inference and the bench on a GPU. Needs only torch, numpy and pytest beside the package."""

import copy
from functools import partial

import pytest
import torch

from course_lib import data, decision, train
from course_lib.bench import budgeted, core, early_exit
from course_lib.instance.l2w import fit_l2w
from course_lib.instance.msdnet import MSDNet
from course_lib.spatial.ranet import RANet

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _full_precision():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def shapes(number):
    made = data.shapes(number)
    return (made.images - 0.5) * 2, made.labels


class Stop(Exception):  # noqa: N818 - no error: it plays the user who interrupts
    """Raised in the middle of an epoch."""


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_trains_and_resumes(precision, tmp_path):
    torch.manual_seed(0)
    whole = MSDNet.tiny().cuda()
    cut, path = copy.deepcopy(whole), tmp_path / "c.pt"
    settings = {"epochs": 2, "batch_size": 64, "precision": precision, "progress": False}
    losses = train.fit(whole, shapes(256), **settings).losses
    calls = []

    def stop(images, generator):
        calls.append(len(images))
        if len(calls) == 6:
            raise Stop
        return images

    keep = {"checkpoint": path, "checkpoint_every": 1}
    with pytest.raises(Stop):
        train.fit(cut, shapes(256), augment=stop, **keep, **settings)
    resumed = train.fit(cut, shapes(256), augment=lambda images, generator: images, **keep, **settings)
    assert resumed.losses == pytest.approx(losses, rel=2e-2)


@pytest.mark.parametrize("build", [MSDNet.tiny, RANet.tiny])
def test_inference_answers_as_on_the_cpu(build):
    torch.manual_seed(0)
    model = build().eval()
    images, _ = shapes(200)
    with torch.no_grad():
        scores = torch.stack([decision.confidence(logits) for logits in model(images)], 1)
    bar = decision.find_thresholds(scores, decision.exit_shares(0.8, 4))
    here, there = model.infer(images, bar), model.cuda().infer(images.cuda(), bar)
    assert there.logits.is_cuda and there.exit_index.is_cuda and there.macs.is_cuda
    same = there.exit_index.cpu() == here.exit_index
    assert same.float().mean() > 0.9  # a confidence on the threshold may fall to either side
    torch.testing.assert_close(there.logits.cpu()[same], here.logits[same], atol=1e-3, rtol=1e-3)
    streamed = torch.cat([r.exit_index for r in model.infer_stream(images.cuda().split(32), bar, batch_size=32)])
    assert (streamed == there.exit_index).float().mean() > 0.9


def test_a_cpu_generator_draws_the_same_gates_on_a_gpu():
    logits = torch.linspace(-3, 3, 50)
    for sample in (
        partial(decision.straight_through_gate, sample=True),
        partial(decision.gumbel_sigmoid, tau=0.5),
        partial(decision.gumbel_softmax, tau=0.5),
        partial(decision.semantic_hash, training=True),
    ):
        here, there = (sample(x, generator=torch.Generator().manual_seed(0)) for x in (logits, logits.cuda()))
        assert there.is_cuda
        torch.testing.assert_close(there.cpu(), here, atol=1e-6, rtol=0)


def test_learned_weights_follow_the_device():
    torch.manual_seed(0)
    here, there = MSDNet.tiny(), MSDNet.tiny().cuda()
    there.load_state_dict(here.state_dict())
    runs = [fit_l2w(model, shapes(256), epochs=1, batch_size=128, hidden=16) for model in (here, there)]
    assert runs[1].history.losses == pytest.approx(runs[0].history.losses, rel=2e-2)
    assert runs[1].meta_losses == pytest.approx(runs[0].meta_losses, rel=2e-2)


def test_the_budgeted_bench_runs_in_the_cifar_configurations():
    report = budgeted.run(core.Options(quick=True, device="cuda"))
    core.validate(core.recorded(report, command="course bench budgeted --quick --device cuda", device="cuda"))
    assert any(row.name == "shapes: RANet, exit 6" for row in report.rows)


def test_the_bench_runs_in_the_cifar_configuration():
    report = early_exit.run(core.Options(quick=True, device="cuda"))
    core.validate(core.recorded(report, command="course bench early-exit --quick --device cuda", device="cuda"))
    training = next(row for row in report.rows if row.name == "shapes: training")
    assert training.details["parameters"] == 2_020_874
