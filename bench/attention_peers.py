#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Attention of one head beside PyTorch's on one core, fp32, no dropout: SBM with N = 2048, d = 32, k = 128, or Combiner and softmax with
d = 64 and several N.

Stipple's rows are sums of what bench_sampler and bench_attention say of a problem: drawing the graph, forward, backward with
straight-through gradients. PyTorch's are forward and backward of scaled_dot_product_attention over all pairs, and of the official SBM
layer's arithmetic, which draws its mask. With --combiner they are steps of bench_combiner and scaled_dot_product_attention. Run `launch/build.sh cpu` first, and nothing beside it. Prints a table in Markdown.

  python3 bench/attention_peers.py [--combiner [--lengths 1024 ...]] [--rounds 3] [--build build/bin]
"""
import argparse
import json
import os
import time

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


COMBINER_DIM = 64
COMBINER = ("exact", "fixed_64", "fixed_root", "logsparse", "axial", "fixed_64_causal")


def benchmark_seconds(options, names_by_program):
    """Of one call, by name: the fastest of the rounds."""
    seconds = {}
    for program, names in names_by_program.items():
        report = json.loads(recipe_step.run([os.path.join(options.build, program), "--benchmark_format=json", "--benchmark_min_time=0.05",
                                             f"--benchmark_filter=^({'|'.join(sorted(names))})$", f"--benchmark_repetitions={options.rounds}"]))
        for result in report["benchmarks"]:
            if result["run_type"] == "iteration":
                took = result["cpu_time"] * SECONDS[result["time_unit"]]
                seconds[result["run_name"]] = min(took, seconds.get(result["run_name"], took))
    return seconds


def both_passes(module, inputs, parameters=()):
    result = module(*inputs)
    o = result[0] if isinstance(result, tuple) else result
    torch.autograd.grad(o, [*inputs, *parameters], torch.ones_like(o))


def fastest(call, options):
    """After one call that does not count."""
    call()
    seconds = []
    for _ in range(options.rounds):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def sdpa(tokens, dim, causal=False):
    inputs = [torch.randn(1, 1, tokens, dim).requires_grad_() for _ in range(3)]
    return lambda: both_passes(lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=causal), inputs)


def official():
    inputs = [torch.randn(1, 1, TOKENS, DIM).requires_grad_() for _ in range(3)]
    layer = peers.DenseSbm(1, DIM, CLUSTERS, 0.0)
    return lambda: both_passes(layer, inputs, layer.parameters())


def print_sbm(options):
    seconds = benchmark_seconds(options, {"bench_sampler": {row[1] for row in OURS}, "bench_attention": {row[2] for row in OURS}})
    all_pairs, layer = (min(peers.milliseconds(call) for _ in range(options.rounds)) * 1e-3 for call in (sdpa(TOKENS, DIM), official()))
    rows = [("Stipple, " + name, seconds[sampler] + seconds[step]) for name, sampler, step in OURS]
    rows += [("SDPA, all pairs", all_pairs), ("official SBM layer", layer)]
    print("| one head | ms | Gpair/s | times SDPA | times the official layer |")
    print("|---|---|---|---|---|")
    for name, took in rows:
        print(f"| {name} | {took * 1e3:.1f} | {TOKENS ** 2 / took * 1e-9:.3f} | {all_pairs / took:.2f} | {layer / took:.1f} |")


def print_combiner(options):
    """One row a length: milliseconds, and how many times as fast as PyTorch with the same pairs to see."""
    print(f"| one head, d = {COMBINER_DIM}: ms (times SDPA) | SDPA | SDPA, causal | {' | '.join(COMBINER)} |")
    print("|---|" + "---|" * (2 + len(COMBINER)))
    for tokens in options.lengths:
        names = {f"step/{name}/N:{tokens}" for name in COMBINER}
        seconds = benchmark_seconds(options, {"bench_combiner": names})
        theirs = {causal: fastest(sdpa(tokens, COMBINER_DIM, causal), options) for causal in (False, True)}
        cells = [f"{theirs[False] * 1e3:.3g}", f"{theirs[True] * 1e3:.3g}"]
        for name in COMBINER:
            took = seconds[f"step/{name}/N:{tokens}"]
            cells.append(f"{took * 1e3:.3g} ({theirs[name.endswith('_causal')] / took:.1f})")
        print(f"| {tokens} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--combiner", action="store_true", help="Combiner and softmax in place of SBM")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384], help="tokens, with --combiner")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement, of which the fastest counts")
    parser.add_argument("--build", default=str(recipe_step.ROOT / "build/bin"), help="where the benchmarks are")
    options = parser.parse_args()
    options.threads = 1
    recipe_step.stay_on_cores(options)
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}\n")
    (print_combiner if options.combiner else print_sbm)(options)


if __name__ == "__main__":
    main()
