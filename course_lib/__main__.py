"""The command line: python -m course_lib data | run | table | report."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from course_lib import CourseError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 1 after one sentence that says what went wrong."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    options = _parser().parse_args(arguments)
    try:
        status = options.command(options) or 0
        sys.stdout.flush()
        return status
    except CourseError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # such as `... | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
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
    action = actions.add_parser("check", help="compare a data set on disk with what was published")
    action.add_argument("name", help="a name from 'data list', or a folder of sounds")
    action.set_defaults(command=_data_check)

    run = commands.add_parser("run", help="train and test recipes; each finished run writes a result under results/")
    run.add_argument("recipe", help="FOLDER/NAME, the path of a .yaml file, or with --all a folder of recipes")
    run.add_argument("--all", action="store_true", help="run whatever the recipes of a folder have no result of yet")
    run.add_argument("--workers", type=int, metavar="N", help="with --all: trainings at a time (default: 1 a GPU)")
    run.add_argument(
        "--cluster", metavar="ADDRESS", help="with --all: on a Ray cluster, 'auto' or HOST:PORT of its head"
    )
    run.add_argument(
        "--gpus", type=float, metavar="SHARE", help="with --cluster: of a GPU for each training (default: 1)"
    )
    run.add_argument("--only", nargs="+", metavar="RECIPE", help="with --all: these recipes of the folder")
    run.add_argument("--seed", type=int, help="default: 0")
    run.add_argument("--protocol", help="one of the recipe's protocols (default: all of them)")
    run.add_argument("--fold", help="one fold of the protocol, such as the name of a group (default: all)")
    run.add_argument("--keep-model", action="store_true", help="keep the trained weights beside the result")
    run.set_defaults(command=_run)

    table = commands.add_parser("table", help="the results of a folder of recipes")
    table.add_argument("folder", help="a folder of recipes, of the course or your own")
    table.add_argument("--json", action="store_true", help="a JSON list instead of Markdown")
    table.add_argument("--stand-in", action="store_true", help="results on stand-in data instead of real data")
    table.add_argument("--update", type=Path, metavar="FILE", help="write the table between the markers of FILE")
    table.set_defaults(command=_table)

    report = commands.add_parser("report", help="what is in a folder of your own recordings, and what is wrong with it")
    report.add_argument("folder", type=Path, help="a folder that holds a folder of sounds for each class")
    report.add_argument("--output", type=Path, metavar="FILE", help="the page (default: NAME_report.html, here)")
    report.add_argument("--minutes", type=_minutes, default=5.0, metavar="N", help="of training, at most (default: 5)")
    report.add_argument("--no-score", action="store_true", help="train nothing")
    report.set_defaults(command=_report)
    return parser


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes <= 1440:
        raise argparse.ArgumentTypeError(f"{text} minutes; give a number above 0, and no more than a day")
    return minutes


def _data_list(options: argparse.Namespace) -> None:
    from course_lib.datasets import catalogue

    for dataset in catalogue.known().values():
        recordings = sum(dataset.class_counts.values())
        size = [f"{recordings:,} recordings"] * (recordings > 0)
        size += [f"{dataset.megabytes:,} MB"] * (dataset.megabytes > 0)
        where = f"in {dataset.folder}" if dataset.folder.is_dir() else "not on this disk"
        print(f"{dataset.name:16} {', '.join([dataset.title, *size, dataset.licence or 'no licence stated'])}; {where}")


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
    from course_lib import datasets
    from course_lib.datasets.check import check, counts

    dataset = datasets.get(options.name)
    problems = check(dataset, show=lambda recordings: print(counts(recordings).to_string()))
    print("\n".join(problems) if problems else f"{options.name}: everything is there and as it should be")
    return 1 if problems else 0


def _run(options: argparse.Namespace) -> int:
    from course_lib import datasets, experiments

    if options.all:
        return _run_all(options)
    if options.workers is not None or options.only or options.cluster is not None or options.gpus is not None:
        raise CourseError("--workers, --only, --cluster and --gpus go with --all")
    recipe = experiments.load(options.recipe)
    seed = 0 if options.seed is None else options.seed
    for protocol in [options.protocol] if options.protocol else recipe.protocols:
        recipe.require(protocol, seed)
        stated = datasets.get(recipe.dataset).protocol(protocol)
        print(f"{protocol}: {stated.statement}")
        for result in experiments.run(recipe, seed, protocol, options.fold, options.keep_model):
            where = f"{result.recipe} {result.protocol} {result.fold} seed {result.seed}"
            print(f"{where}: {result.headline} of {result.test} ({result.source} data)")
    return 0


def _run_all(options: argparse.Namespace) -> int:
    import torch

    from course_lib.experiments import cluster, workers

    given = {"--seed": options.seed, "--protocol": options.protocol, "--fold": options.fold}
    given = [name for name, value in given.items() if value is not None] + ["--keep-model"] * options.keep_model
    if given:
        raise CourseError(f"--all runs whatever is missing; {', '.join(given)} goes with one recipe")
    if options.cluster is not None:
        if options.workers is not None:
            raise CourseError(
                "--workers are those of this machine; a cluster runs as many trainings as it has room for"
            )
        problems, busy = cluster.run_on_cluster(options.recipe, options.cluster, options.gpus, options.only)
    elif options.gpus is not None:
        raise CourseError("--gpus goes with --cluster")
    else:
        processes = max(1, torch.cuda.device_count()) if options.workers is None else options.workers
        problems, busy = workers.run_in_processes(options.recipe, processes, options.only)
    others = f", but for what another process is at work on: {busy}" if busy else ""
    print("\n".join(problems) if problems else f"{options.recipe}: nothing is missing now{others}", file=sys.stderr)
    return 1 if problems else 0


def _table(options: argparse.Namespace) -> int:
    from course_lib import experiments
    from course_lib.experiments import tables

    source = "stand-in" if options.stand_in else "real"
    rows = tables.table(options.folder, source)
    damaged = [
        path
        for name in experiments.names(options.folder)
        for path in experiments.damaged(experiments.load(name), source)
    ]
    if options.update and not damaged:
        tables.update(options.update, options.folder, rows)
    elif options.json:
        print(json.dumps(json.loads(rows.to_json(orient="records")), indent=1))
    elif not options.update:
        print(tables.markdown(rows))
    return 1 if damaged else 0


def _report(options: argparse.Namespace) -> int:
    from course_lib.report import report

    try:
        path, results = report(options.folder, options.output, options.minutes, not options.no_score, say=print)
    except CourseError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; no report is written", file=sys.stderr)
        return 130
    for finding in results.findings:
        print(f"{finding.grade}: {finding.title}")
    print(f"The report is in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
