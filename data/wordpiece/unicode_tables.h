// SPDX-License-Identifier: Apache-2.0
// What the two profiles know of Unicode's characters, as make_unicode_tables.py wrote it down. No
// library at run time: texts become the same ids whatever a system has installed.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace stipple::data::wordpiece {

struct CodeRange {
  uint32_t first = 0;
  uint32_t last = 0;  ///< inclusive; before `first`: no character
};

/// Characters of both profiles, and of one of them alone.
struct CodeSet {
  std::span<const CodeRange> both;
  std::span<const CodeRange> google;
  std::span<const CodeRange> hugging_face;
};

/// Unicode's canonical combining class.
struct ReorderClass {
  uint32_t code = 0;
  uint8_t order = 0;
};

/// first, first + step, ..., last each become the character at a distance of `delta`.
struct FoldRun {
  uint32_t first = 0;
  uint32_t last = 0;
  uint32_t step = 1;
  int32_t delta = 0;
};

/// One character becomes several; the rest of the array is 0.
struct FoldText {
  uint32_t code = 0;
  std::array<char32_t, 4> to{};
};

struct Fold {
  std::span<const FoldRun> runs;
  std::span<const FoldText> texts;
};

struct UnicodeTables {
  CodeSet control;    ///< left out
  CodeSet blank;      ///< words end there
  CodeSet ideograph;  ///< words of their own
  CodeSet mark;       ///< left out with accents
  CodeSet punctuation;
  CodeSet cased;      ///< before it, a capital sigma may be a final one (Google)
  CodeSet ignorable;  ///< does not count when that is asked
  CodeSet unordered;  ///< have no `reorder` class after all
  CodeSet starter;    ///< marks of class 0
  std::span<const ReorderClass> reorder;  ///< of what stays when marks go
  Fold fold;  ///< lower case, decomposed, without marks; Hangul syllables are not in it
  Fold hugging_face_fold;  ///< what is not as in `fold`
};

const UnicodeTables& unicode_tables();

}  // namespace stipple::data::wordpiece
