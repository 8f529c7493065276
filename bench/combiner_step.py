#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How much of a language model's step is attention: softmax, Combiner by blocks of 64, and the same model without attention.

Steps of configs/recipe/quick_text_lm.yaml (4 layers, width 128, 4 heads) on random bytes, one window a step, at several lengths. What
attention takes is the step less that of attention.kind=none. Run `launch/build.sh cpu` first, and nothing beside it. Prints a table in
Markdown.

  python3 bench/combiner_step.py [--lengths 1024 2048 4096 8192] [--steps 4] [--threads 1] [--stipple build/bin/stipple]
"""
import argparse
import pathlib
import random
import tempfile

import recipe_step

ATTENTIONS = {"softmax": [], "combiner": ["attention.kind=combiner", "attention.combiner.block=64"], "none": ["attention.kind=none"]}


def write_text(folder, tokens):
    source = random.Random(1)
    text = "".join(source.choice("etaoin shrdlu\n") for _ in range(tokens))
    pathlib.Path(folder, "text.txt").write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipe_step.add_options(parser)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192], help="tokens of a window")
    parser.set_defaults(batch=1, micro_batch=1, steps=4)
    options = parser.parse_args()
    recipe_step.stay_on_cores(options)
    print("| tokens | step, ms: softmax | combiner | none | of it attention: softmax | combiner | step of softmax / combiner | attention |")
    print("|---|---|---|---|---|---|---|---|")
    for length in options.lengths:
        with tempfile.TemporaryDirectory() as folder:
            write_text(folder, 2 * length * options.batch * (options.steps + recipe_step.WARM_UP))
            step = {name: recipe_step.Step("quick_text_lm", [*overrides, f"data.max_length={length}"], folder, options).step * 1e3
                    for name, overrides in ATTENTIONS.items()}
        own = {name: step[name] - step["none"] for name in ("softmax", "combiner")}
        share = {name: f"{100 * own[name] / step[name]:.0f} %" for name in own}
        print(f"| {length} | {step['softmax']:.0f} | {step['combiner']:.0f} | {step['none']:.0f} | {share['softmax']} | {share['combiner']} | "
              f"{step['softmax'] / step['combiner']:.2f} | {own['softmax'] / own['combiner']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
