// SPDX-License-Identifier: Apache-2.0
// Vectorised dropout of attention weights. Forward decides the bits and, where the problem has
// memory for them, keeps them; backward reads them there, or decides again.
#pragma once

#include "kernels/cpu/attend/simd.h"

namespace stipple::kernels::cpu::STIPPLE_SIMD {

/// Which of the pairs (i, j) keep their weight, j by lane.
inline Mask keeps(const DropoutStream& d, int64_t i, Words j) {
  const PhiloxWords random = philox4x32({{j >> 2, splat_words(static_cast<uint32_t>(i)),
                                          splat_words(d.sample), splat_words(d.stream)}},
                                        d.key);
  const Words which = j & splat_words(3);
  Words word = random.w[0];
  for (uint32_t w = 1; w < 4; ++w) word = select(equal(which, splat_words(w)), random.w[w], word);
  return !less(word, splat_words(d.drop_below));
}

/// Bit 4 x + w of the result: whether pair (i, 4 quads[x] + w) keeps its weight.
inline uint64_t kept_quads(const DropoutStream& d, int64_t i, Words quads) {
  const PhiloxWords random = philox4x32({{quads, splat_words(static_cast<uint32_t>(i)),
                                          splat_words(d.sample), splat_words(d.stream)}},
                                        d.key);
  uint64_t bits = 0;
  for (int w = 0; w < 4; ++w) {
    const uint64_t kept = mask_bits(!less(random.w[w], splat_words(d.drop_below)));
    bits |= _pdep_u64(kept, 0x1111111111111111ull << w);
  }
  return bits;
}

/// Row i's bits among those that are kept.
inline uint32_t* kept_row(const AttendProblem& p, int64_t i) {
  if (p.columns != nullptr) return p.kept + p.row_ptr[i] / 32 + i;
  return p.kept + i * ((p.num_keys + 31) / 32);
}

// --- of tiles ------------------------------------------------------------------------------------

/// Row i's bits for the keys from `first` on, 32 a word, all ones without dropout.
template <size_t kWords>
inline void make_bits(const AttendProblem& p, int64_t i, int64_t first, uint32_t (&words)[kWords]) {
  memset(words, 0xFF, sizeof(words));
  if (!p.dropout.on) return;
  for (int64_t x = 0; x < int64_t{32 * kWords}; x += 4 * kWidth) {
    const Words quads = iota() + splat_words(static_cast<uint32_t>((first + x) / 4));
    const uint64_t bits = kept_quads(p.dropout, i, quads);
    memcpy(reinterpret_cast<char*>(words) + x / 8, &bits, static_cast<size_t>(4 * kWidth / 8));
  }
}

/// How many bytes of a tile's bits a row has.
inline size_t tile_bytes(const AttendProblem& p, int64_t first) {
  return static_cast<size_t>(minimum((p.num_keys - first + 31) / 32, kTileKeys / 32)) * 4;
}

/// make_bits of forward.
inline void decide_tile(const AttendProblem& p, int64_t i, int64_t first,
                        uint32_t (&words)[kTileKeys / 32]) {
  make_bits(p, i, first, words);
  if (p.kept != nullptr) memcpy(kept_row(p, i) + first / 32, words, tile_bytes(p, first));
}

/// make_bits of backward.
inline void recall_tile(const AttendProblem& p, int64_t i, int64_t first,
                        uint32_t (&words)[kTileKeys / 32]) {
  if (p.kept == nullptr) return make_bits(p, i, first, words);
  memset(words, 0, sizeof(words));
  memcpy(words, kept_row(p, i) + first / 32, tile_bytes(p, first));
}

/// The same for 64 keys.
inline void recall_pairs(const AttendProblem& p, int64_t i, int64_t first, uint32_t (&words)[2]) {
  if (p.kept == nullptr) return make_bits(p, i, first, words);
  const uint32_t* row = kept_row(p, i) + first / 32;
  words[0] = row[0];
  words[1] = first + 32 < p.num_keys ? row[1] : 0u;
}

// --- of edges ------------------------------------------------------------------------------------

/// Which of four keys in a row, counted from the lowest bit on, have an edge: bit 4 x of the result.
inline uint32_t quads_with_edges(uint32_t edges) {
  const uint32_t pairs = edges | edges >> 1;
  return (pairs | pairs >> 2) & 0x11111111u;
}

/// Decides the bits of row i's edges, which are bits, among at most kSweepKeys keys from `first_key`
/// on, a multiple of 32; others become 0. Philox gives four keys at a time: it runs only for fours
/// with an edge, moved together.
inline void decide_edges(const AttendProblem& p, int64_t i, int64_t first_key, int64_t keys) {
  constexpr int kWordsAtOnce = kWidth / 8;
  constexpr int64_t kWords = kSweepKeys / 32;
  uint32_t edges[kWords + kWordsAtOnce];
  const int64_t words = (keys + 31) / 32;
  memcpy(edges, p.bits + i * p.words_per_row + first_key / 32, static_cast<size_t>(words) * 4);
  memset(edges + words, 0, sizeof(uint32_t) * kWordsAtOnce);

  uint32_t quads[kSweepKeys / 4 + 2 * kWidth];
  int64_t count = 0;
  for (int64_t w = 0; w < words; w += kWordsAtOnce) {
    uint32_t wanted = 0;
    for (int x = 0; x < kWordsAtOnce; ++x) {
      wanted |= _pext_u32(quads_with_edges(edges[w + x]), 0x11111111u) << 8 * x;
    }
    const auto first_quad = static_cast<uint32_t>(first_key / 4 + 8 * w);
    count +=
        compress_store(quads + count, iota() + splat_words(first_quad), mask_from_bits(wanted));
  }

  char bits[kSweepKeys / 8 + 2 * kWidth];
  for (int64_t q = 0; q < count; q += kWidth) {
    const uint64_t kept = kept_quads(p.dropout, i, load(quads + q));
    memcpy(bits + q / 2, &kept, sizeof(kept));
  }

  uint32_t* kept = kept_row(p, i) + first_key / 32;
  int64_t next = 0;
  for (int64_t w = 0; w < words; ++w) {
    const uint32_t own = quads_with_edges(edges[w]);
    uint64_t ahead;
    memcpy(&ahead, bits + next / 2, sizeof(ahead));
    kept[w] = _pdep_u32(static_cast<uint32_t>(ahead >> 4 * (next % 2)), own * 0xF);
    next += __builtin_popcount(own);
  }
}

/// Which of row i's edges in CSR dropout leaves: `count` <= kWidth from the problem's edge `first` on,
/// to the keys j.
inline Mask recall_edges(const AttendProblem& p, int64_t i, Words j, int64_t first, int64_t count) {
  if (p.kept == nullptr) return keeps(p.dropout, i, j);
  const int64_t e = first - p.row_ptr[i];
  const uint32_t* words = kept_row(p, i) + e / 32;
  uint64_t bits = words[0];
  if (e % 32 + count > 32) bits |= uint64_t{words[1]} << 32;
  return word_lanes(static_cast<uint32_t>(bits >> e % 32), 0);
}

/// Marks the column of an edge that is dropped, where edges are moved together.
inline constexpr uint32_t kDropped = 1u << 31;

/// The columns from j on, of which `lanes` are marked.
inline Words marked_columns(int64_t j, Mask lanes) {
  const Words columns = iota() + splat_words(static_cast<uint32_t>(j));
  return columns | select(lanes, splat_words(kDropped), splat_words(0));
}
inline Mask is_unmarked(Words columns) { return less(columns, splat_words(kDropped)); }
inline Words without_mark(Words columns) { return columns & splat_words(~kDropped); }

/// Which of the 32 edges of row i's word `word` are dropped, as far as is kept.
inline uint32_t dropped_word(const uint32_t* kept_row, int64_t word) {
  return kept_row == nullptr ? 0u : ~kept_row[word];
}

/// Sets bits [first, first + kWidth), first a multiple of kWidth.
inline void store_lanes(uint32_t* words, int64_t first, Mask lanes) {
  const uint32_t bits = mask_bits(lanes);
  memcpy(reinterpret_cast<char*>(words) + first / 8, &bits, kWidth / 8);
}

}  // namespace stipple::kernels::cpu::STIPPLE_SIMD
