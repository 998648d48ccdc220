"""The training loop: what it computes, that interruptions change nothing, that processes add up, and its errors."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from course_lib import checkpoint as files
from course_lib import train

ROOT = Path(__file__).resolve().parent.parent
N, CLASSES = 21, 3


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums come out the same here and in the child processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TwoExits(nn.Module):
    """Two exits with BatchNorm and dropout, so that buffers and the global generator matter."""

    def __init__(self, width=6, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.3))
            self.heads = nn.ModuleList(nn.Linear(width * 4, CLASSES) for _ in range(2))

    def forward(self, x):
        features = self.stem(x).flatten(1)
        return [head(features) for head in self.heads]


def toy_data(n=N):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(n, 1, 4, 4, generator=generator), torch.randint(CLASSES, (n,), generator=generator)


def jitter(images, generator):
    return images + 0.1 * torch.randn(images.shape, generator=generator)


def run(model, data=None, **options):
    options = {"epochs": 3, "batch_size": 8, "progress": False, "augment": jitter} | options
    return train.fit(model, toy_data() if data is None else data, **options)


def assert_same_weights(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# --- what it computes


def test_one_step_is_the_textbook_step():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    by_hand = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    by_hand.load_state_dict(model.state_dict())
    images, labels = toy_data()
    history = run(model, (images, labels), epochs=1, batch_size=N, lr=0.1, weight_decay=0.01, augment=None)

    loss = nn.functional.cross_entropy(by_hand(images), labels)
    loss.backward()
    assert history.losses == pytest.approx((loss.item(),), rel=1e-6)
    for mine, theirs in zip(by_hand.parameters(), model.parameters(), strict=True):
        gradient = mine.grad + 0.01 * mine
        # Nesterov's first step: the momentum buffer is the gradient itself.
        torch.testing.assert_close(mine - 0.1 * (gradient + 0.9 * gradient), theirs)


def test_the_schedule_runs_over_the_whole_training():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    by_hand = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    by_hand.load_state_dict(model.state_dict())
    images, labels = toy_data()
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "augment": None}
    run(model, (images, labels), epochs=3, batch_size=N, lr=0.4, **plain)
    for lr in (0.4, 0.3, 0.1):  # 0.4 (1 + cos(pi t / 3)) / 2
        gradients = torch.autograd.grad(nn.functional.cross_entropy(by_hand(images), labels), by_hand.parameters())
        with torch.no_grad():
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                parameter -= lr * gradient
    for mine, theirs in zip(by_hand.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_it_learns_and_says_what_it_did():
    model = TwoExits()
    means = []
    history = run(model, epochs=4, on_epoch=lambda epoch, mean: means.append((epoch, mean)))
    assert (history.epochs, history.steps, len(history.losses)) == (4, 12, 12)
    assert history.seconds > 0
    assert [epoch for epoch, _ in means] == [1, 2, 3, 4]
    assert means[0][1] == pytest.approx(sum(history.losses[:3]) / 3)
    assert means[-1][1] < means[0][1]
    assert not model.training


def test_every_image_once_an_epoch_in_a_new_order():
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 2)

        def forward(self, x):
            seen.append(x.flatten().tolist())
            return self.linear(x)

    data = torch.arange(10.0)[:, None] / 10, torch.zeros(10, dtype=torch.int64)
    run(Spy(), data, epochs=2, batch_size=4, augment=None)
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = [x for batch in seen[:3] for x in batch], [x for batch in seen[3:] for x in batch]
    assert sorted(first) == sorted(second) == data[0].flatten().tolist()
    assert first != second


def test_same_seed_same_weights_other_seed_others_and_global_generator_untouched():
    state = torch.get_rng_state()
    models = [TwoExits() for _ in range(3)]
    for model, seed in zip(models, (7, 7, 8), strict=True):
        run(model, seed=seed)
    assert_same_weights(models[0], models[1])
    assert not torch.equal(models[0].stem[0].weight, models[2].stem[0].weight)
    assert torch.equal(state, torch.get_rng_state())


def test_a_dataset_trains_like_the_tensors_it_holds():
    models = TwoExits(), TwoExits()
    images, labels = toy_data()
    one = run(models[0], (images, labels))
    other = run(models[1], {i: (images[i], int(labels[i])) for i in range(N)})
    assert one.losses == other.losses
    assert_same_weights(*models)


@pytest.mark.parametrize(
    ("schedule", "expected"), [("cosine", [1.0, 0.8535534, 0.5, 0.1464466]), ("steps", [1.0, 1.0, 0.1, 0.01])]
)
def test_schedules(schedule, expected):
    plan = train._Plan(4, 4, 4, 1.0, 0.9, True, 0.0, schedule, 0, "fp32")
    assert [plan.lr_at(step) for step in range(4)] == pytest.approx(expected)


def test_bf16_trains_close_to_fp32():
    losses = [run(TwoExits(), precision=precision, epochs=1).losses for precision in ("fp32", "bf16")]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_multi_exit_loss_weighs_and_sums():
    logits = [torch.randn(5, 4), torch.randn(5, 4)]
    labels = torch.tensor([0, 1, 2, 3, 0])
    each = [nn.functional.cross_entropy(exit_logits, labels) for exit_logits in logits]
    torch.testing.assert_close(train.multi_exit_loss(logits, labels), each[0] + each[1])
    torch.testing.assert_close(train.multi_exit_loss(logits, labels, (0.5, 2.0)), 0.5 * each[0] + 2 * each[1])
    torch.testing.assert_close(train.multi_exit_loss(logits[0], labels), each[0])
    assert train.multi_exit_loss([torch.zeros(0, 4)], torch.zeros(0, dtype=torch.int64)) == 0


def test_evaluate_gives_every_exit_in_order_and_keeps_the_mode():
    model, data = TwoExits(), toy_data()
    model.train()
    logits, labels = train.evaluate(model, data, batch_size=8)
    assert model.training
    assert torch.equal(labels, data[1])
    expected = model.eval()(data[0])
    for got, want in zip(logits, expected, strict=True):
        torch.testing.assert_close(got, want)
    logits[0].mul(nn.Parameter(torch.ones(()))).sum().backward()  # usable for calibration


def test_evaluate_of_nothing_and_of_one():
    images, labels = toy_data()
    for n in (0, 1):
        logits, targets = train.evaluate(TwoExits(), (images[:n], labels[:n]))
        assert [tuple(part.shape) for part in logits] == [(n, CLASSES)] * 2
        assert targets.shape == (n,)
    with pytest.raises(ValueError, match="empty dataset"):
        train.evaluate(TwoExits(), TensorDataset(images[:0], labels[:0]))


# --- interruptions


class Stop(BaseException):
    """Like KeyboardInterrupt, nothing in the loop may swallow it."""


def stop_at(step):
    calls = iter(range(10**6))

    def augment(images, generator):
        if next(calls) == step:
            raise Stop
        return jitter(images, generator)

    return augment


UNDISTURBED = {}


def undisturbed():
    """(model, losses) of the run nobody interrupts; trained once."""
    if not UNDISTURBED:
        model = TwoExits()
        UNDISTURBED["run"] = model, run(model).losses
    return UNDISTURBED["run"]


@settings(max_examples=25, deadline=None)
@given(stops=st.lists(st.integers(0, 8), min_size=1, max_size=3), every=st.integers(1, 5))
def test_interrupted_at_any_steps_the_end_is_the_same(stops, every):
    expected, losses = undisturbed()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.pt"
        for stop in [*stops, None]:
            # Other weights to begin with, as soon as there is a checkpoint: all must come from the file.
            model = TwoExits(seed=99 if path.exists() else 0)
            with contextlib.suppress(Stop):
                augment = jitter if stop is None else stop_at(stop)
                history = run(model, augment=augment, checkpoint=path, checkpoint_every=every)
        assert history.losses == losses
        assert_same_weights(model, expected)


CHILD = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_train import TwoExits, jitter, run

def loud(images, generator):
    print("step", flush=True)
    return jitter(images, generator)

run(TwoExits(), epochs={epochs}, augment=loud, checkpoint={path!r}, checkpoint_every={every})
"""


