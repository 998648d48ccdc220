"""AdaFocus on a GPU: it looks where it looks on the CPU, and every stage learns there."""

import pytest
import torch

from course_lib.temporal import adafocus
from course_lib.temporal.adafocus import AdaFocus, AdaFocusV2

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def made(cls, frames=4):
    torch.manual_seed(0)
    return cls.tiny(frames=frames).eval()


def some(n=24, frames=4):
    """Random clips (n, frames, 3, 48, 48) and labels (n,)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, frames, 3, 48, 48, generator=generator), torch.arange(n) % 10


@pytest.mark.parametrize("cls", [AdaFocus, AdaFocusV2])
@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 1, 2, 4, 3, 4])])
def test_it_answers_as_on_the_cpu(cls, lengths):
    model, clips = made(cls), some(6)[0]
    expected = model.infer(clips, lengths=lengths)
    found = model.cuda().infer(clips.cuda(), lengths=lengths)
    assert torch.allclose(found.logits.cpu(), expected.logits, atol=1e-3)
    assert torch.allclose(found.location.cpu(), expected.location, atol=1e-4)
    assert torch.equal(found.kept.cpu(), expected.kept) and torch.equal(found.macs.cpu(), expected.macs)


def test_online_is_offline():
    model, clips = made(AdaFocus).cuda(), some(6)[0].cuda()
    assert torch.allclose(model.infer_online(clips).logits, model.infer(clips).logits, atol=1e-3)


def test_gradients_reach_the_location():
    clips = some(3)[0]
    slopes = []
    for device in ("cpu", "cuda"):
        at = torch.full((3, 4, 2), 0.37, device=device, requires_grad=True)
        value = adafocus.soft_cut(clips.to(device), at, 20).square().mean()
        slopes.append(torch.autograd.grad(value, at)[0].cpu())
    assert slopes[0].abs().max() > 0 and torch.allclose(*slopes, atol=1e-4)


def test_the_stages_learn():
    model, (clips, labels) = made(AdaFocus).cuda(), some()
    histories = [
        adafocus.warm_up(model, clips, labels, epochs=3, batch_size=8),
        adafocus.train_policy(model, clips, labels, epochs=1, batch_size=8),
        adafocus.fine_tune(model, clips, labels, epochs=1, batch_size=8),
        adafocus.train_skipping(model, clips, labels, epochs=1, batch_size=8),
        adafocus.train_v2(made(AdaFocusV2).cuda(), clips, labels, epochs=3, batch_size=8),
    ]
    assert all(torch.tensor(history.losses).isfinite().all() for history in histories)
    assert histories[0].losses[-1] < histories[0].losses[0] and histories[-1].losses[-1] < histories[-1].losses[0]
    kept = model.infer(clips[:4].cuda(), threshold=0.5).kept
    assert kept.shape == (4, 4)
