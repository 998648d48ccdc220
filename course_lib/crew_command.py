"""The command `course solve-crew`: from a timetable in a file to a crew plan in a file.

What it needs is imported when it runs, as with every command.
"""

from __future__ import annotations

import os
import signal
import stat
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from course_lib.beyond.cg_p import CrewPlan, CrewRules, Predictor, Step, Timetable

#: Endings of pictures that can be written.
PICTURES = (".png", ".svg", ".pdf")


class Mode(StrEnum):
    """How thoroughly to search."""

    exact = "exact"
    optimal = "optimal"
    fast = "fast"


class Scorer(StrEnum):
    """Who says which connections are worth looking at."""

    network = "network"
    short_gaps = "short-gaps"
    chance = "chance"


def solve_crew(
    path: Annotated[
        Path, typer.Argument(help="A GTFS folder or zip file, or a crew scheduling file of the OR-Library.")
    ],
    date: Annotated[
        str | None, typer.Option(help="The service day, such as 2026-03-02; GTFS.", metavar="YYYY-MM-DD")
    ] = None,
    mode: Annotated[
        Mode, typer.Option(help="exact: column generation alone. optimal: the same result by way of a pruned graph. "
                                "fast: the pruned graph alone.")
    ] = Mode.exact,
    out: Annotated[Path | None, typer.Option(help="The plan as CSV, one row for each trip of each duty.")] = None,
    chart: Annotated[Path | None, typer.Option(help="The duties as a picture: .png, .svg or .pdf.")] = None,
    crews: Annotated[int | None, typer.Option(help="Exactly so many duties; OR-Library, and needed there.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds; then the best plan found.")] = None,
    route_types: Annotated[
        str | None, typer.Option(help="As in the feed's routes.txt, such as 2,106; 2, rail, if not given; GTFS.")
    ] = None,
    depot: Annotated[
        list[str] | None, typer.Option(help="Name or stop id of a station where duties begin; again for more; GTFS.")
    ] = None,
    depots: Annotated[
        int | None, typer.Option(help="How many depots to choose, instead of where trains stand overnight; GTFS.")
    ] = None,
    deadhead: Annotated[
        str | None, typer.Option(help="Minutes a kilometre of rides without driving, 1 if not given; none for no such "
                                      "rides; GTFS.", metavar="MINUTES|none")
    ] = None,
    relief: Annotated[
        list[str] | None, typer.Option(help="Station where crews may change on a passing train; again for more; GTFS.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="TOML file of rules that differ from the default ones: max_duty = 600; GTFS.")
    ] = None,
    predictor: Annotated[
        Scorer | None, typer.Option(help="Who prunes the graph in modes optimal and fast; GTFS.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the solvers' own randomness.")] = 0,
) -> None:  # fmt: skip
    """Find duties that cover every trip of a timetable, print what they cost and what is proven, and write them.

    Exit codes: 0, there is a plan; 1, there is none; 2, wrong arguments or files; 130, interrupted by Ctrl-C (the best
    plan found by then is written).
    """
    options = {
        "--date": date, "--route-types": route_types, "--depot": depot, "--depots": depots, "--deadhead": deadhead,
        "--relief": relief, "--rules": rules, "--predictor": predictor,
    }  # fmt: skip
    interrupted: list[int] = []
    try:
        with _noticed(interrupted):
            _check_targets(out, chart)
            _check_search(mode, time_limit, predictor)
            timetable = _read(path, crews, {name: value for name, value in options.items() if value not in (None, [])})
            plan = _search(
                timetable, None if rules is None else read_rules(rules), chart=chart is not None, scorer=predictor,
                mode=mode.value, crews=crews, time_limit=time_limit, seed=seed,
            )  # fmt: skip
            # A solver of linear programs may take the signal for itself.
            by_hand = bool(interrupted) or (plan.status == "interrupted" and time_limit is None)
            raise typer.Exit(_report(plan, out, chart, interrupted=by_hand))
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None
    except SystemError:  # what compiled code makes of an interrupt
        if not interrupted:
            raise
        typer.echo("interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        typer.echo(f"course solve-crew: {_line(error)}", err=True)
        raise typer.Exit(2) from None


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(error).split()))
    if isinstance(error, ImportError) and "pip install" not in text:
        text += "; pip install 'course_lib[solver]'"
    return text


# Input ---------------------------------------------------------------------------------------------------------------


def _check_targets(out: Path | None, chart: Path | None) -> None:
    """Before anything takes long."""
    for option, target in (("--out", out), ("--chart", chart)):
        if target is None:
            continue
        if target.is_dir():
            raise ValueError(f"{option}: got the folder {target}, expected a file in it")
        if target.exists() and not stat.S_ISREG(os.lstat(target).st_mode):  # a new file would take the place of it
            raise ValueError(f"{option}: got {target}, a device or a link, expected an ordinary file")
        if not target.absolute().parent.is_dir():
            raise ValueError(f"{option}: got {target}, but there is no folder {target.parent}")
    if chart is not None and chart.suffix.lower() not in PICTURES:
        raise ValueError(f"--chart: got {chart}, expected a name that ends in {', '.join(PICTURES)}")
    if out is not None and chart is not None and out.absolute() == chart.absolute():
        raise ValueError(f"--chart: got {chart}, the file of --out, expected another one")


