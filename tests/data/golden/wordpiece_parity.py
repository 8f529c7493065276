#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the ids of `stipple data tokenize --profile hf --documents line` with those of Hugging Face's tokenizers, line by line.

  venv/bin/python tests/data/golden/wordpiece_parity.py build/bin/stipple vocab.txt FILES...          # any text files
  venv/bin/python tests/data/golden/wordpiece_parity.py build/bin/stipple vocab.txt --fuzz 100000     # random strings of UTF-8
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

from make_wordpiece import hf_tokenizer, strings


def sequences(prefix):
    index = open(prefix + ".idx", "rb").read()
    (count,) = struct.unpack_from("<Q", index, 18)
    lengths = struct.unpack_from(f"<{count}i", index, 34)
    code = {8: "H", 4: "i"}[index[17]]
    tokens = open(prefix + ".bin", "rb").read()
    at = 0
    for length in lengths:
        yield list(struct.unpack_from(f"<{length}{code}", tokens, at))
        at += length * struct.calcsize(code)


def main():
    stipple, vocabulary, *files = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        if files[0] == "--fuzz":
            lines = [line.encode() for line in strings(int(files[1]), 11)]
        else:
            lines = [line for name in files for line in open(name, "rb").read().split(b"\n")]
        with open(folder + "/lines.txt", "wb") as out:
            out.write(b"\n".join(lines) + b"\n")
        subprocess.run([stipple, "data", "tokenize", "--profile", "hf", "--documents", "line", "--vocab", vocabulary, "--out", folder + "/x",
                        folder + "/lines.txt"], check=True)
        ours = sequences(folder + "/x")
        tokenizer = hf_tokenizer([line.rstrip() for line in open(vocabulary, encoding="utf8")])
        compared = tokens = different = 0
        for begin in range(0, len(lines), 10_000):
            texts = [line.decode("utf8", "ignore") for line in lines[begin:begin + 10_000]]
            for text, encoded in zip(texts, tokenizer.encode_batch_fast(texts, add_special_tokens=False)):
                if not encoded.ids:
                    continue  # no sequence of ours either
                got = next(ours)
                compared += 1
                tokens += len(got)
                if got != encoded.ids:
                    different += 1
                    if different <= 5:
                        print("DIFFERENT", json.dumps(text), got, encoded.ids)
        left = sum(1 for _ in ours)
        print(f"{len(lines)} lines, {compared} with tokens, {tokens} tokens, {different} lines differ, {left} too many")
        return 1 if different or left else 0


if __name__ == "__main__":
    sys.exit(main())
