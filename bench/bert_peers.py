#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of a BERT on MRPC beside PyTorch and `transformers`: the same losses, and examples a second on the same cores.

  python3.12 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers
  /tmp/venv/bin/python bench/bert_peers.py --model models/minilm --data FOLDER              # 50 steps without dropout: losses
  /tmp/venv/bin/python bench/bert_peers.py --model models/minilm --data FOLDER --speed      # one step of each, with dropout

--model: what `stipple import huggingface` wrote; --data: GLUE's folder. Both sides begin with the same bits (the classifier that Stipple
drew is exported with the rest), see the same batches in the same order, and have the same learning rates. fp32 on CPUs; --speed pads
to the longest of a batch on both sides ("same padding"), and to the longest of a micro-batch of 4 on ours.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

try:
    import torch
    from transformers import BertForSequenceClassification, BertTokenizerFast
except ImportError:
    print("bert_peers.py: not available: torch and transformers are not installed", file=sys.stderr)
    sys.exit(4)

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEED, BATCH, MAX_LENGTH = 1, 32, 128
MASK64 = 2**64 - 1


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: {result.stderr.strip()}")


def splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK64
    return x ^ (x >> 31)


def shuffled(position, n, epoch):
    """data/shuffle.h"""
    key = splitmix64(splitmix64(SEED) ^ epoch)
    bits = ((n - 1).bit_length() + 1) // 2
    mask = (1 << bits) - 1
    x = position
    while True:
        left, right = x >> bits, x & mask
        for turn in range(6):
            left, right = right, left ^ (splitmix64((key + (turn << 32 | right)) & MASK64) & mask)
        x = left << bits | right
        if x < n:
            return x


def mrpc(folder):
    """(label, first, second) of each training row, split by tabs and line feeds alone."""
    text = pathlib.Path(folder, "MRPC", "train.tsv").read_bytes().decode().removeprefix("\ufeff")
    rows = [line.removesuffix("\r").split("\t") for line in text.removesuffix("\n").split("\n")[1:]]
    return [(int(row[0]), row[3], row[4]) for row in rows]


class Ours:
    """Runs of `stipple train` on MRPC, all by one recipe."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder

    def train(self, name, steps, *overrides):
        run_dir = os.path.join(self.folder, name)
        run(self.options.stipple, "train", str(ROOT / "configs/recipe/glue.yaml"), f"{self.options.model}/model.yaml", f"run.dir={run_dir}",
            "data.glue.task=mrpc", f"data.dir={self.options.data}", f"data.vocab={self.options.model}/vocab.txt", f"run.seed={SEED}",
            f"threads={self.options.threads}", f"train.steps={steps}", f"train.batch={BATCH}", "log.every=1", "eval.every=0",
            "checkpoint.every=0", *overrides)
        with open(os.path.join(run_dir, "metrics.jsonl"), encoding="utf-8") as file:
            return [r for r in map(json.loads, file) if r["kind"] == "train"]

    def export(self, name):
        """A folder for transformers."""
        out = os.path.join(self.folder, name + "-exported")
        run(self.options.stipple, "export", os.path.join(self.folder, name), "--format", "huggingface", "--out", out)
        return out


class Theirs:
    """The same model in transformers, with BERT's groups of decay."""

    def __init__(self, folder, rows, dropout):
        self.tokenizer = BertTokenizerFast(vocab=os.path.join(folder, "vocab.txt"), do_lower_case=True)
        self.rows = rows
        self.model = BertForSequenceClassification.from_pretrained(
            folder, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        self.model.train()
        plain = [p for name, p in self.model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
        decayed = [p for name, p in self.model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
        self.optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
                                           lr=0.0, betas=(0.9, 0.999), eps=1e-6)

    def batch(self, step):
        n = len(self.rows)
        places = range(step * BATCH, (step + 1) * BATCH)
        chosen = [self.rows[shuffled(place % n, n, place // n)] for place in places]
        inputs = self.tokenizer([row[1] for row in chosen], [row[2] for row in chosen], padding=True, truncation=True,
                                max_length=MAX_LENGTH, return_tensors="pt")
        return inputs, torch.tensor([row[0] for row in chosen])

    def step(self, inputs, labels, rate):
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.model(**inputs, labels=labels).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def compare_losses(options, ours, theirs, begun):
    records = ours.train("ours", options.steps, f"init.from={begun}", "model.dropout=0", "attention.dropout=0", "train.micro_batch=4")
    worst = 0.0
    print("| step | ours | transformers |\n|---|---|---|")
    for record in records:
        inputs, labels = theirs.batch(record["step"] - 1)
        loss = theirs.step(inputs, labels, record["learning_rate"])
        worst = max(worst, abs(loss - record["loss"]))
        if record["step"] % 10 == 0 or record["step"] == 1:
            print(f"| {record['step']} | {record['loss']:.6f} | {loss:.6f} |", flush=True)
    print(f"\n{len(records)} steps, largest difference of losses {worst:.2e}")
    return worst < 1e-4


def compare_speed(options, ours, theirs, begun):
    def seconds_of_theirs(steps):
        seconds, padded = [], 0
        for step in range(steps):
            inputs, labels = theirs.batch(step)
            start = time.perf_counter()
            theirs.step(inputs, labels, 1e-5)
            seconds.append(time.perf_counter() - start)
            padded += inputs["input_ids"].numel()
        return seconds[1:], padded

    def seconds_of_ours(name, micro_batch):
        records = ours.train(name, options.steps, f"init.from={begun}", f"train.micro_batch={micro_batch}")
        return [r["step_s"] for r in records[1:]]

    print("| | examples/s | beside transformers |\n|---|---|---|", flush=True)
    their_seconds = seconds_of_theirs(options.steps)[0]
    padded = seconds_of_ours("padded", BATCH)
    less_padded = seconds_of_ours("less_padded", 4)
    their_seconds += seconds_of_theirs(options.steps)[0]
    theirs_per_s = BATCH / statistics.median(their_seconds)
    print(f"| transformers, PyTorch {torch.__version__} | {theirs_per_s:.1f} | 1.00 |")
    for name, seconds in ("Stipple, same padding", padded), ("Stipple, micro-batches of 4", less_padded):
        per_s = BATCH / statistics.median(seconds)
        print(f"| {name} | {per_s:.1f} | {per_s / theirs_per_s:.2f} |")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--stipple", default=str(ROOT / "build/bin/stipple"))
    parser.add_argument("--steps", type=int, help="50; with --speed 6, of which the first does not count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    options.steps = options.steps or (6 if options.speed else 50)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(options, folder)
        # A run that learns nothing has the classifier that Stipple draws.
        ours.train("begun", 1, f"init.from={options.model}", "optimizer.learning_rate=0", "optimizer.weight_decay=0",
                   "optimizer.schedule.warmup_steps=0")
        theirs = Theirs(ours.export("begun"), mrpc(options.data), 0.1 if options.speed else 0.0)
        compare = compare_speed if options.speed else compare_losses
        if not compare(options, ours, theirs, os.path.join(folder, "begun")):
            sys.exit(1)


if __name__ == "__main__":
    main()
