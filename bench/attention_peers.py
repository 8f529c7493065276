#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Attention of one head beside PyTorch's on one core: N = 2048, d = 32, k = 128, fp32, no dropout.

Stipple's rows are sums of what bench_sampler and bench_attention say of a problem: drawing the graph, forward, backward with
straight-through gradients. PyTorch's are forward and backward of scaled_dot_product_attention over all pairs, and of the official SBM
layer's arithmetic, which draws its mask. Run `launch/build.sh cpu` first, and nothing beside it. Prints a table in Markdown.

  python3 bench/attention_peers.py [--rounds 3] [--build build/bin]
"""
import argparse
import json
import os

import peers  # ends with exit code 4 where there is no PyTorch
import recipe_step
import torch
import torch.nn.functional as F

TOKENS, DIM, CLUSTERS = 2048, 32, 128
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
STEP = f"d:{DIM}/N:{TOKENS}/percent:"
OURS = (("25 %, tiles", "tiles/law:0", f"step/bits/{STEP}25/k:{CLUSTERS}"),
        ("30 %, tiles", "tiles/law:0", f"step/bits/{STEP}30/k:{CLUSTERS}"),
        ("2 %, rows", "rows/law:0/percent:2", f"step/csr/{STEP}2/k:{CLUSTERS}"))


def benchmark_seconds(options):
    """Of one call, by name: the fastest of the rounds."""
    seconds = {}
    for program, column in (("bench_sampler", 1), ("bench_attention", 2)):
        names = "|".join(sorted({row[column] for row in OURS}))
        report = json.loads(recipe_step.run([os.path.join(options.build, program), "--benchmark_format=json",
                                             f"--benchmark_filter=^({names})$", f"--benchmark_repetitions={options.rounds}"]))
        for result in report["benchmarks"]:
            if result["run_type"] == "iteration":
                time = result["cpu_time"] * SECONDS[result["time_unit"]]
                seconds[result["run_name"]] = min(time, seconds.get(result["run_name"], time))
    return seconds


def both_passes(module, inputs, parameters=()):
    result = module(*inputs)
    o = result[0] if isinstance(result, tuple) else result
    torch.autograd.grad(o, [*inputs, *parameters], torch.ones_like(o))


def torch_seconds(options):
    torch.set_num_threads(1)
    inputs = [torch.randn(1, 1, TOKENS, DIM).requires_grad_() for _ in range(3)]
    layer = peers.DenseSbm(1, DIM, CLUSTERS, 0.0)
    calls = {"sdpa": lambda: both_passes(F.scaled_dot_product_attention, inputs),
             "official": lambda: both_passes(layer, inputs, layer.parameters())}
    return {name: min(peers.milliseconds(call) for _ in range(options.rounds)) * 1e-3 for name, call in calls.items()}


def print_table(options):
    seconds = benchmark_seconds(options)
    peer = torch_seconds(options)
    rows = [("Stipple, " + name, seconds[sampler] + seconds[step]) for name, sampler, step in OURS]
    rows += [("SDPA, all pairs", peer["sdpa"]), ("official SBM layer", peer["official"])]
    print(f"PyTorch {torch.__version__}\n")
    print("| one head | ms | Gpair/s | times SDPA | times the official layer |")
    print("|---|---|---|---|---|")
    for name, time in rows:
        print(f"| {name} | {time * 1e3:.1f} | {TOKENS ** 2 / time * 1e-9:.3f} | {peer['sdpa'] / time:.2f} | {peer['official'] / time:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement, of which the fastest counts")
    parser.add_argument("--build", default=str(recipe_step.ROOT / "build/bin"), help="where the benchmarks are")
    options = parser.parse_args()
    options.threads = 1
    recipe_step.stay_on_cores(options)
    print_table(options)


if __name__ == "__main__":
    main()
