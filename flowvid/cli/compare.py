"""flowvid compare: measure the models of a folder, draw and print the comparison."""

__all__ = ["add"]

import argparse

from flowvid.cli.common import Subparsers, add_common, finish, integers, positive


def add(commands: Subparsers) -> None:
    """The command."""
    parser = commands.add_parser("compare", help="measure the models of a folder, and draw and print the comparison")
    add_common(parser)
    parser.add_argument("--seeds", type=integers, default=(0,), help="seeds to compare, such as 0,1,2; default: 0")
    parser.add_argument("--clips", type=positive, default=128, help="held-out clips; default: %(default)s")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from flowvid.compare.study import Study
    from flowvid.train.run import load_model

    first = options.out / "models" / f"multiscale-seed{options.seeds[0]}.safetensors"
    study = Study(run=load_model(first, device=options.device).run, seeds=options.seeds, test_clips=options.clips)
    finish(study, options)
