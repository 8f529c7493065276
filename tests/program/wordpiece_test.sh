#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From text to a vocabulary and to shards: the same bytes for any number of threads, nothing replaced unasked, and what is damaged or
# does not belong together is told in one line.
. "$(dirname "$0")/support.sh"

mkdir text
for i in $(seq 40); do
  printf 'The quick brown fox number %d jumps over the lazy dog.\nWhy? Because it is running.\n\nA naïve Café, page %d: 漢字.\n' "$i" $((i * i)) >"text/$i.txt"
done

expect 0 "$STIPPLE" data vocab --size 200 --out vocab.txt --threads 1 text/*.txt
contains "$output" "tokens of"
equal "$(head -n 5 vocab.txt | tr '\n' ' ')" "[PAD] [UNK] [CLS] [SEP] [MASK] " "special tokens"
grep -qx "quick" vocab.txt || fail "a frequent word is a token"
grep -qx "cafe" vocab.txt || fail "no accents"
expect 2 "$STIPPLE" data vocab --size 200 --out vocab.txt text/*.txt
contains "$output" "vocab.txt exists already; choose another --out, or --force to replace"
cp vocab.txt first.txt
expect 0 "$STIPPLE" data vocab --size 200 --out vocab.txt --threads 3 --force text/*.txt
cmp vocab.txt first.txt || fail "another number of threads, another vocabulary"
expect 2 "$STIPPLE" data vocab --size 20 --out small.txt text/*.txt
contains "$output" "the characters of the text alone are"
[ ! -e small.txt ] || fail "a vocabulary after an error"
: >empty.txt
expect 2 "$STIPPLE" data vocab --out none.txt empty.txt
contains "$output" "there is no word in 1 file"

expect 0 "$STIPPLE" data tokenize --vocab vocab.txt --out corpus/a --threads 1 text/*.txt
contains "$output" "of 80 documents to corpus/a.bin"
expect 0 "$STIPPLE" data tokenize --vocab vocab.txt --out corpus/b --threads 3 text/*.txt
cmp corpus/a.bin corpus/b.bin && cmp corpus/a.idx corpus/b.idx || fail "another number of threads, another shard"
expect 0 "$STIPPLE" data verify corpus/a --vocab vocab.txt
contains "$output" "documents    80"
contains "$output" "blocks       1 of 16 MiB as they were written"
expect 2 "$STIPPLE" data tokenize --vocab vocab.txt --out corpus/a text/*.txt
contains "$output" "corpus/a.bin exists already; choose another --out, or --force to replace"
expect 0 "$STIPPLE" data tokenize --vocab vocab.txt --out corpus/a --force --documents line --profile hf text/*.txt empty.txt
contains "$output" "1 of 41 files are empty"
contains "$output" "documents are short"
contains "$(cat corpus/a.meta.json)" '"profile": "hf"'
expect 2 "$STIPPLE" data tokenize --vocab vocab.txt --out corpus/c empty.txt
contains "$output" "there is no token in 1 file; it is empty"
expect 2 "$STIPPLE" data tokenize --vocab vocab.txt --out corpus/c nowhere.txt
contains "$output" "cannot read nowhere.txt"
expect 2 "$STIPPLE" data tokenize --vocab vocab.txt --out corpus/c --profile other text/1.txt
grep -v MASK vocab.txt >lacking.txt
expect 2 "$STIPPLE" data tokenize --vocab lacking.txt --out corpus/c text/1.txt
contains "$output" "lacking.txt lacks [MASK]"
equal "$(ls corpus | grep -c -e '^c' -e partial || true)" 0 "files after an error"
sed "s/^quick$/quack/" vocab.txt >quack.txt
expect 2 "$STIPPLE" data verify corpus/b --vocab quack.txt
contains "$output" "corpus/b: was made by another vocabulary"
equal "$(grep -c error: <<<"$output")" 1 "lines of error"

printf 'x' | dd of=corpus/b.bin bs=1 seek=10 conv=notrunc status=none
expect 2 "$STIPPLE" data verify corpus/b
contains "$output" "corpus/b.bin: bytes 0 to"
truncate -s -2 corpus/b.bin
expect 2 "$STIPPLE" data verify corpus/b
contains "$output" "corpus/b.idx: speaks of"
truncate -s 40 corpus/b.idx
expect 2 "$STIPPLE" data verify corpus/b
contains "$output" "cut short or damaged"
printf '\1\0\2\0' >gpt.bin
expect 0 "$STIPPLE" data verify gpt.bin --vocab vocab.txt
contains "$output" "no meta.json"
