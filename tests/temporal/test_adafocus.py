"""AdaFocus: published counts, windows, causality, one batch for the heavy network, rewards, stages, skipping, V2."""

import copy

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import data
from course_lib.temporal import adafocus
from course_lib.temporal.adafocus import AdaFocus, AdaFocusV2, FrameMacs

GLANCE, POLICY, CLASSIFIER = 299_494_272, 9_954_304, 13_574_144
FOCUS = {96: 750_698_496, 128: 1_334_575_104, 160: 2_085_273_600, 192: 3_002_793_984}
VIDEO = {96: 17.18, 128: 26.52, 160: 38.53, 192: 53.21}  # G for 16 frames, as the paper's table has them


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def lively(model, seed=0):
    """Eval mode, normalisations that do something, and weights so large that frames differ in what they lead to."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.2)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) * 0.2 + 0.1)
        for p in model.policy.parameters():
            p.mul_(4)
    return model.eval()


def tiny(cls=AdaFocus, seed=0, **options):
    torch.manual_seed(seed)
    return lively(cls.tiny(**options), seed)


def some(n=3, frames=8, seed=0):
    """Coarse random patterns, another one in each frame."""
    coarse = torch.randn(n, frames, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 2 * coarse.repeat_interleave(8, -1).repeat_interleave(8, -2)


def same(a, b):
    return torch.allclose(a.logits, b.logits, atol=1e-5) and torch.equal(a.location, b.location)


class Rows:
    """Counts how often a module is called, and on how many rows each time."""

    def __init__(self, module):
        self.rows = []
        module.register_forward_hook(lambda m, args, out: self.rows.append(len(args[0])))


# Counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", FOCUS)
def test_published_counts(patch):
    with torch.device("meta"):
        model = AdaFocus.published(patch=patch)
    assert parameters(model.glancer) == 2_480_072
    assert parameters(model.glancer.trunk) == 2_223_872
    assert parameters(model.focuser) == 23_508_032
    assert parameters(model.policy) == 7_996_466
    assert parameters(model.classifier) == 13_580_488
    assert model.frame_macs == FrameMacs(GLANCE, FOCUS[patch], POLICY, CLASSIFIER)
    assert round(model.video_macs(224) / 1e9, 2) == VIDEO[patch]


def test_something_something_has_two_frame_counts():
    for patch, focus, total in ((128, FOCUS[128], 18.41), (144, 1_757_556_736, 23.49), (176, 2_606_084_096, 33.67)):
        parts = FrameMacs(glance=GLANCE, focus=focus, policy=0, classifier=0)
        assert round(parts.video(8, 12) / 1e9, 2) == total, patch


def test_policy_and_classifier_follow_the_closed_forms():
    with torch.device("meta"):
        model = AdaFocus.published(classes=239)
    a, k = 49, 239
    policy = 32 * 1280 + (32 * 49 * 1024 + 1024) + 6 * (1024**2 + 1024) + (1024 * a + a) + 1025
    assert parameters(model.policy) == policy
    assert parameters(model.classifier) == 3 * 1024 * 3328 + 3 * 1024**2 + 6 * 1024 + 1024 * k + k


def test_published_v2_counts():
    with torch.device("meta"):
        model = AdaFocusV2.published()
    parts = {name: parameters(part) for name, part in model.named_children()}
    assert parts == {
        "glancer": 3_504_872,
        "focuser": 25_557_032,
        "glance_head": 256_200,
        "focus_head": 409_800,
        "policy": 31_692_930,
        "classifier": 26_754_176,
    }
    assert parameters(model) == 88_175_010


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_trunks_take_torchvision_s_weights(name):
    torch.manual_seed(0)
    reference = getattr(torchvision.models, name)().eval()
    trunk = getattr(adafocus, name)().eval()
    kept = {k: v for k, v in reference.state_dict().items() if not k.startswith(("fc.", "classifier."))}
    trunk.load_state_dict({k.removeprefix("features."): v for k, v in kept.items()})
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        head = reference.fc if name == "resnet50" else reference.classifier
        assert torch.allclose(head(trunk(x).mean((2, 3))), reference(x), atol=1e-5)


# Windows -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_a_window_is_a_slice(patch, seed):
    generator = torch.Generator().manual_seed(seed)
    clips = torch.randn(2, 3, 2, 12, 15, generator=generator)
    top = torch.randint(12 - patch + 1, (2, 3), generator=generator)
    left = torch.randint(15 - patch + 1, (2, 3), generator=generator)
    location = torch.stack((top / max(12 - patch, 1), left / (15 - patch)), -1)
    slices = [
        clips[n, t, :, top[n, t] : top[n, t] + patch, left[n, t] : left[n, t] + patch]
        for n in range(2)
        for t in range(3)
    ]
    assert torch.equal(adafocus.cut(clips, location, patch), torch.stack(slices))
    assert torch.allclose(adafocus.soft_cut(clips, location, patch), torch.stack(slices), atol=1e-4)


def test_only_the_frames_wanted_are_cut():
    clips, location = some(2, 3), torch.rand(2, 3, 2)
    kept = torch.tensor([[True, False, True], [False, False, True]])
    everything = adafocus.cut(clips, location, 20).unflatten(0, (2, 3))
    assert torch.equal(adafocus.cut(clips, location, 20, kept), everything[kept])


def test_both_ends_are_windows():
    locations = adafocus.grid_locations(7)
    assert locations.shape == (49, 2)
    corner = adafocus.corners(locations, 48, 48, 24)  # 5/6 of 24 pixels is 20 exactly, whatever float32 says
    assert corner[:, 0].unique().tolist() == [0, 4, 8, 12, 16, 20, 24]
    room = adafocus.random_locations(400, 8, room=28, generator=torch.Generator().manual_seed(0))
    drawn = adafocus.corners(room, 48, 48, 20)
    assert drawn.unique().tolist() == list(range(29))
    whole = adafocus.random_locations(2, 2, room=0)
    assert not adafocus.corners(whole, 20, 20, 20).any()


def test_gradient_of_a_crop_on_a_ramp_and_on_a_constant():
    slope, patch = 0.3, 20
    ramp = slope * torch.arange(48.0).view(1, 1, 1, 48, 1).expand(1, 1, 3, 48, 48)
    place = torch.tensor([[[0.37, 0.61]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(adafocus.soft_cut(ramp, place, patch).mean(), place)
    assert torch.allclose(gradient[0, 0], torch.tensor([slope * (48 - patch), 0.0]), atol=1e-4)
    constant = torch.full((1, 1, 3, 48, 48), 0.7)
    (gradient,) = torch.autograd.grad(adafocus.soft_cut(constant, place, patch).mean(), place)
    assert torch.allclose(gradient, torch.zeros(1, 1, 2), atol=1e-4)


@pytest.mark.parametrize("patch", [0, 49])
def test_a_window_must_fit_into_the_frame(patch):
    location = torch.zeros(1, 1, 2)
    for crop in (adafocus.cut, adafocus.soft_cut):
        with pytest.raises(ValueError, match=f"patch: got {patch}, expected 1 to 48"):
            crop(some(1, 1), location, patch)
    with pytest.raises(ValueError, match=f"patch: got {patch}, expected 1 to 48, to fit into frames of 48x48"):
        AdaFocus.tiny(patch=patch)
    with pytest.raises(ValueError, match=f"patch: got {patch}"):
        AdaFocusV2.tiny(patch=patch)


# Inference -----------------------------------------------------------------------------------------------------------


def test_offline_is_online_and_one_batch():
    model, clips = tiny(), some(4)
    rows = Rows(model.focuser)
    offline = model.infer(clips)
    assert rows.rows == [4 * 8]
    online = model.infer_online(clips)
    assert rows.rows[1:] == [4] * 8
    assert same(offline, online)
    assert torch.allclose(offline.probability, online.probability, atol=1e-6)
    assert offline.macs.tolist() == online.macs.tolist() == [model.video_macs()] * 4
    assert len(offline.location.flatten(0, 1).unique(dim=0)) > 3  # there is something to get wrong


def test_the_heavy_network_does_not_mind_the_order_of_its_batch():
    model, clips = tiny(), some(3)
    windows = adafocus.cut(clips, model.infer(clips).location, model.patch)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(model.focuser(windows)[order], model.focuser(windows[order]), atol=1e-5)


@pytest.mark.parametrize("last", [0, 3, 6])
def test_later_frames_change_nothing_before_them(last):
    model, clips = tiny(), some(2)
    other = clips.clone()
    other[:, last + 1 :] = torch.randn(other[:, last + 1 :].shape)
    before, after = model.infer(clips), model.infer(other)
    assert torch.equal(before.location[:, : last + 1], after.location[:, : last + 1])
    assert torch.allclose(before.logits[:, : last + 1], after.logits[:, : last + 1], atol=1e-6)
    assert not torch.allclose(before.logits[:, last + 1 :], after.logits[:, last + 1 :], atol=1e-6)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
@settings(max_examples=10, deadline=None)
def test_differing_lengths(lengths):
    clips, long = some(len(lengths), 5, seed=1), torch.tensor(lengths)
    for model in (tiny(frames=5), tiny(AdaFocusV2, frames=5)):
        rows = [Rows(model.focuser), Rows(model.glancer)]
        together = model.infer(clips, lengths=long)
        assert [r.rows for r in rows] == [[sum(lengths)]] * 2  # nothing is computed for what is not there
        for i, length in enumerate(lengths):
            alone = model.infer(clips[i : i + 1, :length])
            assert torch.allclose(alone.logits[0], together.logits[i, :length], atol=1e-3)
            assert torch.allclose(alone.location[0], together.location[i, :length], atol=1e-4)
            assert torch.equal(together.logits[i, length:], together.logits[i, length - 1].expand(5 - length, -1))
            assert together.kept[i].tolist() == [t < length for t in range(5)]
            assert alone.macs[0] == together.macs[i]


@pytest.mark.parametrize("cls", [AdaFocus, AdaFocusV2])
def test_a_still_image_and_no_clip_at_all(cls):
    model = tiny(cls)
    still = model.infer(some(2, 1))
    assert (still.logits.shape, still.location.shape) == ((2, 1, 10), (2, 1, 2))
    assert still.macs.tolist() == [model.frame_macs.video(1)] * 2
    nothing = model.infer(some(0, 4))
    assert (nothing.logits.shape, nothing.location.shape, nothing.macs.shape) == ((0, 4, 10), (0, 4, 2), (0,))
    if cls is AdaFocus:
        assert same(model.infer_online(some(2, 1)), still)
        assert model.infer_online(some(0, 4)).kept.shape == (0, 4)


def test_the_batch_may_be_in_any_order():
    for model in (tiny(), tiny(AdaFocusV2)):
        clips, order = some(4), torch.tensor([2, 0, 3, 1])
        a, b = model.infer(clips), model.infer(clips[order])
        assert torch.allclose(a.logits[order], b.logits, atol=1e-5)
        assert torch.allclose(a.location[order], b.location, atol=1e-6)


def test_windows_for_comparison():
    model, clips = tiny(), some(2)
    center = model.infer(clips, policy="center")
    assert model.corners(center.location).unique().tolist() == [14]
    draws = [model.infer(clips, policy="random", generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0].location, draws[1].location)
    assert not torch.equal(draws[0].location, draws[2].location)
    learned = model.infer(clips)
    given = model.infer(clips, policy=learned.location)
    assert same(given, learned)
    for cls in (AdaFocus, AdaFocusV2):
        ends = torch.ones(2, 8, 2, dtype=torch.int64)
        assert same(tiny(cls).infer(clips, policy=ends), tiny(cls).infer(clips, policy=ends.float()))
    parts = model.frame_macs
    assert (learned.macs - given.macs).tolist() == [8 * parts.policy] * 2  # nobody was asked


BAD = [
    (lambda m: m.infer(torch.zeros(2, 0, 3, 48, 48)), ValueError, "clips of 0 frames, expected at least one"),
    (lambda m: m.infer(torch.zeros(8, 3, 48, 48)), ValueError, r"a single clip needs clip\[None\]"),
    (lambda m: m.infer(torch.zeros(1, 8, 3, 32, 32)), ValueError, r"expected \(N, T, 3, 48, 48\)"),
    (lambda m: m.infer(torch.zeros(1, 8, 1, 48, 48)), ValueError, r"expected \(N, T, 3, 48, 48\)"),
    (lambda m: m.infer(some(2), policy="left"), ValueError, "policy: got 'left'"),
    (lambda m: m.infer(some(2), policy=torch.zeros(2, 7, 2)), ValueError, r"expected \(2, 8, 2\)"),
    (lambda m: m.infer(some(2), lengths=torch.tensor([0, 3])), ValueError, "lengths: got"),
    (lambda m: m.infer(some(2), lengths=torch.tensor([3])), ValueError, "lengths: got"),
    (lambda m: m.train().infer(some(2)), RuntimeError, "training mode"),
    (lambda m: m.video_macs(224), ValueError, "size: got 224, expected 48"),
]


@pytest.mark.parametrize("cls", [AdaFocus, AdaFocusV2])
@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input_is_named(cls, call, error, words):
    with pytest.raises(error, match=words):
        call(tiny(cls))


def test_more_bad_input():
    with pytest.raises(RuntimeError, match="not taught to skip"):
        tiny().infer(some(1), threshold=0.5)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        tiny().infer(some(1), policy=torch.full((1, 8, 2), 1.5))
    with pytest.raises(ValueError, match="at most 8"):
        tiny(AdaFocusV2).infer(some(1, 9))
    with pytest.raises(ValueError, match="frames: got 0"):
        AdaFocus.tiny(frames=0)
    with pytest.raises(ValueError, match="feature maps"):
        AdaFocus(glancer=nn.Flatten(), focuser=nn.Identity(), patch=4, frames=1, classes=2, size=8)


# Rewards -------------------------------------------------------------------------------------------------------------


def rewards_by_loop(model, clips, labels, chosen, other):
    """Frame by frame, with a copy of the state for what did not happen."""
    state, rows = None, []
    _, glance = model.glance(clips)
    for t in range(clips.shape[1]):
        p = []
        for place in (other, chosen):
            focus = model.look(clips[:, t : t + 1], place[:, t : t + 1])
            logits, _, after = model.classify(glance[:, t : t + 1], focus, state)
            p.append(logits[:, 0].softmax(-1).gather(1, labels[:, None])[:, 0])
        state = after  # that of the chosen window, the last one computed
        rows.append(p[1] - p[0])
    return torch.stack(rows, 1)


def test_rewards_compare_with_a_random_window_after_the_same_history():
    model, clips, labels = tiny(), some(5), torch.tensor([3, 1, 4, 1, 5])
    chosen, other = torch.rand(2, 5, 8, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, glance = model.glance(clips)
        rewards = adafocus.window_rewards(model, clips, labels, glance, chosen, other)
        assert torch.allclose(rewards, rewards_by_loop(model, clips, labels, chosen, other), atol=1e-6)
        swapped = other.clone()
        swapped[:, 2] = 0.5  # another counterfactual at one frame changes the reward there, and nowhere else
        again = adafocus.window_rewards(model, clips, labels, glance, chosen, swapped)
    changed = ((rewards - again).abs() > 1e-7).any(0)
    assert changed.tolist() == [t == 2 for t in range(8)]
    assert rewards.abs().max() > 1e-5


def test_nothing_to_choose_no_reward():
    model, clips, labels = tiny(patch=48), some(3), torch.tensor([0, 1, 2])
    chosen, other = torch.rand(2, 3, 8, 2)
    with torch.no_grad():
        _, glance = model.glance(clips)
        assert not adafocus.window_rewards(model, clips, labels, glance, chosen, other).abs().max() > 1e-6
        same_place = adafocus.window_rewards(tiny(), clips, labels, tiny().glance(clips)[1], chosen, chosen)
    assert same_place.abs().max() < 1e-6


def test_a_uniform_policy_earns_nothing_on_average():
    model = tiny(patch=20)
    clips, labels = some(64), torch.randint(10, (64,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        _, glance = model.glance(clips)
        generator = torch.Generator().manual_seed(2)
        cells = torch.randint(49, (64, 8), generator=generator)
        other = adafocus.random_locations(64, 8, room=28, generator=generator)
        rewards = adafocus.window_rewards(model, clips, labels, glance, model.locations[cells], other)
    standard_error = rewards.std() / rewards.numel() ** 0.5
    assert rewards.mean().abs() < 4 * standard_error


# Training ------------------------------------------------------------------------------------------------------------


def few(n=24, frames=3, **options):
    made = data.clips(n, frames=frames, seed=5, **options)
    return (made.frames - 0.5) * 2, made.labels, made


def weights(model, *parts):
    return {k: v.clone() for k, v in model.state_dict().items() if k.startswith(parts)}


def unchanged(model, before):
    now = model.state_dict()
    return all(torch.equal(now[k], v) for k, v in before.items())


STAGES = {  # stage -> (call, parts that learn)
    "warm_up": (lambda m, x, y, **o: adafocus.warm_up(m, x, y, **o), ("glancer", "classifier", "focuser")),
    "warm_up, paper": (
        lambda m, x, y, **o: adafocus.warm_up(m, x, y, glance_lr=0, focus_lr=5e-4, **o),
        ("classifier", "focuser"),
    ),
    "train_policy": (lambda m, x, y, **o: adafocus.train_policy(m, x, y, **o), ("policy",)),
    "fine_tune": (lambda m, x, y, **o: adafocus.fine_tune(m, x, y, **o), ("classifier", "focuser")),
    "fine_tune, classifier": (lambda m, x, y, **o: adafocus.fine_tune(m, x, y, focus_lr=0, **o), ("classifier",)),
    "fine_tune, random": (lambda m, x, y, **o: adafocus.fine_tune(m, x, y, windows="random", **o), ("classifier",)),
    "skipping": (lambda m, x, y, **o: adafocus.train_skipping(m, x, y, **o), ("classifier", "skip")),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_its_parts_only_by_its_seed_and_can_be_resumed(stage, tmp_path):
    call, learns = STAGES[stage]
    x, y, _ = few()
    start = tiny()
    held = weights(start, *{"glancer", "focuser", "policy", "classifier"} - set(learns))
    if stage != "fine_tune, random":  # there the focuser learns, too, as it does by default
        trained = copy.deepcopy(start)
        call(trained, x, y, epochs=1, batch_size=16)
        assert unchanged(trained, held)
        assert all(not unchanged(trained, weights(start, part)) for part in learns if part != "skip")
    torch.manual_seed(1)  # must not matter
    whole, parts = copy.deepcopy(start), copy.deepcopy(start)
    history = call(whole, x, y, epochs=2, batch_size=16, seed=7)
    assert len(history.losses) == len(history.scores) == 2
    assert not whole.training

    class StopError(Exception):
        pass

    path, saved = tmp_path / "stage.pt", []

    def save_then_stop(*args):
        saved.append(real(*args))
        if len(saved) == 1:
            raise StopError

    real = adafocus.loop._save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adafocus.loop, "_save", save_then_stop)
        with pytest.raises(StopError):
            call(parts, x, y, epochs=2, batch_size=16, seed=7, checkpoint=path)
    again = copy.deepcopy(start)
    assert call(again, x, y, epochs=2, batch_size=16, seed=7, checkpoint=path) == history
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match="other settings"):
        call(again, x, y, epochs=3, batch_size=16, seed=7, checkpoint=path)


def test_a_checkpoint_of_something_else_is_named(tmp_path):
    x, y, _ = few(4)
    path = tmp_path / "stage.pt"
    adafocus.warm_up(tiny(), x, y, epochs=1, checkpoint=path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of a weight
    for strange in (bytes(content), b"", b"no archive"):
        path.write_bytes(strange)
        with pytest.raises(ValueError, match="stage.pt: got an unreadable file"):
            adafocus.warm_up(tiny(), x, y, epochs=1, checkpoint=path)
    torch.save({"format": "another"}, path)
    with pytest.raises(ValueError, match="stage.pt: got another, expected a checkpoint of a stage"):
        adafocus.warm_up(tiny(), x, y, epochs=1, checkpoint=path)


def test_the_focuser_learns_from_windows_around_the_object():
    x, y, made = few(60, frames=2, noise=0.05)
    windows, labels = adafocus.object_windows(
        x, y, made.box, made.informative, side=made.side, patch=20, n=2000, seed=0
    )
    assert (windows.shape, labels.shape) == ((2000, 3, 20, 20), (2000,))
    model = tiny().train()
    before = weights(model, "glancer", "policy", "classifier")
    history = adafocus.pretrain_focus(model, windows, labels, epochs=2)
    assert history.scores[-1] > 0.5
    assert not any(module.training for module in model.modules())
    assert unchanged(model, before)
    # each window is a piece of one of the frames that holds the whole digit
    bright = (windows[:, 0] > 0).flatten(1).sum(1)
    assert (bright > 5).all()


def test_the_policy_learns_to_look_where_the_object_is():
    """In a still image, with a focuser that can read: coverage and accuracy rise above those of random windows."""
    x, y, made = few(600, frames=1, noise=0.05, strokes=0)
    torch.manual_seed(0)
    model = AdaFocus.tiny(frames=1)
    windows = adafocus.object_windows(x, y, made.box, made.informative, side=10, patch=20, n=3000)
    adafocus.pretrain_focus(model, *windows)
    adafocus.warm_up(model, x, y, epochs=12, focus_lr=0)
    rewards = adafocus.train_policy(model, x, y, epochs=15, lr=6e-3).scores
    assert rewards[-1] > rewards[0] + 0.05
    learned, random = (
        model.infer(x, policy=p, generator=torch.Generator().manual_seed(0)) for p in ("learned", "random")
    )
    covered = [made.covered(model.corners(r.location), 20).double().mean() for r in (learned, random)]
    assert covered[0] > 2 * covered[1]


def test_bad_settings_of_training():
    x, y, _ = few(4)
    with pytest.raises(ValueError, match="at least one above 0"):
        adafocus.fine_tune(tiny(), x, y, lr=0)
    with pytest.raises(ValueError, match="windows: got 'center'"):
        adafocus.fine_tune(tiny(), x, y, windows="center")
    with pytest.raises(ValueError, match="samples: got 0"):
        adafocus.warm_up(tiny(), x[:0], y[:0])
    with pytest.raises(ValueError, match="clips: got shape"):
        adafocus.train_policy(tiny(), x[0], y)
    with pytest.raises(FloatingPointError, match="warm_up: the loss is nan"):
        adafocus.warm_up(tiny(), x * float("nan"), y)
    with pytest.raises(ValueError, match="shown: got no frame"):
        adafocus.object_windows(x, y, torch.zeros(4, 3, 2), torch.zeros(4, 3) > 0, side=10, patch=20, n=1)
    with pytest.raises(ValueError, match="patch: got 8, expected 10 to 48"):
        adafocus.object_windows(x, y, torch.zeros(4, 3, 2), torch.ones(4, 3) > 0, side=10, patch=8, n=1)


def test_dropout_is_drawn_by_the_seed_and_is_off_while_rewards_are_computed():
    x, y, _ = few(16)
    start = tiny()
    start.classifier.dropout.p = 0.8
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = copy.deepcopy(start)
        runs.append(adafocus.warm_up(model, x, y, epochs=1))
    assert runs[0] == runs[1]
    modes = []
    start.classifier.dropout.register_forward_hook(lambda m, a, o: modes.append(m.training))
    adafocus.train_policy(start, x, y, epochs=1)
    assert not any(modes)


# Skipping ------------------------------------------------------------------------------------------------------------


def skipping_model():
    model = tiny()
    torch.manual_seed(0)
    model.skip = nn.Linear(64, 1)
    nn.init.normal_(model.skip.weight, std=3)
    return model


def test_skipped_frames_never_reach_the_heavy_network():
    model, clips = skipping_model(), some(4)
    rows = Rows(model.focuser)
    offline = model.infer(clips, threshold=0.5)
    read = int(offline.kept.sum())
    assert 0 < read < 32
    assert rows.rows == [read]
    parts = model.frame_macs
    spared = (~offline.kept).sum(1).double() * parts.focus
    assert torch.equal(offline.macs, model.video_macs() - spared)
    online = model.infer_online(clips, threshold=0.5)
    assert torch.equal(online.kept, offline.kept)
    assert same(online, offline)
    assert sum(rows.rows[1:]) == read


def test_every_window_and_none():
    model, clips = skipping_model(), some(3)
    assert same(model.infer(clips, threshold=0.0), model.infer(clips))
    none = model.infer(clips, threshold=1.1)
    assert not none.kept.any()
    elsewhere = model.infer(clips, policy="center", threshold=1.1)
    assert torch.equal(none.logits, elsewhere.logits)  # unread windows leave no trace
    lengths = torch.tensor([1, 4, 8])
    some_read = model.infer(clips, threshold=0.5, lengths=lengths)
    assert not some_read.kept[0, 1:].any()
    assert torch.equal(some_read.kept, model.infer(clips, threshold=0.5).kept & (torch.arange(8) < lengths[:, None]))


def test_a_high_price_stops_reading_and_a_gift_makes_it_read():
    x, y, _ = few(64)
    shares = {}
    for price in (1.0, -1.0):
        model = tiny()
        adafocus.train_skipping(model, x, y, price=price, epochs=20, lr=0.02)
        shares[price] = model.infer(x, threshold=0.5).kept.double().mean()
    assert shares[1.0] < 0.2 < 0.8 < shares[-1.0]


# V2 ------------------------------------------------------------------------------------------------------------------


def test_coarse_to_fine_orders():
    assert adafocus.coarse_to_fine(16) == [7, 0, 15, 3, 11, 1, 5, 9, 13, 2, 4, 6, 8, 10, 12, 14]
    assert adafocus.coarse_to_fine(10) == [4, 0, 9, 2, 6, 1, 3, 5, 7, 8]
    assert adafocus.coarse_to_fine(8) == [3, 0, 7, 1, 5, 2, 4, 6]


@given(st.integers(1, 40))
def test_every_frame_is_read_once(frames):
    assert sorted(adafocus.coarse_to_fine(frames)) == list(range(frames))


def test_v2_forward_is_infer():
    model, clips = tiny(AdaFocusV2), some(3)
    with torch.inference_mode():
        (output,) = model(clips)
    result = model.infer(clips)
    assert torch.allclose(output.logits, result.logits, atol=1e-5)
    assert torch.allclose(output.location, result.location, atol=1e-6)
    one_by_one = model.infer(clips, thresholds=torch.full((8,), 2.0))  # nobody is ever that sure
    assert torch.allclose(one_by_one.logits, result.logits, atol=1e-5)
    assert torch.allclose(one_by_one.location, result.location, atol=1e-6)


def test_v2_gradients_go_where_they_should():
    model, clips = tiny(AdaFocusV2), some(2)
    labels = torch.tensor([1, 2])
    first, second = model(clips, torch.rand(2, 8, 2))
    every = {name: list(part.parameters()) for name, part in model.named_children()}

    def reached(loss):
        found = {}
        for name, mine in every.items():
            grads = torch.autograd.grad(loss, mine, retain_graph=True, allow_unused=True)
            found[name] = any(g is not None and bool(g.abs().sum() > 0) for g in grads)
        return {name for name, hit in found.items() if hit}

    # through the crop into the policy, and from the policy's own output no further than the policy
    assert "policy" in reached(nn.functional.cross_entropy(first.logits[:, -1], labels))
    assert reached(first.location.sum()) == {"policy"}
    assert reached(second.focus_logits.sum()) == {"focuser", "focus_head"}
    assert "policy" not in reached(nn.functional.cross_entropy(second.logits[:, -1], labels))
    assert reached(first.glance_logits.square().sum()) == {"glancer", "glance_head"}


def test_v2_remembers_the_maximum():
    model = tiny(AdaFocusV2)
    features = torch.randn(2, 5, model.classifier.features)
    with torch.inference_mode():
        whole, end = model.classifier(features)
        start, seen = model.classifier(features[:, :2])
        rest, last = model.classifier(features[:, 2:], seen, first=2)
    assert torch.allclose(torch.cat((start, rest), 1), whole, atol=1e-6)
    assert torch.equal(last, end)
    assert (end >= seen).all()


def test_v2_reads_no_frame_of_a_clip_that_is_answered():
    model, clips = tiny(AdaFocusV2), some(6)
    everything = model.infer(clips)
    sure = everything.logits.softmax(-1).amax(-1)
    thresholds = torch.full((8,), float(sure[:, :4].median()))
    rows = [Rows(model.focuser), Rows(model.glancer)]
    result = model.infer(clips, thresholds=thresholds)
    used = result.kept.sum(1)
    assert 1 <= used.min() < used.max() <= 8
    expected = (sure >= thresholds).int().argmax(1) + 1
    expected[~(sure[:, :-1] >= thresholds[:-1]).any(1)] = 8
    assert used.tolist() == expected.tolist()
    for counted in rows:
        assert counted.rows == [int((used > k).sum()) for k in range(int(used.max()))]
    final = everything.logits[torch.arange(6), used - 1]
    assert torch.allclose(result.logits[:, -1], final, atol=1e-5)
    assert torch.equal(result.macs, used.double() * model.frame_macs.video(1))
    order = torch.tensor(adafocus.coarse_to_fine(8))
    for i in range(6):
        assert result.kept[i].nonzero().flatten().tolist() == sorted(order[: used[i]].tolist())


def test_v2_learns_and_resumes(tmp_path):
    x, y, _ = few()
    start, path = tiny(AdaFocusV2, frames=3), tmp_path / "v2.pt"
    whole = copy.deepcopy(start)
    history = adafocus.train_v2(whole, x, y, epochs=3, batch_size=16)
    assert history.losses[-1] < history.losses[0]
    assert all(not unchanged(whole, weights(start, part)) for part, _ in start.named_children())
    kept = copy.deepcopy(start)
    assert adafocus.train_v2(kept, x, y, epochs=3, batch_size=16, checkpoint=path) == history
    assert adafocus.train_v2(copy.deepcopy(start), x, y, epochs=3, batch_size=16, checkpoint=path) == history
