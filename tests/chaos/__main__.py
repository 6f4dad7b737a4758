"""Hundreds of streams on real processes, under faults at random: what gets lost?

Exit code 1 unless nothing is: no token lost or repeated, no stream unfinished or unlike the
undisturbed run, every row there once, nothing left behind in Redis.
"""

import argparse
import asyncio
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.chaos import document, reference
from tests.chaos.leg import LegResult, LegRun
from tests.chaos.prompts import Request, requests
from tests.chaos.record import Record
from tests.chaos.report import report, silences, total
from tests.chaos.schedule import Leg, outages, plan
from tests.chaos.start import folder_of_its_own
from tests.chaos.target import Target, running_target
from tests.chaos.verdict import Answer

_SETTLE_SECONDS: Final = 20.0
"""What ending the last streams and settling take of a leg's time."""
_PROBLEMS_SHOWN: Final = 40
_OUTAGE_STREAMS: Final = 16

console = Console(highlight=False, soft_wrap=True)
_started = time.monotonic()


def main() -> None:
    arguments = _arguments()
    folder = folder_of_its_own("chaos")
    say(f"everything that runs lies in {folder}")
    results = asyncio.run(_run(_legs(arguments), arguments, folder))
    counts = total(results)
    text = report(results, document.provenance(_command()))
    console.print(f"\n{text}\n", markup=False)
    if arguments.write:
        document.write("outages" if arguments.outages else "chaos", text)
    for line in [*silences(results), *counts.problems[:_PROBLEMS_SHOWN]]:
        console.print(line, markup=False)
    whole = all(result.records and result.strikes for result in results)
    if not (counts.clean and whole):
        console.print(f"FAILED: {len(counts.problems)} problems. Logs and data are in {folder}.")
        sys.exit(1)
    shutil.rmtree(folder)
    console.print("Nothing was lost.")


def say(line: str) -> None:
    minutes, seconds = divmod(int(time.monotonic() - _started), 60)
    console.print(f"{minutes:02}:{seconds:02} {line}", markup=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of requests and faults")
    parser.add_argument("--at-once", type=int, default=20, help="clients at a time")
    parser.add_argument(
        "--seconds", type=float, help="end by then, with fewer streams and faults if need be"
    )
    parser.add_argument(
        "--outages",
        type=float,
        metavar="SECONDS",
        help="instead of many faults: each that can be so long, in the middle of 16 streams",
    )
    parser.add_argument("--write", action="store_true", help="put it into docs/reliability.md")
    return parser.parse_args()


def _legs(arguments: argparse.Namespace) -> list[Leg]:
    seed = arguments.seed
    if arguments.outages:
        return outages(streams=_OUTAGE_STREAMS, seconds=arguments.outages, seed=seed)
    return plan(streams=arguments.streams, faults=arguments.faults, seed=seed)


async def _run(legs: Sequence[Leg], arguments: argparse.Namespace, folder: Path) -> list[LegResult]:
    asked = requests(legs[-1].streams.stop, arguments.seed)
    undisturbed = reference.load(asked)
    results = []
    for number, leg in enumerate(legs, start=1):
        say(f"{leg.title}: {len(leg.streams)} streams, {len(leg.faults)} faults")
        async with running_target(folder / str(number), leg.phase) as target:
            earlier: list[Record] = []
            if not undisturbed:
                earlier, undisturbed = await _undisturbed(target, asked)
            until = _deadline(arguments.seconds, len(legs) - number)
            run = LegRun(target, leg, at_once=arguments.at_once, until=until, say=say)
            chosen = [asked[stream] for stream in leg.streams]
            results.append(await run.run(chosen, undisturbed, earlier))
    return results


async def _undisturbed(
    target: Target, asked: Sequence[Request]
) -> tuple[list[Record], dict[int, Answer]]:
    say(f"the same {len(asked)} streams undisturbed, to compare with")
    records = await reference.record(target, asked)
    answers = reference.answers(records)
    reference.save(asked, answers)
    return records, answers


def _deadline(seconds: float | None, legs_left: int) -> float:
    """When this leg's faults end: the time that is left, shared with the legs to come."""
    if seconds is None:
        return float("inf")
    now = time.monotonic()
    return now + max(0.0, _started + seconds - now) / (legs_left + 1) - _SETTLE_SECONDS


def _command() -> str:
    return shlex.join(["python", "-m", "tests.chaos", *sys.argv[1:]])


if __name__ == "__main__":
    main()
