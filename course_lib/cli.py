"""The command `course`: what learners and lecturers type in a terminal.

What a part needs is imported when it runs, so that `course doctor` can say what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from course_lib import crew_command

if TYPE_CHECKING:
    from torch import Tensor

    from course_lib.instance.msdnet import MSDNet

app = typer.Typer(
    help="A course on dynamic neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


# --- doctor -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One thing the doctor looked for: what was found, whether that will do, what it is needed for."""

    name: str
    found: str
    fine: bool
    needed_for: str
    required: bool = False


@app.command()
def doctor() -> None:
    """Look whether all the course needs is here; exit with 1 where something indispensable is missing."""
    from rich.console import Console
    from rich.table import Table

    findings = examine()
    table = Table("", "what", "found", "needed for", title="course doctor")
    for finding in findings:
        state = "ok" if finding.fine else "MISSING" if finding.required else "missing"
        table.add_row(state, finding.name, finding.found, finding.needed_for, style=None if finding.fine else "bold")
    console = Console()
    console.print(table)
    lacking = [finding for finding in findings if finding.required and not finding.fine]
    if lacking:
        console.print(f"Nothing runs without: {', '.join(finding.name for finding in lacking)}.")
        raise typer.Exit(1)
    others = sum(not finding.fine for finding in findings)
    console.print(f"All that is indispensable is here{f'; {others} more would be of use' if others else ''}.")


def examine() -> list[Finding]:
    """Look for everything, one after the other; nothing here raises."""
    python = ".".join(map(str, sys.version_info[:3]))
    everything, lab = "everything", "notebooks and exercises (`make lab`)"
    return [
        Finding("python", python, sys.version_info >= (3, 11), "everything; 3.11 or newer", required=True),
        _package("torch", everything, required=True, at_least=(2, 11)),
        _package("numpy", everything, required=True),
        _look("convolution", _convolution, everything, required=True),
        _package("torchvision", "real data sets"),
        _package("scikit-learn", "the bundled real digits"),
        _package("matplotlib", "figures"),
        _triton(),
        _package("accelerate", "training on many devices"),
        _package("av", "video files"),
        _package("open_clip_torch", "CLIP"),
        _package("ortools", "crew scheduling"),
        _package("numba", "crew scheduling at speed"),
        _package("torch_geometric", "the network that prunes crew scheduling"),
        _package("jupyterlab", lab),
        _look("notebook kernel", _kernel, lab),
        _look("Chromium", _chromium, "the tests of book and lab in a real browser"),
        _look("progress folder", _progress_folder, "remembering which exercises are solved"),
        _look("free disk", _free_disk, "building the book, benches, checkpoints; 2 GB or more"),
    ]


def _look(name: str, find: Callable[[], str], needed_for: str, *, required: bool = False) -> Finding:
    """What `find` returns is what was found; whatever it raises says what is wrong."""
    try:
        return Finding(name, find(), True, needed_for, required)
    except Exception as error:
        return Finding(name, str(error).partition("\n")[0] or type(error).__name__, False, needed_for, required)


def _package(name: str, needed_for: str, *, required: bool = False, at_least: tuple[int, ...] = ()) -> Finding:
    import importlib.metadata

    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", False, needed_for, required)
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if numbers < at_least:
        wanted = f"{needed_for}; {'.'.join(map(str, at_least))} or newer"
        return Finding(name, version, False, wanted, required)
    return Finding(name, version, True, needed_for, required)


def _triton() -> Finding:
    if sys.platform != "linux":
        return Finding("triton", "there is none for this system", True, "GPU kernels, on Linux alone")
    return _package("triton", "GPU kernels")


def _convolution() -> str:
    """Run one on the course's device and compare it with the CPU."""
    import torch

    import course_lib

    device = course_lib.device()
    generator = torch.Generator().manual_seed(0)
    image, weight = (torch.randn(shape, generator=generator) for shape in ((1, 3, 8, 8), (4, 3, 3, 3)))
    here = torch.nn.functional.conv2d(image, weight)
    there = torch.nn.functional.conv2d(image.to(device), weight.to(device)).cpu()
    if not torch.allclose(here, there, atol=1e-2):  # a GPU may round to TF32
        raise RuntimeError(f"gives wrong numbers on {device}")
    return f"runs on {device}" + (f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "")


def _kernel() -> str:
    from jupyter_client.kernelspec import KernelSpecManager

    spec = KernelSpecManager().get_kernel_spec("python3")
    return f"python3 in {spec.resource_dir}"


def _chromium() -> str:
    import shutil

    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise FileNotFoundError("not found")


def _progress_folder() -> str:
    import tempfile

    from course_lib import checks

    checks.home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=checks.home()):
        return str(checks.home())


def _free_disk() -> str:
    import shutil

    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < 2:
        raise OSError(f"{free:.1f} GB")
    return f"{free:.0f} GB"


# --- bench ------------------------------------------------------------------------------------------------------


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def bench(context: typer.Context) -> None:
    """Measure and write down; `course bench --help` lists what there is."""
    from course_lib import bench as benches

    raise typer.Exit(benches.run(context.args))


# --- train ------------------------------------------------------------------------------------------------------

training = typer.Typer(help="Train a network of the course.", no_args_is_help=True)
app.add_typer(training, name="train")


