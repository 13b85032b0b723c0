"""The command line: python -m course_lib data | run | table | benchmark | notebooks."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from course_lib import CourseError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 1 after one sentence that says what went wrong."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except CourseError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on where this one was", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m course_lib", description="Data, experiments and tables.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="list, fetch or check data sets")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("list", help="the data sets the course knows, and which are on this disk")
    action.set_defaults(command=_data_list)
    action = actions.add_parser("fetch", help="download a data set into COURSE_DATA")
    action.add_argument("name", help="a name from 'data list'")
    action.add_argument("--or-stand-in", action="store_true", help="make the synthetic stand-in if that fails")
    action.set_defaults(command=_data_fetch)
    action = actions.add_parser("check", help="compare a data set on disk with the catalogue")
    action.add_argument("name", help="a name from 'data list'")
    action.set_defaults(command=_data_check)

    run = commands.add_parser("run", help="train and test recipes, keeping the results under results/")
    run.add_argument("recipe", help="such as fsdd/spectrogram_cnn, the path of a .yaml file, or with --all a data set")
    run.add_argument("--all", action="store_true", help="run whatever the recipes of a data set have no result of yet")
    run.add_argument("--workers", type=int, metavar="N", help="with --all: trainings at a time (default: 1 a GPU)")
    run.add_argument("--only", nargs="+", metavar="RECIPE", help="with --all: these recipes of the data set")
    run.add_argument("--seed", type=int, help="default: 0")
    run.add_argument("--protocol", help="one of the recipe's protocols (default: all of them)")
    run.add_argument("--fold", help="one fold of the protocol, such as a speaker's name (default: all)")
    run.add_argument("--keep-model", action="store_true", help="keep the trained weights beside the result")
    run.set_defaults(command=_run)

    table = commands.add_parser("table", help="the results of a data set's recipes")
    table.add_argument("dataset", help="such as fsdd")
    table.add_argument("--json", action="store_true", help="a JSON list instead of Markdown")
    table.add_argument("--stand-in", action="store_true", help="results on stand-in data instead of real data")
    table.add_argument("--update", type=Path, metavar="FILE", help="write the table between the markers of FILE")
    table.set_defaults(command=_table)

    benchmark = commands.add_parser("benchmark", help="measure speed and memory, keeping the result under results/")
    benchmark.add_argument("name", choices=["augmentation", "gammatone"], help="what to measure")
    benchmark.add_argument("--quick", action="store_true", help="toy sizes, to see that it works; nothing is kept")
    benchmark.set_defaults(command=_benchmark)

    notebooks = commands.add_parser("notebooks", help="execute the lessons")
    notebooks.add_argument("lesson", nargs="*", help="such as 01 (default: all)")
    form = notebooks.add_mutually_exclusive_group(required=True)
    form.add_argument("--html", type=Path, metavar="FOLDER", help="write readable pages to FOLDER")
    form.add_argument("--publish", action="store_true", help="store them executed, in the form that is committed")
    notebooks.set_defaults(command=_notebooks)
    return parser


def _data_list(options: argparse.Namespace) -> None:
    from course_lib import datasets, environment

    for entry in datasets.ENTRIES.values():
        place = environment.data_folder() / entry.name
        where = f"in {place}" if place.is_dir() else "not on this disk"
        size = f"{entry.recordings} recordings, {entry.megabytes} MB"
        print(f"{entry.name:16} {entry.title}, {size}, {entry.licence}; {where}")


def _data_fetch(options: argparse.Namespace) -> None:
    from course_lib import datasets

    if not options.or_stand_in:
        print(f"{options.name} is in {datasets.fetch(options.name)}")
        print(f"Whether it is complete and as published: python -m course_lib data check {options.name}")
        return
    recordings = datasets.load(options.name)
    print(f"{options.name}: {len(recordings)} recordings, {recordings.source} data")
    if recordings.source != "real":
        print(f"For the real recordings, once there is a network: python -m course_lib data fetch {options.name}")


def _data_check(options: argparse.Namespace) -> int:
    from course_lib.datasets.check import check

    problems = check(options.name)
    print("\n".join(problems) if problems else f"{options.name}: everything is there and as published")
    return 1 if problems else 0


def _run(options: argparse.Namespace) -> int:
    from course_lib import experiments, recipes

    if options.all:
        return _run_all(options)
    if options.workers is not None or options.only:
        raise CourseError("--workers and --only go with --all")
    recipe = recipes.load(options.recipe)
    for protocol in [options.protocol] if options.protocol else recipe.protocols:
        for result in experiments.run(recipe, options.seed or 0, protocol, options.fold, options.keep_model):
            place = f"{result.recipe} {result.protocol} {result.fold} seed {result.seed}"
            print(f"{place}: {result.headline} of {result.test} ({result.source} data)")
    return 0


def _run_all(options: argparse.Namespace) -> int:
    import torch

    from course_lib import parallel

    given = {"--seed": options.seed, "--protocol": options.protocol, "--fold": options.fold}
    given = [name for name, value in given.items() if value is not None] + ["--keep-model"] * options.keep_model
    if given:
        raise CourseError(f"--all runs whatever is missing; {', '.join(given)} goes with one recipe")
    workers = max(1, torch.cuda.device_count()) if options.workers is None else options.workers
    problems, left = parallel.run_missing(options.recipe, workers, options.only)
    others = f", but for what another process is at work on: {left}" if left else ""
    print("\n".join(problems) if problems else f"{options.recipe}: nothing is missing now{others}", file=sys.stderr)
    return 1 if problems else 0


def _table(options: argparse.Namespace) -> int:
    from course_lib import experiments, recipes, tables

    source = "stand-in" if options.stand_in else "real"
    rows = tables.table(options.dataset, source)
    damaged = [
        path for name in recipes.names(options.dataset) for path in experiments.damaged(recipes.load(name), source)
    ]
    if options.update and not damaged:
        tables.update(options.update, options.dataset, rows)
    elif options.json:
        print(json.dumps(rows, indent=1))
    elif not options.update:
        print(tables.markdown(rows))
    return 1 if damaged else 0


def _benchmark(options: argparse.Namespace) -> None:
    from tools.benchmarks import augmentation, gammatone

    {"augmentation": augmentation, "gammatone": gammatone}[options.name].run(options.quick)


def _notebooks(options: argparse.Namespace) -> None:
    from course_lib import publish

    paths = [path for path in publish.lessons() if not options.lesson or path.name.startswith(tuple(options.lesson))]
    if options.html:
        publish.write_html(paths, options.html)
    else:
        publish.publish(paths)


if __name__ == "__main__":
    sys.exit(main())
