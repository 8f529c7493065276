#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes unicode_tables.cpp: what becomes of each character under the rules of Google's BERT (this Python's Unicode, which must be
15.0: Python 3.12) and under those of Hugging Face's tokenizers (asked, character by character).

  python3.12 -m venv venv && venv/bin/pip install tokenizers==0.23.3
  venv/bin/python data/wordpiece/make_unicode_tables.py > data/wordpiece/unicode_tables.cpp
"""
import sys
import unicodedata

from tokenizers.normalizers import NFD, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

assert unicodedata.unidata_version == "15.0.0", unicodedata.unidata_version
ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)  # decomposed by arithmetic


def decompose(text):
    return unicodedata.normalize("NFD", text)


def without_marks(text):
    return "".join(c for c in text if unicodedata.category(c) != "Mn")


class Google:
    IDEOGRAPHS = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
                  (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]

    def __init__(self):
        category = {c: unicodedata.category(chr(c)) for c in ALL}
        # The line and paragraph separators are no blanks in the first step, but words are split at them later on.
        self.blank = {c for c in ALL if category[c] in ("Zs", "Zl", "Zp")} | {9, 10, 13}
        self.control = {c for c in ALL if category[c] in ("Cc", "Cf")} - self.blank | {0, 0xFFFD}
        self.ideograph = {c for first, last in self.IDEOGRAPHS for c in range(first, last + 1)}
        self.punctuation = {c for c in ALL if category[c][0] == "P"} | {
            c for first, last in ((33, 47), (58, 64), (91, 96), (123, 126)) for c in range(first, last + 1)}
        self.mark = {c for c in ALL if category[c] == "Mn"}
        self.fold = {c: without_marks(decompose(chr(c).lower())) for c in ALL if c not in self.mark}
        self.reorder = {c: unicodedata.combining(chr(c)) for c in ALL}
        # A capital sigma becomes a final one behind a cased letter and before none, whatever is ignorable between. Python tells.
        self.cased = {c for c in ALL if (chr(c) + "Σ").lower()[-1] == "ς"}
        self.ignorable = {c for c in ALL if ("A" + chr(c) + "Σ").lower()[-1] == "ς"} - self.cased


class HuggingFace:
    def __init__(self):
        cased = BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False)
        uncased = BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
        split = BertPreTokenizer()
        kept = {c: cased.normalize_str(chr(c)) for c in ALL}
        self.control = {c for c in ALL if kept[c] == ""}
        self.blank = {c for c in ALL if kept[c] == " "}
        self.ideograph = {c for c in ALL if kept[c] == f" {chr(c)} "}
        self.fold = {c: uncased.normalize_str(chr(c)).strip(" ") for c in ALL if kept[c].strip(" ")}
        self.mark = {c for c, fold in self.fold.items() if fold == ""}
        self.punctuation = {c for c in ALL if kept[c].strip(" ") and len(split.pre_tokenize_str("a" + chr(c) + "a")) == 3}
        self.reorder = {c: unicodedata.combining(chr(c)) for c in ALL}
        nfd = NFD()
        low, high = chr(0x334), chr(0x345)  # of the lowest class, 1, and of the highest, 240
        for c, order in self.reorder.items():
            text = nfd.normalize_str(chr(c))
            if order == 0 or len(text) > 1 or chr(c) in (low, high):
                continue
            is_below = nfd.normalize_str(high + chr(c)) == text + high
            is_above = nfd.normalize_str(chr(c) + low) == low + text
            if not is_below and not is_above:
                self.reorder[c] = 0  # newer than its tables
            else:
                assert is_below and (is_above or order == 1), hex(c)
        self.cased = self.ignorable = set()


def ranges(members):
    found = []
    for c in sorted(members):
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def lines(items):
    """Items, as many in a line as fit."""
    line = " "
    for item in items:
        if len(line) + len(item) + 2 > 140:
            print(line)
            line = " "
        line += " " + item + ","
    if line.strip():
        print(line)


def array(kind, name, items):
    print(f"constexpr {kind} {name}[] = {{")
    lines(items)
    print("};\n")


def write_set(name, google, hf):
    """Characters of both, and of one of them alone; an array has at least one element."""
    for suffix, members in (("Both", google & hf), ("Google", google - hf), ("HuggingFace", hf - google)):
        items = [f"{{{first:#x}, {last:#x}}}" for first, last in ranges(members)] or ["kNone"]
        array("CodeRange", f"k{name}{suffix}", items)


def write_fold(name, fold):
    """Runs of characters that move by one distance, and strings for all others."""
    single = sorted((c, ord(to)) for c, to in fold.items() if len(to) == 1)
    runs = []
    for c, to in single:
        if runs:
            first, last, step, delta = runs[-1]
            if to - c == delta and (c - last == step or (first == last and c - last <= 2)):
                runs[-1] = (first, c, c - last, delta)
                continue
        runs.append((c, c, 1, to - c))
    array("FoldRun", f"k{name}Runs", [f"{{{first:#x}, {last:#x}, {step}, {delta}}}" for first, last, step, delta in runs])
    texts = sorted((c, to) for c, to in fold.items() if len(to) != 1)
    items = [f"{{{c:#x}, {{{', '.join(hex(ord(x)) for x in to)}}}}}" for c, to in texts] or ["{0, {}}"]
    assert all(len(to) <= 4 for _, to in texts)
    array("FoldText", f"k{name}Texts", items)


def main():
    google, hf = Google(), HuggingFace()
    print("// SPDX-License-Identifier: Apache-2.0")
    print("// Written by make_unicode_tables.py, from Unicode 15.0 and Hugging Face's tokenizers; not to be edited.")
    print("// clang-format off")
    print('#include "data/wordpiece/unicode_tables.h"\n')
    print("namespace stipple::data::wordpiece {\nnamespace {\n")
    print("constexpr CodeRange kNone = {1, 0};\n")
    for name in ("control", "blank", "ideograph", "mark", "punctuation", "cased", "ignorable"):
        write_set(name.capitalize(), getattr(google, name), getattr(hf, name))

    # Only what stays where marks go can be out of order.
    kept = [c for c in ALL if google.reorder[c] and c not in google.mark or hf.reorder[c] and c not in hf.mark]
    array("ReorderClass", "kReorder", [f"{{{c:#x}, {google.reorder[c]}}}" for c in kept])
    assert all(hf.reorder[c] in (0, google.reorder[c]) for c in kept)
    write_set("Unordered", set(), {c for c in kept if not hf.reorder[c]})
    # A mark that goes, too, ends a run of characters that are put into order, if a part of it is a starter.
    starters = [{c for c in profile.mark if any(profile.reorder[ord(x)] == 0 for x in decompose(chr(c)))} for profile in (google, hf)]
    write_set("Starter", *starters)

    changes = {}
    for which, profile in (("google", google), ("hf", hf)):
        without = profile.mark | profile.control | profile.blank
        fold = {c: to for c, to in profile.fold.items() if c not in without}
        for c in HANGUL:
            assert fold.pop(c) == decompose(chr(c)), hex(c)
        changes[which] = fold
    base = {c: to for c, to in changes["google"].items() if to != chr(c)}
    write_fold("Fold", base)
    # What the other one does not do as well, or does otherwise.
    over = {c: to for c, to in changes["hf"].items() if base.get(c, chr(c)) != to}
    write_fold("HuggingFaceFold", over)

    print("}  // namespace\n")
    print("const UnicodeTables& unicode_tables() {\n  static const UnicodeTables tables = {")
    for name in ("Control", "Blank", "Ideograph", "Mark", "Punctuation", "Cased", "Ignorable", "Unordered", "Starter"):
        print(f"      .{name.lower()} = {{k{name}Both, k{name}Google, k{name}HuggingFace}},")
    print("      .reorder = kReorder,")
    print("      .fold = {kFoldRuns, kFoldTexts},\n      .hugging_face_fold = {kHuggingFaceFoldRuns, kHuggingFaceFoldTexts},")
    print("  };\n  return tables;\n}\n\n}  // namespace stipple::data::wordpiece")
    for name in ("control", "blank", "ideograph", "mark", "punctuation"):
        g, h = getattr(google, name), getattr(hf, name)
        print(f"{name}: google alone {len(g - h)}, hf alone {len(h - g)}", file=sys.stderr)
    print(f"folds: {len(base)}, otherwise in hf: {len(over)}", file=sys.stderr)


if __name__ == "__main__":
    main()
