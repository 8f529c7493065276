#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A training step of the ListOps recipes beside the same model in PyTorch, on the same cores and the same batch.

Makes ListOps examples of the recipes' lengths, trains a few steps on them with `stipple train`, whose metrics.jsonl has the time of
each, and trains the same model in PyTorch (fp32, eager): SBM by the official layer's arithmetic, softmax by matrices of weights and, from
PyTorch 2.0, by scaled_dot_product_attention. Prints a table in Markdown. Steps are medians, after one that does not count.

  /usr/bin/python3 bench/step_peers.py [--batch 4] [--micro-batch 4] [--steps 3] [--threads 1] [--stipple build/bin/stipple]

Padding is as each side does it: the official layer computes all of 2,048 positions, the others what the longest of a micro-batch has.
"""
import argparse
import statistics
import tempfile
import time

import peers  # ends with exit code 4 where there is no PyTorch
import recipe_step
import torch
import torch.nn.functional as F
from recipe_step import MAX_LENGTH, WARM_UP


class Softmax(torch.nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.dropout = dropout

    def weigh(self, q, k, v, keep):
        weights = F.softmax((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~keep, float("-inf")), dim=-1)
        return F.dropout(weights, self.dropout) @ v

    def forward(self, q, k, v, keep):
        return self.weigh(q, k, v, keep[:, None, None, :]), torch.zeros(())


class Sdpa(Softmax):
    def weigh(self, q, k, v, keep):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=self.dropout)


def torch_step(make_attention, pad, lengths, options):
    """Median of the time of a step."""
    model = peers.ListOpsModel(MAX_LENGTH, make_attention=make_attention)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, eps=1e-6, weight_decay=0)
    seconds = []
    for step in range(options.steps + WARM_UP):
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        for first in range(0, options.batch, options.micro_batch):
            rows = lengths[step * options.batch + first:][:options.micro_batch]
            longest = MAX_LENGTH if pad else max(rows)
            keep = torch.arange(longest)[None, :] < torch.tensor(rows)[:, None]
            ids = torch.randint(1, 16, keep.shape) * keep
            loss = model(ids, torch.randint(0, 10, (len(rows),)), keep) * (len(rows) / options.batch)
            loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[WARM_UP:])


# --- the table ---

def gflop_s():
    """Of products like those of attention: an eager layer is as fast as its BLAS."""
    a, b = torch.randn(4, MAX_LENGTH, 64), torch.randn(4, 64, MAX_LENGTH)
    torch.bmm(a, b)
    begin = time.perf_counter()
    torch.bmm(a, b)
    return 2 * a.numel() * MAX_LENGTH / (time.perf_counter() - begin) * 1e-9


def print_table(folder, options):
    lengths = recipe_step.lengths_of(folder)
    models = (("lra_listops_sbm", [], "sbm"), ("lra_listops_sbm", ["attention.sbm.compat=none"], "sbm"), ("lra_listops_softmax", [], "softmax"))
    steps = [recipe_step.Step(recipe, overrides, folder, options) for recipe, overrides, _ in models]
    eager = {"sbm": torch_step(lambda heads, d: peers.DenseSbm(heads, d, 128, 0.1), True, lengths, options),
             "softmax": torch_step(lambda *_: Softmax(0.1), False, lengths, options)}
    has_sdpa = hasattr(F, "scaled_dot_product_attention")
    sdpa = torch_step(lambda *_: Sdpa(0.1), False, lengths, options) if has_sdpa else None

    print(f"Batch {options.batch} in micro-batches of {options.micro_batch}, {options.threads} threads, examples of "
          f"{sum(lengths) / len(lengths):.0f} tokens on average; seconds a step. PyTorch {torch.__version__} multiplies at "
          f"{gflop_s():.0f} GFLOP/s{'' if has_sdpa else ' and has no scaled_dot_product_attention'}.\n")
    print("| model | density | Stipple | forward, sampling, backward | PyTorch eager | times as fast | PyTorch SDPA | times as fast |")
    print("|---|---|---|---|---|---|---|---|")
    for (recipe, overrides, peer), own in zip(models, steps):
        density = "" if own.density is None else f"{own.density:.1%}"
        beside = f"{sdpa:.2f} | {sdpa / own.step:.1f}" if sdpa and peer == "softmax" else " | "
        print(f"| {' '.join([recipe, *overrides])} | {density} | {own.step:.2f} | {own.forward:.2f}, {own.sampling:.2f}, "
              f"{own.backward:.2f} | {eager[peer]:.2f} | {eager[peer] / own.step:.1f} | {beside} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipe_step.add_options(parser)
    options = parser.parse_args()
    recipe_step.stay_on_cores(options)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        recipe_step.make_data(folder, options)
        print_table(folder, options)


if __name__ == "__main__":
    main()
