#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How a step's time is made of its kernels' benchmarks: predicted and measured steps of the ListOps recipes, side by side.

A step is what the same recipe takes without attention (attention.kind=none: projections, feed-forward halves, norms, head, optimizer,
data) and, for each layer, head and example, what the benchmarks say about one problem. Run `launch/build.sh cpu` first, and nothing
beside it. Prints a table in Markdown.

  python3 bench/step_account.py [--batch 4] [--micro-batch 4] [--steps 3] [--threads 1] [--stipple build/bin/stipple]

Examples are nearly as long as the benchmarks' problems (2,048 tokens), so that costs by pairs and by tokens scale to them; with several
threads a kernel's problems are taken to share the cores without loss.
"""
import argparse
import json
import os
import sys
import tempfile

import recipe_step

LAYERS, HEADS = 2, 2  # configs/size/lra_listops.yaml
BENCHMARK_TOKENS = 2048

# Of one problem: the name of a benchmark, how often it is called, and what its time grows with.
SOFTMAX = (("bench_attention", "step/dense/d:32/N:2048/dropout", 1, "pairs"),)
SBM = (("bench_attention", "step/bits/d:32/N:2048/percent:26/k:128/dropout", 1, "pairs"),
       ("bench_sampler", "tiles/law:0", 1, "pairs"),
       ("bench_sampler", "products_of_a_head", 1, "tokens"),
       ("bench_sampler", "memberships_of_a_head", 2, "tokens"),
       ("bench_sampler", "expected_edges_of_a_head", 1, "tokens"))
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def benchmark_seconds(options):
    """Of one call, by name."""
    seconds = {}
    for program in ("bench_attention", "bench_sampler"):
        names = [name for of, name, *_ in SOFTMAX + SBM if of == program]
        path = os.path.join(os.path.dirname(os.path.abspath(options.stipple)), program)
        report = json.loads(recipe_step.run([path, "--benchmark_format=json", f"--benchmark_filter=^({'|'.join(names)})$"]))
        for result in report["benchmarks"]:
            seconds[result["name"]] = result["real_time"] * SECONDS[result["time_unit"]]
        lacking = [name for name in names if name not in seconds]
        if lacking:
            sys.exit(f"{path} has no {', '.join(lacking)}")
    return seconds


def predicted(calls, seconds, tokens, options):
    """Of one step's attention, by benchmark."""
    share = {"pairs": sum((n / BENCHMARK_TOKENS) ** 2 for n in tokens), "tokens": sum(n / BENCHMARK_TOKENS for n in tokens)}
    problems = LAYERS * HEADS * options.batch / len(tokens) / options.threads
    return {name: seconds[name] * count * problems * share[by] for _, name, count, by in calls}


def print_table(folder, options):
    seconds = benchmark_seconds(options)
    rest = recipe_step.Step("lra_listops_softmax", ["attention.kind=none"], folder, options).step
    lengths = recipe_step.lengths_of(folder)
    padded = [recipe_step.MAX_LENGTH] * len(lengths)
    print(f"Batch {options.batch} in micro-batches of {options.micro_batch}, {options.threads} threads, examples of "
          f"{sum(lengths) / len(lengths):.0f} tokens; seconds a step.\n")
    print("| model | without attention | + benchmarks of problems | = predicted | measured | measured / predicted |")
    print("|---|---|---|---|---|---|")
    for recipe, overrides, calls, tokens in (("lra_listops_sbm", [], SBM, padded),
                                             ("lra_listops_sbm", ["attention.sbm.compat=none"], SBM, lengths),
                                             ("lra_listops_softmax", [], SOFTMAX, lengths)):
        parts = predicted(calls, seconds, tokens, options)
        total = rest + sum(parts.values())
        step = recipe_step.Step(recipe, overrides, folder, options).step
        listed = ", ".join(f"{value:.3f} {name}" for name, value in parts.items())
        print(f"| {' '.join([recipe, *overrides])} | {rest:.3f} | {listed} | {total:.3f} | {step:.3f} | {step / total:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipe_step.add_options(parser)
    options = parser.parse_args()
    recipe_step.stay_on_cores(options)
    with tempfile.TemporaryDirectory() as folder:
        recipe_step.make_data(folder, options, "--min-length", "1950", "--max-length", "2000")
        print_table(folder, options)


if __name__ == "__main__":
    main()
