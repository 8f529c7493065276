# SPDX-License-Identifier: Apache-2.0
"""Writes small tasks in GLUE's layout into a folder, and a vocabulary of letters beside it: MRPC and RTE ask whether the first sentence
begins with a or b, STS-B how many letters the two have in common, MNLI which of three kinds of letter it begins with."""
import pathlib
import random
import sys

folder = pathlib.Path(sys.argv[1])
letters = "abcdefgh"
random.seed(5)


def pairs(n):
    for i in range(n):
        first = [random.choice(letters[:4]) for _ in range(3)]
        second = [first[0] if i % 3 else random.choice(letters[:4]), *(random.choice(letters[4:]) for _ in range(2))]
        if i % 7 == 0:
            second.append('"')  # an unpaired quote
        yield first, second


def is_early(first):
    return int(first[0] in "ab")


def write(path, header, rows, start="", end="\n"):
    path = folder / path
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as out:
        out.write(start + "\t".join(header) + end)
        for row in rows:
            out.write("\t".join(map(str, row)) + end)


def mrpc(name, n, labels):
    write(f"MRPC/{name}.tsv", ["Quality" if labels else "index", "#1 ID", "#2 ID", "#1 String", "#2 String"],
          [(is_early(a) if labels else i, i, i + 1, " ".join(a), " ".join(b)) for i, (a, b) in enumerate(pairs(n))], "\ufeff", "\r\n")


def stsb(name, n, labels):
    header = "index genre filename year old_index source1 source2 sentence1 sentence2".split() + ["score"] * labels
    write(f"STS-B/{name}.tsv", header,
          [(i, *"gfyons", " ".join(a), " ".join(b), *[f"{min(5, 2.5 * len(set(a) & set(b))):.3f}"] * labels)
           for i, (a, b) in enumerate(pairs(n))])


def rte(name, n, labels):
    write(f"RTE/{name}.tsv", ["index", "sentence1", "sentence2"] + ["label"] * labels,
          [(i, " ".join(a), " ".join(b), *[["not_entailment", "entailment"][is_early(a)]] * labels) for i, (a, b) in enumerate(pairs(n))])


def mnli(name, n, judges):
    header = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 sentence2".split()
    kinds = {"a": "entailment", "b": "neutral", "c": "contradiction", "d": "contradiction"}
    write(f"MNLI/{name}.tsv", header + [f"label{j + 1}" for j in range(judges)] + ["gold_label"] * (judges > 0),
          [(i, *"ppgbbpp", " ".join(a), " ".join(b), *[kinds[a[0]]] * (judges + (judges > 0))) for i, (a, b) in enumerate(pairs(n))])


for make in mrpc, stsb, rte:
    make("train", 240, True), make("dev", 45, True), make("test", 31, False)
mnli("train", 240, 1)
for kind in "matched", "mismatched":
    mnli(f"dev_{kind}", 45, 5), mnli(f"test_{kind}", 31, 0)
write("diagnostic/diagnostic.tsv", ["index", "sentence1", "sentence2"],
      [(i, " ".join(a), " ".join(b)) for i, (a, b) in enumerate(pairs(20))])
with open(folder.parent / "vocab.txt", "w") as out:
    out.write("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, '"']) + "\n")
