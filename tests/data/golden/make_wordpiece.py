#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes wordpiece.jsonl, wordpiece_vocab.txt and the hashes of wordpiece_test.cpp: what Hugging Face's tokenizers, and Google's rules
written down once more with this Python's Unicode (15.0: Python 3.12), make of texts.

  python3.12 -m venv venv && venv/bin/pip install tokenizers==0.23.3 xxhash
  venv/bin/python tests/data/golden/make_wordpiece.py tests/data/golden
"""
import json
import random
import sys
import unicodedata
from pathlib import Path

import xxhash
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

assert unicodedata.unidata_version == "15.0.0", unicodedata.unidata_version


def hf_words(text, lower):
    normalizer = BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lower)
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(normalizer.normalize_str(text))]


def google_words(text, lower):
    """BasicTokenizer of google-research/bert, in our own words."""
    def is_blank(c):
        return c in " \t\n\r" or unicodedata.category(c) == "Zs"

    def is_control(c):
        return c not in "\t\n\r" and unicodedata.category(c) in ("Cc", "Cf")

    def is_ideograph(c):
        c = ord(c)
        return (0x4E00 <= c <= 0x9FFF or 0x3400 <= c <= 0x4DBF or 0x20000 <= c <= 0x2A6DF or 0x2A700 <= c <= 0x2B73F or
                0x2B740 <= c <= 0x2B81F or 0x2B820 <= c <= 0x2CEAF or 0xF900 <= c <= 0xFAFF or 0x2F800 <= c <= 0x2FA1F)

    def is_punctuation(c):
        return 33 <= ord(c) <= 47 or 58 <= ord(c) <= 64 or 91 <= ord(c) <= 96 or 123 <= ord(c) <= 126 or unicodedata.category(c)[0] == "P"

    cleaned = "".join(" " if is_blank(c) else f" {c} " if is_ideograph(c) else c for c in text
                      if c not in "\0\ufffd" and not is_control(c))
    words = []
    for word in cleaned.split():
        if lower:
            word = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn")
        current = ""
        for c in word:
            if is_punctuation(c):
                words += [current, c]
                current = ""
            else:
                current += c
        words.append(current)
    return " ".join(words).split()


PROFILES = {"google": google_words, "hf": hf_words}

SPELLED = [
    "Hey, a_b $5.00 it's e.g. “x”…", "İstanbul", "ß ẞ", "ﬁ", "\u01c5", "naïve, Å", "a\u200bb", "a\u00adb", "a\u0085b", "a\ufeffb", "ΟΔΟΣ ΣΑΣ Σ ΑΣ. Α.Σ.Β ΑΣ\u0301 ΣΣ",
    "漢字kanji", "한국어 텍스트", "\u2028a\u2029b\u000bc\u000cd", "a\u3000b\u2000c\u00a0d", "\ufb1d\ufb4f", "E\u0301\u0323e\u0323\u0301", "\U0001d15e\U0001d160",
    "\u302e\u302f \U0001d16d\U0001d165", "क्षि और", "ไทย ภาษา", "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea", "a\U0002b820b\U0002b920c",
    "\ue000x\U000f0000y", "\u1fef\u037e;", "\u212a\u2126\u212b", "[CLS] [SEP]x[MASK]", "a" * 100, "a" * 101, "é" * 100, "é" * 101, "don't...stop!!", "tab\there\r\nthere", "\u0000a\u0000 b\u001fc\u007fd",
    "DŽ Ǆ ǅ", "Ⅷ ⅷ Ⓐ", "\u0898\u0334 \u1abf", "x\u0344y\u0f73z", "\u0dddx\u0ddd", "\u1ea0\u1e69", "Ａｂ", "\ua7cb \u1c89", "--\u2014\u2013-", "1/2 ½ x² 3·10⁸", "A.Σ\u00adx", "\U0001d16d\u0900\u302e \U0001d16d\u0301\u302e",
]


def fuzz(random_, length):
    pools = [
        (30, lambda: chr(random_.randrange(32, 127))), (10, lambda: random_.choice("etaoinshrdlu")), (12, lambda: " "), (8, lambda: chr(random_.randrange(0xA0, 0x250))),
        (6, lambda: chr(random_.randrange(0x300, 0x370))), (5, lambda: chr(random_.randrange(0x370, 0x530))), (4, lambda: chr(random_.randrange(0x4E00, 0xA000))),
        (3, lambda: chr(random_.randrange(0xAC00, 0xD7A4))), (3, lambda: chr(random_.randrange(0x1F300, 0x1FA00))), (2, lambda: random_.choice("\u200d\u200b\ufe0f\u00ad\u2028\ufeff\u0085\ufffd")),
        (2, lambda: chr(random_.randrange(1, 32))), (4, lambda: random_.choice("ΣσςΑα.'·")), (3, lambda: chr(random_.randrange(0x590, 0x1100))),
        (3, lambda: chr(random_.randrange(0x1E00, 0x2100))), (2, lambda: chr(random_.choice([x for x in (random_.randrange(0x80, 0x110000), 0x41) if not 0xD800 <= x < 0xE000][0:1] or [0x41]))),
        (2, lambda: random_.choice("\u302e\u302f\U0001d165\U0001d16d\u1715\u1734\ua953\u3099\u0334\u0898\u0345")),
    ]
    weights = [weight for weight, _ in pools]
    return "".join(random_.choices(pools, weights)[0][1]() for _ in range(length))


def strings(count, seed):
    """`count` random ones without line feeds or carriage returns."""
    random_ = random.Random(seed)
    for _ in range(count):
        yield fuzz(random_, random_.randrange(1, 60)).replace("\n", "\t").replace("\r", "\t")


def hf_tokenizer(vocabulary, lower=True):
    """`vocabulary`: tokens in the order of their ids. Without added tokens: spelled special ones are text."""
    tokenizer = Tokenizer(WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lower)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def sweep_hash(words, lower):
    """Of the words of "Aé", the character and "Σb" for each character, a line each."""
    state = xxhash.xxh3_64()
    for c in range(0x110000):
        if not 0xD800 <= c < 0xE000:
            state.update((" ".join(words(f"Aé{chr(c)}Σb", lower)) + "\n").encode())
    return state.hexdigest()


def main():
    folder = Path(sys.argv[1])
    letters = [chr(c) for c in range(33, 127) if not 65 <= c <= 90] + list("αβσςéжд漢字한")
    pairs = ["th", "he", "in", "er", "an", "re", "ing", "the", "and", "ab", "ba"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *pairs, *("##" + x for x in letters[15:] + pairs)]
    (folder / "wordpiece_vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = hf_tokenizer(vocabulary)
    with open(folder / "wordpiece.jsonl", "w") as out:
        for text in SPELLED + list(strings(250, 7)):
            row = {"text": text, "ids": tokenizer.encode(text).ids}
            for profile, words in PROFILES.items():
                for lower in (True, False):
                    row[profile + ("" if lower else "_cased")] = " ".join(words(text, lower))
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    for profile, words in PROFILES.items():
        for lower in (True, False):
            print(profile, "lower" if lower else "cased", sweep_hash(words, lower))


if __name__ == "__main__":
    main()
