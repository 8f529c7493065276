#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What step_peers.py and step_account.py share: a short training of a ListOps recipe and how long its steps took."""
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_LENGTH = 2048  # data.max_length of the recipes
WARM_UP = 1  # steps that do not count


def add_options(parser):
    parser.add_argument("--batch", type=int, default=4, help="examples a step; the recipes have 128")
    parser.add_argument("--micro-batch", type=int, default=4, help="examples in memory at once, a divisor of --batch")
    parser.add_argument("--steps", type=int, default=3, help="of each model, besides the first")
    parser.add_argument("--threads", type=int, default=1, help="on as many cores")
    parser.add_argument("--stipple", default=str(ROOT / "build/bin/stipple"), help="the program")


def stay_on_cores(options):
    """Also what is started from here."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:options.threads])


def run(command):
    """What it prints."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}; build it: launch/build.sh cpu")
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout


def make_data(folder, options, *arguments):
    examples = options.batch * (options.steps + WARM_UP)
    run([options.stipple, "data", "listops", "--out", folder, "--train", str(examples), "--val", "1", "--test", "1", *arguments])


def lengths_of(folder):
    """Tokens of each training example: brackets that only group are none."""
    lines = pathlib.Path(folder, "basic_train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [sum(token not in "()" for token in line.split("\t")[0].split()) for line in lines]


class Step:
    """Medians over the steps of a short run, in seconds; `density` is None where there is no graph."""

    def __init__(self, recipe, overrides, folder, options):
        run_dir = os.path.join(folder, "-".join(["run", recipe, *overrides]).replace("=", "-"))
        run([options.stipple, "train", str(ROOT / f"configs/recipe/{recipe}.yaml"), f"run.dir={run_dir}", f"data.dir={folder}",
             f"threads={options.threads}", f"train.steps={options.steps + WARM_UP}", f"train.batch={options.batch}",
             f"train.micro_batch={options.micro_batch}", "optimizer.schedule.warmup_steps=1", "log.every=1", "eval.every=0",
             "eval.seeds=1", "checkpoint.every=0", *overrides])
        with open(os.path.join(run_dir, "metrics.jsonl"), encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        records = [r for r in records if r["kind"] == "train"][WARM_UP:]
        for key in ("step", "forward", "sampling", "backward"):
            setattr(self, key, statistics.median(r[key + "_s"] or 0.0 for r in records))
        self.density = statistics.median(r["density"] for r in records) if "density" in records[0] else None
