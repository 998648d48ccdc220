"""Packages whose modules are imported when first used, and nothing that only looks like one."""

import subprocess
import sys

import pytest

import course_lib


def test_one_import_reaches_everything():
    """In a process of its own, where nothing else has imported the modules before."""
    paths = ["data.shapes", "measure.latency", "instance.msdnet.MSDNet", "checks.instance.msdnet.TASKS"]
    command = "import course_lib; " + "; ".join(f"course_lib.{path}" for path in paths)
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'course_lib' has no attribute 'nothing'"):
        _ = course_lib.nothing
    assert not hasattr(course_lib.instance, "lasagne")


def test_a_missing_dependency_is_not_hidden(tmp_path, monkeypatch):
    package = tmp_path / "lazy_example"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from course_lib._lazy import attach\n__getattr__, __dir__ = attach(__name__, __path__)\n"
    )
    (package / "part.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    import lazy_example

    assert dir(lazy_example) == ["part"]
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        _ = lazy_example.part


def test_device_follows_the_variable(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "meta")
    assert str(course_lib.device()) == "meta"
    monkeypatch.setenv("COURSE_DEVICE", "toaster")
    with pytest.raises(ValueError, match="COURSE_DEVICE: got 'toaster'"):
        course_lib.device()


def test_one_seed_for_all():
    import random

    import numpy
    import torch

    def draw():
        generator = course_lib.seed_everything(7)
        numbers = random.random(), numpy.random.rand()  # noqa: NPY002 - the global state is what is asked about
        return *numbers, torch.rand(1).item(), torch.rand(1, generator=generator).item()

    assert draw() == draw()