@training.command("msdnet")
def train_msdnet(
    data: Annotated[str | None, typer.Option(help="A real data set by name, instead of procedural shapes.")] = None,
    root: Annotated[Path | None, typer.Option(help="The folder it lies in.")] = None,
    size: Annotated[int, typer.Option(help="Side of the images, in pixels.")] = 16,
    images: Annotated[int, typer.Option(help="How many shapes to train on.")] = 4000,
    epochs: int = 6,
    batch_size: int = 64,
    lr: float = 0.05,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or (on a GPU) fp16.")] = "fp32",
    seed: int = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="Written while training; continued where it exists.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two writings.")] = 100,
) -> None:
    """Train the laptop-size MSDNet and print the accuracy of each of its exits on held-out images."""
    import course_lib
    from course_lib.instance.msdnet import MSDNet
    from course_lib.train import evaluate, fit

    try:
        training, held_out, classes, channels = _train_data(data, root, size, images, seed)
        course_lib.seed_everything(seed)
        model = MSDNet.tiny(classes, in_channels=channels).to(course_lib.device())
        history = fit(
            model, training, epochs=epochs, batch_size=batch_size, lr=lr, precision=precision, seed=seed,
            checkpoint=checkpoint, checkpoint_every=checkpoint_every,
        )  # fmt: skip
        logits, labels = evaluate(model, held_out)
    except KeyboardInterrupt:
        kept = "" if checkpoint is None else f"; the same command goes on from {checkpoint}"
        typer.echo(f"interrupted{kept}", err=True)
        raise typer.Exit(130) from None
    except (ValueError, OSError, FloatingPointError) as error:
        typer.echo(f"course train: {error}", err=True)
        raise typer.Exit(2) from None
    _print_exits(model, logits, labels, size)
    typer.echo(f"{history.steps} steps in {history.seconds:.0f} s, on {next(model.parameters()).device}")


@training.command("tiny-clip")
def train_tiny_clip(
    steps: Annotated[int | None, typer.Option(help="How many, instead of all.")] = None,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="The file to write, instead of the library's own.")] = None,
) -> None:
    """Train the course's own CLIP, print its zero-shot accuracy in every domain and write its weights."""
    from course_lib.beyond import clip

    try:
        run, file = clip.train_and_save(steps=clip.STEPS if steps is None else steps, seed=seed, out=out, progress=True)
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None
    except (ValueError, OSError, FloatingPointError) as error:
        typer.echo(f"course train: {error}", err=True)
        raise typer.Exit(2) from None
    for domain, accuracy in run.zero_shot.items():
        typer.echo(f"zero-shot on {domain:<10} {accuracy:.1%}")
    typer.echo(f"{len(run.losses)} steps in {run.seconds:.0f} s; weights written to {file}")


def _train_data(data: str | None, root: Path | None, size: int, images: int, seed: int) -> tuple[Any, Any, int, int]:
    """(training, held-out, classes, channels); pixels from [0, 1] to [-1, 1]."""
    from course_lib import data as sources

    if data is None:
        if root is not None:
            raise ValueError("--root: names the folder of a data set, expected --data as well")
        # Seeds 2s and 2s + 1: no run is tested on what another is trained on.
        drawn = [sources.shapes(n, size=size, seed=2 * seed + i) for i, n in enumerate((images, 2000))]
        training, held_out = ((part.images * 2 - 1, part.labels) for part in drawn)
        return training, held_out, len(sources.SHAPE_CLASSES), 3
    parts = [sources.load(data, root=root, split=split, size=size) for split in ("train", "test")]
    return _Centred(parts[0]), _Centred(parts[1]), len(parts[0].classes), parts[0][0][0].shape[0]


class _Centred:
    """A dataset with its pixels moved from [0, 1] to [-1, 1]."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.inner[index]
        return image * 2 - 1, label


def _print_exits(model: MSDNet, logits: list[Tensor], labels: Tensor, size: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("exit", "multiply-adds", "accuracy", title=f"{len(labels)} held-out images")
    for k, (exit_logits, cost) in enumerate(zip(logits, model.exit_costs(size), strict=True), start=1):
        accuracy = (exit_logits.argmax(1) == labels).float().mean().item()
        table.add_row(str(k), f"{cost:,.0f}", f"{accuracy:.1%}")
    Console().print(table)


# --- solve-crew -------------------------------------------------------------------------------------------------

app.command("solve-crew")(crew_command.solve_crew)


# --- progress ---------------------------------------------------------------------------------------------------


@app.command()
def progress() -> None:
    """Which exercises are solved, chapter by chapter."""
    from itertools import groupby

    from rich.console import Console
    from rich.table import Table

    from course_lib import checks

    marks = {"correct": "[green]correct[/]", "not yet": "[yellow]not yet[/]", "not attempted": "[dim]not attempted[/]"}
    tasks, tables = checks.progress(), []
    for chapter, members in groupby(tasks, key=lambda task: task.chapter):
        table = Table(title=chapter, title_justify="left", title_style="bold")
        table.add_column("task", width=28, no_wrap=True)  # 28: a name is to be copied, so it is never cut
        table.add_column("level", justify="right")
        table.add_column("min", justify="right")
        table.add_column("status", width=13, no_wrap=True)
        for task in members:
            table.add_row(task.task, str(task.level), str(task.minutes), marks[task.status])
        tables.append(table)
    console = Console()
    console.print(*tables, sep="\n")
    correct = sum(task.status == "correct" for task in tasks)
    console.print(f"{correct} of {len(tasks)} correct; kept in {checks.home()}", soft_wrap=True)


if __name__ == "__main__":
    app()