def test_killed_at_a_random_step_and_resumed_ends_with_the_same_weights(tmp_path):
    epochs, every = 40, 2
    kill_at = random.SystemRandom().randrange(3, 100)
    path = tmp_path / "run.pt"
    script = CHILD.format(tests=str(ROOT / "tests"), epochs=epochs, path=str(path), every=every)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        for _ in range(kill_at):
            assert child.stdout.readline() == "step\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    done = train.load_checkpoint(path)["losses"].numel()
    assert 0 < done < epochs * 3, f"killed at step {kill_at}"

    resumed, whole = TwoExits(seed=1), TwoExits()
    history = run(resumed, epochs=epochs, checkpoint=path, checkpoint_every=every)
    assert history.losses == run(whole, epochs=epochs).losses, f"killed at step {kill_at}"
    assert_same_weights(resumed, whole)


def test_a_finished_run_is_not_trained_again(tmp_path):
    path = tmp_path / "deep" / "run.pt"
    first, second = TwoExits(), TwoExits(seed=3)
    history = run(first, checkpoint=path)
    again = run(second, checkpoint=path, augment=stop_at(0))
    assert again == history
    assert_same_weights(first, second)
    with pytest.raises(Stop):
        run(TwoExits(), checkpoint=path, augment=stop_at(0), resume=False)
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    run(TwoExits(), checkpoint=path)
    before = path.read_bytes()

    def half(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        run(TwoExits(), checkpoint=path, resume=False)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- two processes


PROCESS = """
import json, os, sys
import torch
from accelerate import Accelerator
from torch import nn
from course_lib import train

torch.set_num_threads(1)
accelerator = Accelerator(cpu=True) if "RANK" in os.environ else None
generator = torch.Generator().manual_seed(5)
data = torch.rand(17, 1, 4, 4, generator=generator), torch.randint(3, (17,), generator=generator)

def jitter(images, generator):
    return images + 0.1 * torch.randn(images.shape, generator=generator)

def fit(dropout=0.0, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))
    history = train.fit(model, data, epochs=3, batch_size=8, accelerator=accelerator, progress=False, **options)
    return history.losses, [parameter.sum().item() for parameter in model.parameters()]

results = {"plain": fit(), "augmented": fit(augment=jitter)}
if accelerator is not None:
    assert accelerator.num_processes == 2
    path, calls = sys.argv[1], iter(range(100))

    def stop(images, generator):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return jitter(images, generator)

    whole = fit(dropout=0.5, augment=jitter)
    try:
        fit(dropout=0.5, augment=stop, checkpoint=path, checkpoint_every=2)
    except KeyboardInterrupt:
        results["done"] = train.load_checkpoint(path)["losses"].numel()
    results["resumed"] = fit(dropout=0.5, augment=jitter, checkpoint=path) == whole
    accelerator.end_training()
print(json.dumps(results))
"""


def test_two_gloo_processes_give_the_loss_curve_of_one_and_resume(tmp_path):
    """17 images in batches of 8: the last batch has one, so that the second process gets none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "two.pt")]
    children = []
    for rank in range(2):
        launch = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        launch |= {"GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": 1}
        env = os.environ | {name: str(value) for name, value in launch.items()}
        children.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, cwd=ROOT))
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    alone = {}
    exec(PROCESS, alone)
    for output in outputs:
        results = json.loads(output.splitlines()[-1])
        for kind, (losses, sums) in alone["results"].items():
            assert results[kind][0] == pytest.approx(losses, rel=1e-5), kind
            assert results[kind][1] == pytest.approx(sums, rel=1e-4, abs=1e-5), kind
        assert results["done"] == 4
        assert results["resumed"]


# --- what goes wrong


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    run(TwoExits(), epochs=1, checkpoint=path)
    return path


@pytest.mark.parametrize("damage", ["empty", "half", "text", "flipped"])
def test_a_corrupt_checkpoint_is_named(checkpoint, damage):
    content = checkpoint.read_bytes()
    middle = len(content) // 2
    weight = content.index(train.load_checkpoint(checkpoint)["model"]["heads.1.weight"].numpy().tobytes())
    flipped = content[:weight] + bytes([content[weight] ^ 255]) + content[weight + 1 :]
    checkpoint.write_bytes(
        {"empty": b"", "half": content[:middle], "text": b"weights" * 50, "flipped": flipped}[damage]
    )
    with pytest.raises(
        ValueError, match=r"run\.pt.*got an unreadable file.*expected a checkpoint written by course_lib"
    ):
        run(TwoExits(), checkpoint=checkpoint)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("never",)


@pytest.mark.parametrize(
    "foreign",
    [{"model": {}}, torch.zeros(3), [1, 2], {"format": files.FORMAT, "plan": 3}, {"format": "course_lib.train/9"}],
)
def test_a_foreign_checkpoint_is_named(tmp_path, foreign):
    path = tmp_path / "foreign.pt"
    torch.save(foreign, path)
    with pytest.raises(ValueError, match=r"foreign\.pt: got .*expected"):
        train.load_checkpoint(path)


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": files.FORMAT, "model": Evil()}, "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt"):
        train.load_checkpoint("evil.pt")
    assert not Path("never").exists()


def test_no_checkpoint_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        train.load_checkpoint(tmp_path / "none.pt")


def test_a_checkpoint_of_another_model_or_run_is_refused_before_anything_changes(checkpoint):
    model = TwoExits(width=5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"another model: got \(6, 1, 3, 3\) as 'stem.0.weight', expected \(5, 1, 3, 3\)"
    ):
        run(model, epochs=1, checkpoint=checkpoint)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="another model: got no tensor as 'weight'"):
        run(nn.Linear(2, 2), epochs=1, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="other settings: got batch_size=8 in the file, expected 7"):
        run(TwoExits(), epochs=1, batch_size=7, checkpoint=checkpoint)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_last_good_checkpoint(tmp_path, bad):
    path = tmp_path / "run.pt"
    calls = iter(range(100))

    def loss(outputs, labels):
        return train.multi_exit_loss(outputs, labels) * (bad if next(calls) == 4 else 1)

    model = TwoExits()
    with pytest.raises(FloatingPointError, match=f"the loss is {bad} at step 4 .epoch 1, batch 1"):
        run(model, loss=loss, checkpoint=path, checkpoint_every=1)
    assert train.load_checkpoint(path)["losses"].numel() == 4
    assert all(tensor.isfinite().all() for tensor in model.parameters())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    path = tmp_path / "run.pt"
    calls = iter(range(100))

    def loss(outputs, labels):  # finite, but its gradient is not: d sqrt(x) / dx at 0
        value = train.multi_exit_loss(outputs, labels)
        return value + (value - value).sqrt() if next(calls) == 1 else value

    with pytest.raises(FloatingPointError, match="weights not finite after step 1"):
        run(TwoExits(), loss=loss, checkpoint=path, checkpoint_every=1)
    assert train.load_checkpoint(path)["losses"].numel() == 1


IMAGES, LABELS = toy_data()


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ((IMAGES, LABELS), {"schedule": "linear"}, ValueError, "schedule: got 'linear', expected one of cosine, steps"),
        ((IMAGES, LABELS), {"precision": "fp8"}, ValueError, "precision: got 'fp8'"),
        ((IMAGES, LABELS), {"precision": "fp16"}, ValueError, "precision: got 'fp16' on cpu"),
        ((IMAGES, LABELS), {"epochs": -1}, ValueError, "epochs: got -1"),
        ((IMAGES, LABELS), {"batch_size": 0}, ValueError, "batch_size: got 0"),
        ((IMAGES, LABELS), {"checkpoint_every": 0}, ValueError, "checkpoint_every: got 0"),
        ((IMAGES, LABELS + 1), {}, ValueError, r"labels: got values .*expected 0..2"),
        ((IMAGES, LABELS[:-1]), {}, ValueError, "data: got labels .20,"),
        ((IMAGES, LABELS.float()), {}, ValueError, "data: .*torch.float32"),
        ((IMAGES, LABELS.tolist()), {}, TypeError, r"data: got \(Tensor, list\)"),
        ((IMAGES[:0], LABELS[:0]), {}, ValueError, "data: got no images"),
        (3, {}, TypeError, "data: got int"),
        (dict.fromkeys(range(4), ("picture", 0)), {}, TypeError, "data: got images of type str"),
    ],
)
def test_bad_input_is_named(data, options, error, message):
    with pytest.raises(error, match=message):
        run(TwoExits(), data, augment=None, **options)


def test_loss_weights_are_one_per_exit():
    with pytest.raises(ValueError, match="weights: got 1 values, expected one for each of 2 exits"):
        train.multi_exit_loss([torch.zeros(1, 2)] * 2, torch.zeros(1, dtype=torch.int64), (1.0,))
