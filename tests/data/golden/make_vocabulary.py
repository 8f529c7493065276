#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes vocabulary.json: words of English with made-up counts, and the tokens that Hugging Face's trainer makes of them in all and in
any of 40 runs: the order in which it takes pairs of equal counts is random.

  venv/bin/python tests/data/golden/make_vocabulary.py > tests/data/golden/vocabulary.json
"""
import json
import random

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import WordPieceTrainer

TEXT = """the a of and in to was is it for with as that his on by he at from their which be an were are has have had but they this one first
also new two other when she who been all its after or into time only more then world than some year over up most would city such many
between against during under made known following through where while number part used about before being both three them early later
found house including there until several called since became second school because south north state united states national war series
running runner jumped jumping walks walked walking thinking thinker rethinking unthinkable thoughtful thoughtless national nationalize
international nationality rationalize rational irrational relation relational relations relating related unrelated attention attentive
inattention intend intention intentional transformer transforms transformation information formation formal informal reform reformed"""
SIZE = 260
RUNS = 40


def main():
    random_ = random.Random(5)
    words = {word: random_.randrange(2, 60) for word in sorted(set(TEXT.split()))}
    runs = []
    for _ in range(RUNS):
        tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        trainer = WordPieceTrainer(vocab_size=SIZE, min_frequency=2, show_progress=False,
                                   special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
        tokenizer.train_from_iterator((" ".join([word] * count) for word, count in words.items()), trainer)
        runs.append(set(tokenizer.get_vocab()))
    print(json.dumps({"size": SIZE, "words": words, "always": sorted(set.intersection(*runs)), "ever": sorted(set.union(*runs))}, indent=0))


if __name__ == "__main__":
    main()
