"""The frame holds together: what is declared, what is pinned, what is shipped, and what must not be in it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"pytorch": "torch"}
# Written in two halves, so that this file does not hold what it looks for.
REGISTRY_HOSTS = ["py" + "pi.org", "python" + "hosted.org", "npm" + "js.", "conda.anaconda" + ".org", "deb." + "debian"]


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared() -> dict[str, Requirement]:
    """Every requirement of the package and its extras by name, without the references from extra to extra."""
    extras = project()["optional-dependencies"]
    requirements = [Requirement(text) for group in [project()["dependencies"], *extras.values()] for text in group]
    return {canonicalize_name(r.name): r for r in requirements if r.name != project()["name"]}


def pinned() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


def tracked_files() -> list[Path]:
    """Files git would ship: tracked, or new and not ignored. Without git there is nothing to look at."""
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for line in listing.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_constraints_are_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.]*", line)] == []
    assert lines == sorted(lines)


def test_every_requirement_is_pinned_within_its_bounds():
    pins = pinned()
    assert [name for name in declared() if name not in pins] == []
    outside = [str(r) for name, r in declared().items() if not r.specifier.contains(pins[name])]
    assert outside == []


def test_every_requirement_has_a_lower_bound():
    unbounded = [str(r) for r in declared().values() if not any(s.operator == ">=" for s in r.specifier)]
    assert unbounded == []


def test_triton_is_asked_for_on_linux_only():
    marker = declared()["triton"].marker
    assert marker is not None
    assert marker.evaluate({"sys_platform": "linux"})
    assert not marker.evaluate({"sys_platform": "darwin"})
    assert not marker.evaluate({"sys_platform": "win32"})


def test_conda_environment_agrees_with_the_package():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (from_pip,) = [entry["pip"] for entry in entries if isinstance(entry, dict)]
    assert "-e .[lab]" in from_pip
    conda = [Requirement(entry) for entry in entries if isinstance(entry, str) and entry != "pip"]
    conda += [Requirement(entry) for entry in from_pip if not entry.startswith("-")]
    names = {CONDA_NAMES.get(r.name, r.name): r for r in conda}
    assert str(names.pop("python").specifier) == project()["requires-python"]
    assert {name: str(r.specifier) for name, r in names.items()} == {
        name: str(declared()[name].specifier) for name in names
    }


def test_version_is_the_same_everywhere():
    import course_lib

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert course_lib.__version__ == project()["version"] == str(cited["version"])


def test_import_is_light():
    code = "import sys, course_lib; print(sorted({'torch', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_no_registry_address_is_shipped():
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        found += [f"{path.relative_to(ROOT)}: {host}" for host in REGISTRY_HOSTS if host.encode() in content]
    assert found == []


def test_checkout_is_small():
    sizes = {path: path.stat().st_size for path in tracked_files()}
    assert sum(sizes.values()) < 40e6
    assert {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > 5e6} == {}


def test_wheel_holds_the_library_and_nothing_else():
    builder = pytest.importorskip("hatchling.builders.wheel", reason="the build backend is not installed here")
    files = [file.relative_path for file in builder.WheelBuilder(str(ROOT)).recurse_included_files()]
    assert "course_lib/__init__.py" in files
    assert [file for file in files if not file.startswith("course_lib/")] == []


@pytest.mark.parametrize("script", ["run", "environment", "system-packages"])
def test_scripts_are_executable_and_parse(script):
    path = ROOT / ".ci" / script
    assert path.stat().st_mode & 0o100
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_continuous_integration_runs_what_a_developer_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    commands = [step.get("run", "") for step in workflow["jobs"]["everything"]["steps"]]
    assert ".ci/run" in commands
    assert "make test" in (ROOT / ".ci/run").read_text()