def read_rules(path: Path) -> CrewRules:
    """The default rules, with those changed that a TOML file names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no TOML, a rule that there is not, or rules that contradict themselves. TypeError: no whole minutes.
    """
    import difflib
    from dataclasses import fields

    from course_lib.beyond.cg_p import CrewRules

    try:
        given: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--rules: {path}: {error}") from error
    known = [field.name for field in fields(CrewRules) if field.name != "explicit"]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
            raise ValueError(f"--rules: {path}: got the rule {name}, which there is not{hint}")
    try:
        if isinstance(window := given.get("meal_window"), list):
            given["meal_window"] = tuple(window)
        return CrewRules(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--rules: {path}: {error}") from error


def _check_search(mode: Mode, time_limit: float | None, scorer: Scorer | None) -> None:
    if scorer is not None and mode is Mode.exact:
        raise ValueError(f"--predictor: got {scorer.value}, but mode exact prunes nothing; expected optimal or fast")
    if time_limit is not None and not time_limit >= 0:
        raise ValueError(f"--time-limit: got {time_limit:g}, expected seconds from 0 up")


def _read(path: Path, crews: int | None, options: Mapping[str, Any]) -> Timetable:
    """The timetable, of either form; `options` as they were given."""
    from course_lib.beyond.cg_p import Timetable

    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if not (path.is_dir() or path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)):
        if options:
            raise ValueError(f"{next(iter(options))}: belongs to GTFS, and {path} is neither a folder nor a zip file")
        timetable = Timetable.from_orlib_csp(path)
        if crews is None:
            raise ValueError(f"--crews: got nothing, expected how many for the {len(timetable)} tasks of {path}")
        return timetable
    if crews is not None:
        raise ValueError(f"--crews: got {crews} for {path}, but only the OR-Library form fixes the number of duties")
    if "--date" not in options:
        raise ValueError(f"--date: got nothing, expected the service day for {path}, such as 2026-03-02")
    if "--depot" in options and "--depots" in options:
        raise ValueError("--depots: got how many and --depot as well, expected one of the two")
    if options.get("--depots", 1) < 1:
        raise ValueError(f"--depots: got {options['--depots']}, expected 1 or more")
    return Timetable.from_gtfs(
        path,
        date=options["--date"],
        route_types=_numbers(options.get("--route-types", "2")),
        depots=options.get("--depot", options.get("--depots")),
        deadhead=_pace(options.get("--deadhead", "1")),
        relief=options.get("--relief", ()),
    )


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--route-types: got {text!r}, expected numbers with commas between, such as 2,106") from None


def _pace(text: str) -> Any:
    """What `Timetable.from_gtfs` takes as `deadhead`."""
    if text == "none":
        return "none"
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--deadhead: got {text!r}, expected minutes a kilometre or none") from None


# Search --------------------------------------------------------------------------------------------------------------


@contextmanager
def _noticed(interrupted: list[int]) -> Iterator[None]:
    """Note that Ctrl-C was pressed: the solver answers it with its best plan, as it answers its time limit."""

    def note(number: int, frame: Any) -> None:
        interrupted.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _search(
    timetable: Timetable, rules: CrewRules | None, *, chart: bool, scorer: Scorer | None, **options: Any
) -> CrewPlan:
    """Solve, and say on standard error how far it is."""
    from rich.console import Console

    from course_lib.beyond.cg_p import solve

    with Console(stderr=True, highlight=False).status(repr(timetable)) as status:
        if chart:
            import course_lib.plots  # noqa: F401  # takes seconds: now, not between the search and the writing
        predictor = None if scorer is None else _predictor(scorer, options["seed"])
        return solve(
            timetable, rules, predictor=predictor, progress=lambda step: status.update(describe(step)), **options
        )


def _predictor(scorer: Scorer, seed: int) -> Predictor:
    from course_lib.beyond.cg_p import Chance, ShortGaps

    if scorer is Scorer.network:
        from course_lib.beyond.cg_p.predictor import load_predictor

        return load_predictor()
    return ShortGaps() if scorer is Scorer.short_gaps else Chance(seed)


def describe(step: Step) -> str:
    """One round of the search on a line."""
    proven = f", proven {step.lower_bound:,.0f}" if step.lower_bound > -1e300 else ""
    return f"{step.seconds:.0f} s, {step.phase}: cost {step.value:,.0f}{proven}, {step.columns:,} duties in hand"


# Output --------------------------------------------------------------------------------------------------------------


def _report(plan: CrewPlan, out: Path | None, chart: Path | None, *, interrupted: bool) -> int:
    """Print the summary, write the files; the exit code."""
    from course_lib.beyond.cg_p import check_plan

    typer.echo(plan.summary())
    if faults := check_plan(plan, plan.timetable, plan.rules):
        typer.echo("\n".join(["course solve-crew: the plan breaks rules; nothing was written", *faults[:10]]), err=True)
        return 1
    if interrupted:
        typer.echo("interrupted; this is the best plan found", err=True)
    written = [target for target in (out, chart) if target is not None]
    if not plan.duties:
        what = "there is no plan" if plan.status == "infeasible" else "no plan was found in time"
        typer.echo(what + "; nothing was written" * bool(written), err=True)
        return 130 if interrupted else 1
    if out is not None:
        _replace(out, plan.to_csv)
        typer.echo(f"plan written to {out}")
    if chart is not None:
        figure = _chart(plan)
        _replace(chart, lambda file: figure.savefig(file, format=chart.suffix[1:].lower()))
        typer.echo(f"chart written to {chart}")
    return 130 if interrupted else 0


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write(file)` fill a new file that takes the place of `path` in one step.

    As `checkpoint.write_atomically` does, without the torch that comes with it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _chart(plan: CrewPlan) -> Figure:
    import matplotlib as mpl

    from course_lib import plots

    mpl.use("Agg")
    plots.use_style()
    return plots.plot_gantt(plan)
