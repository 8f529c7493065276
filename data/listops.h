// SPDX-License-Identifier: Apache-2.0
// ListOps of the Long Range Arena: grammar, generator, published file format, exact evaluator.
// Source: Nangia, Bowman 2018 (arXiv 1804.06028) and Tay et al. 2021 (arXiv 2011.04006).
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"

namespace stipple::data::listops {

/// Token ids. 0 is padding; the embedding table has 32 rows.
enum Token : uint8_t { kPad = 0, kMin = 1, kMax = 2, kMed = 3, kSm = 4, kClose = 5, kDigit0 = 6 };
inline constexpr int64_t kVocabSize = 32;
inline constexpr int64_t kNumClasses = 10;

struct GeneratorOptions {
  uint64_t seed = 0;
  int64_t train = 96000;
  int64_t val = 2000;
  int64_t test = 2000;
  int64_t min_length = 500;   ///< exclusive
  int64_t max_length = 2000;  ///< exclusive
  int max_depth = 10;
  int max_arguments = 10;
  double operator_probability = 0.25;
  int threads = 1;
  /// Which files are written. A split holds the same bytes whether the others are written or not.
  std::vector<Split> splits = {Split::kTrain, Split::kValidation, Split::kTest};
  bool replace = false;  ///< files of before; false: DataError where one exists
};

/// Where the published files of a folder are: dir/basic_train.tsv, basic_val.tsv, basic_test.tsv.
std::string file_of(const std::string& dir, Split);

/// Writes the files of the splits (CR LF lines, as published) into `dir`, each first under a
/// temporary name and renamed when complete; temporary files that killed generators left there are
/// removed. The bytes depend on seed, sizes and grammar only. Distinct trees, in the order of
/// candidate numbers. ConfigError when nothing (more) can be accepted, for example for an empty
/// length window; DataError with the path when the disk refuses, and then the files of before are
/// untouched.
///   `progress(done, total)` is called now and then from the calling thread.
void generate(const std::string& dir, const GeneratorOptions&,
              const std::function<void(int64_t, int64_t)>& progress = {});

/// One accepted tree as tokens; the building block of generate(), and of tests. Empty when
/// candidate c is rejected.
std::vector<uint8_t> candidate(const GeneratorOptions&, uint64_t c);

/// What an operator is taken for when it is not computed: MIN 0, MAX 9, MED 4, SM 5, the most
/// likely values. Error otherwise.
int constant_guess(uint8_t operation);

/// The value 0..9 of a token string, computed exactly down to operators at `depth`; the root
/// operator is at depth 1, and every operator below `depth` counts as its constant guess. So depth
/// 0 knows the root operator only (36.2 % of the default examples), depth 1 also its digits and the
/// kinds of its child operators (59.8 %), and depth 9 of the default trees is exact: the accuracy
/// ladder. DataError that names the token when they are no complete expression.
inline constexpr int kExact = std::numeric_limits<int>::max();
int evaluate(std::span<const uint8_t> tokens, int depth = kExact);

/// The published text of a tree: "( ( ( [MAX 2 ) 9 ) ] )".
std::string to_source(std::span<const uint8_t> tokens);
/// Its inverse; parentheses must come in pairs and are dropped, the grammar is not checked.
/// DataError naming the offending word and its position.
std::vector<uint8_t> from_source(std::string_view source);

}  // namespace stipple::data::listops
