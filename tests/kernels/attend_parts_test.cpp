// SPDX-License-Identifier: Apache-2.0
// Dense attention to the pairs of a pattern, and attention to parts of the keys that are merged.
#include <gtest/gtest.h>

#include <functional>

#include "core/error.h"
#include "tests/kernels/attend_reference.h"

namespace stipple::test {
namespace {

using kernels::AttendPart;
using kernels::Pattern;
using kernels::PatternKind;

struct NamedPattern {
  const char* name;
  Pattern pattern;
};

const std::vector<NamedPattern>& patterns() {
  static const std::vector<NamedPattern> all = {
      {"causal", {.is_causal = true}},
      {"window", {.kind = PatternKind::kWindow, .radius = 5}},
      {"wide window", {.kind = PatternKind::kWindow, .radius = 70}},
      {"itself", {.kind = PatternKind::kWindow}},
      {"causal window", {.kind = PatternKind::kWindow, .is_causal = true, .radius = 37}},
      {"dilated window", {.kind = PatternKind::kWindow, .radius = 6, .dilation = 3}},
      {"own group", {.kind = PatternKind::kOwnGroup}},
      {"causal own group", {.kind = PatternKind::kOwnGroup, .is_causal = true}},
      {"other groups", {.kind = PatternKind::kOtherGroups}},
      {"earlier groups", {.kind = PatternKind::kEarlierGroups}},
  };
  return all;
}

/// Groups of runs of tokens, or scattered over all of them; the last key is in a group of its own.
void set_groups(AttendSetup& s, bool are_scattered, bool has_own_of_each_problem) {
  const int64_t problems = has_own_of_each_problem ? s.problems() : 1;
  const auto groups = [&](int64_t tokens) {
    Array<int32_t> result(has_own_of_each_problem ? Shape{problems, tokens} : Shape{tokens});
    for (int64_t i = 0; i < result.numel(); ++i) {
      const int64_t token = i % tokens;
      result[i] = static_cast<int32_t>(are_scattered ? (token * 7 + i / tokens) % 5
                                                     : (token + 3 * (i / tokens)) / 23);
    }
    return result;
  };
  s.query_group = groups(s.n);
  s.key_group = groups(s.m);
  s.key_group[s.m - 1] = 99;
}

class AttendParts : public AttendTest {
 protected:
  static double tolerance() { return is_bf16() ? 8e-3 : 2e-6; }
  static double gradient_tolerance() { return is_bf16() ? 2.5e-2 : 1e-5; }

  static void expect_output(const Attended& actual, const ForwardResult& expected) {
    expect_close_as_stored(actual.o, expected.o, place().storage, tolerance(), 1.0);
    for (int64_t i = 0; i < actual.lse.numel(); ++i) {
      if (std::isinf(expected.lse[i])) {
        ASSERT_EQ(actual.lse[i], -kInfinity) << "row " << i;
      } else {
        ASSERT_NEAR(actual.lse[i], expected.lse[i], 1e-5 * (1 + std::abs(expected.lse[i])));
      }
    }
  }
  static void expect_exact(const AttendSetup& s) {
    expect_output(attend_dense(s), reference_forward(s));
    const Gradients<float> actual = differentiate_dense(s);
    const Gradients<double> expected = reference_backward(s);
    expect_gradient(actual.dq, expected.dq);
    expect_gradient(actual.dk, expected.dk);
    expect_gradient(actual.dv, expected.dv);
  }
  /// Of terms of order 1, also where they cancel: a row with one key.
  static void expect_gradient(const Array<float>& actual, const Array<double>& expected) {
    expect_close_as_stored(actual, expected, place().storage, gradient_tolerance(), 1.0);
  }
};
INSTANTIATE_TEST_SUITE_P(Place, AttendParts, ::testing::ValuesIn(all_params()), name_of_param);

TEST_P(AttendParts, APatternGivesWhatTheSamePairsAsAListWould) {
  for (const NamedPattern& named : patterns()) {
    SCOPED_TRACE(named.name);
    for (const auto& [n, m, d] : std::vector<std::array<int64_t, 3>>{
             {1, 1, 8}, {3, 1, 5}, {1, 5, 8}, {150, 150, 16}, {131, 67, 33}, {67, 261, 8}}) {
      AttendSetup s = make_setup({.n = n, .m = m, .d = d, .batch = 1, .heads = 2}, 1);
      set_groups(s, n % 2 == 0, n > 100);
      set_pattern(s, named.pattern);
      expect_exact(s);
    }
  }
}

TEST_P(AttendParts, APatternLeavesMaskedKeysAndDroppedPairsOut) {
  for (const NamedPattern& named : patterns()) {
    SCOPED_TRACE(named.name);
    AttendSetup s = make_setup({.n = 90, .m = 90, .d = 16, .batch = 3, .heads = 1}, 2);
    s.dropout = 0.3f;
    s.use_key_mask = true;
    for (int64_t j = 50; j < s.m; ++j) s.key_mask[j] = 0;           // padding at the end
    for (int64_t j = 0; j < s.m; j += 3) s.key_mask[s.m + j] = 0;   // holes
    for (int64_t j = 0; j < s.m; ++j) s.key_mask[2 * s.m + j] = 0;  // nothing left
    set_groups(s, false, false);
    set_pattern(s, named.pattern);
    expect_exact(s);
  }
}

TEST_P(AttendParts, APatternOfEverythingHasTheBitsOfNone) {
  AttendSetup s = make_setup({.n = 70, .m = 70, .d = 16}, 3);
  s.drawn.fill(1);
  s.query_group = Array<int32_t>({s.n});
  s.key_group = Array<int32_t>({s.m});
  const Attended without = attend_dense(s);
  const Gradients<float> gradients = differentiate_dense(s);
  for (const Pattern& all : {Pattern{.kind = PatternKind::kOwnGroup},
                             Pattern{.kind = PatternKind::kWindow, .radius = 70}}) {
    set_pattern(s, all);
    EXPECT_EQ(attend_dense(s).o.values(), without.o.values());
    EXPECT_EQ(attend_dense(s).lse.values(), without.lse.values());
    EXPECT_EQ(differentiate_dense(s).dq.values(), gradients.dq.values());
    EXPECT_EQ(differentiate_dense(s).dk.values(), gradients.dk.values());
    EXPECT_EQ(differentiate_dense(s).dv.values(), gradients.dv.values());
  }
}

TEST_P(AttendParts, APatternRepeatsItsBitsForAnyThreads) {
  AttendSetup s = make_setup({.n = 600, .m = 600, .d = 8}, 4);
  set_groups(s, true, false);
  for (const NamedPattern& named : patterns()) {
    SCOPED_TRACE(named.name);
    set_pattern(s, named.pattern);
    const Attended once = attend_dense(s);
    const Attended again = attend_dense(s, is_cpu() ? 3 : 1);
    EXPECT_EQ(once.o.values(), again.o.values());
    EXPECT_EQ(once.lse.values(), again.lse.values());
    if (!is_cpu()) return;  // one pattern is enough of what takes an emulated GPU long
  }
}

// --- parts ---------------------------------------------------------------------------------------

/// The keys of `s` from `begin` to `end` on.
AttendSetup part_of(const AttendSetup& s, int64_t begin, int64_t end) {
  AttendSetup part = s;
  part.m = end - begin;
  const auto cut = [&](const Array<float>& rows) {
    Array<float> result({s.batch, s.heads, part.m, s.d});
    for (int64_t p = 0; p < s.problems(); ++p) {
      std::copy_n(&rows[(p * s.m + begin) * s.d], part.m * s.d, &result[p * part.m * s.d]);
    }
    return result;
  };
  part.k = cut(s.k);
  part.v = cut(s.v);
  part.key_mask = Array<uint8_t>({s.batch, part.m});
  for (int64_t b = 0; b < s.batch; ++b) {
    std::copy_n(&s.key_mask[b * s.m + begin], part.m, &part.key_mask[b * part.m]);
  }
  part.drawn = Array<uint8_t>({s.problems(), s.n, part.m});
  for (int64_t row = 0; row < s.problems() * s.n; ++row) {
    std::copy_n(&s.drawn[row * s.m + begin], part.m, &part.drawn[row * part.m]);
  }
  return part;
}

Attended merge(const AttendSetup& s, const AttendPlace& place, const std::vector<Attended>& parts) {
  AttendMemory memory(s, place);
  std::vector<AttendPart> given;
  for (const Attended& part : parts) given.push_back({memory.store(part.o), memory.put(part.lse)});
  const RealView o = memory.room(s.q.shape());
  const View<float> lse = memory.room_for_lse();
  kernels::merge_parts(memory.stream(), {.o = o, .lse = lse, .parts = given});
  return {memory.get(ConstRealView(o)), memory.get(lse)};
}

Array<float> delta_of(const AttendSetup& s, const AttendPlace& place, const Array<float>& o) {
  AttendMemory memory(s, place);
  const View<float> delta = memory.room_for_lse();
  kernels::attend_delta(memory.stream(),
                        {.delta = delta, .dout = memory.store(s.dout), .o = memory.store(o)});
  return memory.get(delta);
}

/// A part's gradients, given what the whole is.
Gradients<float> differentiate_part(const AttendSetup& s, const AttendPlace& place,
                                    const Array<float>& lse, const Array<float>& delta) {
  AttendMemory memory(s, place);
  const RealView dq = memory.room(s.q.shape());
  const RealView dk = memory.room(s.k.shape());
  const RealView dv = memory.room(s.k.shape());
  kernels::attend_dense_backward(memory.stream(), {.dq = dq,
                                                   .dk = dk,
                                                   .dv = dv,
                                                   .q = memory.store(s.q),
                                                   .k = memory.store(s.k),
                                                   .v = memory.store(s.v),
                                                   .dout = memory.store(s.dout),
                                                   .lse = memory.put(lse),
                                                   .delta = memory.put(delta),
                                                   .key_mask = memory.key_mask(),
                                                   .pattern = memory.pattern(),
                                                   .scale = s.scale,
                                                   .dropout = memory.dropout(),
                                                   .scratch = &memory.scratch()});
  const auto get = [&](const ConstRealView& x) { return memory.get(x); };
  const Gradients<float> none = make_gradients<float>(s);
  return {get(dq), get(dk), get(dv), none.row_grad, none.column_grad};
}

/// Attention to parts, merged, forward and backward: dq is their sum, dk and dv are whose keys they
/// are.
struct Merged {
  Attended out;
  Array<float> dq;
  std::vector<Gradients<float>> gradients;
};

Merged attend_merged(const AttendSetup& whole, const AttendPlace& place,
                     const std::vector<AttendSetup>& parts) {
  std::vector<Attended> outputs;
  for (const AttendSetup& part : parts) outputs.push_back(test::attend_dense(part, place));
  Merged merged{merge(whole, place, outputs), Array<float>(whole.q.shape()), {}};
  const Array<float> delta = delta_of(whole, place, merged.out.o);
  for (const AttendSetup& part : parts) {
    merged.gradients.push_back(differentiate_part(part, place, merged.out.lse, delta));
    const Array<float>& dq = merged.gradients.back().dq;
    for (int64_t x = 0; x < dq.numel(); ++x) merged.dq[x] += dq[x];
  }
  return merged;
}

TEST_P(AttendParts, KeysInPartsGiveWhatOnePassGives) {
  for (const auto& [first, second] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 2}, {64, 130}, {65, 129}}) {
    AttendSetup s = make_setup({.n = 75, .m = 131, .d = 16}, 5);
    s.drawn.fill(1);
    s.use_key_mask = true;
    for (int64_t j = 0; j < s.m; j += 5) s.key_mask[j] = 0;
    const Merged merged = attend_merged(
        s, place(), {part_of(s, 0, first), part_of(s, first, second), part_of(s, second, s.m)});
    expect_output(merged.out, reference_forward(s));
    const Gradients<double> expected = reference_backward(s);
    expect_gradient(merged.dq, expected.dq);
    int64_t begin = 0;
    for (const Gradients<float>& part : merged.gradients) {
      const int64_t count = part.dk.shape()[2];
      for (int64_t p = 0; p < s.problems(); ++p) {
        for (int64_t x = 0; x < count * s.d; ++x) {
          const int64_t whole = (p * s.m + begin) * s.d + x;
          const int64_t own = p * count * s.d + x;
          ASSERT_NEAR(part.dk[own], expected.dk[whole], 3 * gradient_tolerance());
          ASSERT_NEAR(part.dv[own], expected.dv[whole], 10 * gradient_tolerance());
        }
      }
      begin += count;
    }
  }
}

TEST_P(AttendParts, OwnAndOtherGroupsMakeUpTheWhole) {
  AttendSetup s = make_setup({.n = 100, .m = 100, .d = 16}, 6);
  set_groups(s, false, true);
  AttendSetup own = s;
  set_pattern(own, {.kind = PatternKind::kOwnGroup});
  AttendSetup other = s;
  set_pattern(other, {.kind = PatternKind::kOtherGroups});
  s.drawn.fill(1);
  const Merged merged = attend_merged(s, place(), {own, other});
  expect_output(merged.out, reference_forward(s));
  const Gradients<double> expected = reference_backward(s);
  Array<float> dk(s.k.shape()), dv(s.k.shape());
  for (const Gradients<float>& part : merged.gradients) {
    for (int64_t x = 0; x < dk.numel(); ++x) {
      dk[x] += part.dk[x];
      dv[x] += part.dv[x];
    }
  }
  expect_gradient(merged.dq, expected.dq);
  expect_gradient(dk, expected.dk);
  expect_gradient(dv, expected.dv);
}

/// Combiner's causal shape: own block up to oneself, and a summary of each earlier block.
TEST_P(AttendParts, SummariesOfEarlierBlocksJoinTheOwnBlock) {
  constexpr int64_t kBlock = 16;
  AttendSetup tokens = make_setup({.n = 90, .m = 90, .d = 16}, 7);
  const int64_t blocks = (tokens.n + kBlock - 1) / kBlock;
  AttendSetup summaries = make_setup({.n = 90, .m = blocks, .d = 16}, 8);
  summaries.q = tokens.q;
  summaries.dout = tokens.dout;
  tokens.query_group = Array<int32_t>({tokens.n});
  for (int64_t i = 0; i < tokens.n; ++i) {
    tokens.query_group[i] = static_cast<int32_t>(i / kBlock);
  }
  tokens.key_group = summaries.query_group = tokens.query_group;
  summaries.key_group = Array<int32_t>({blocks});
  for (int64_t r = 0; r < blocks; ++r) summaries.key_group[r] = static_cast<int32_t>(r);
  set_pattern(tokens, {.kind = PatternKind::kOwnGroup, .is_causal = true});
  set_pattern(summaries, {.kind = PatternKind::kEarlierGroups});
  const Merged merged = attend_merged(tokens, place(), {tokens, summaries});

  AttendSetup whole = make_setup({.n = 90, .m = 90 + blocks, .d = 16}, 9);
  whole.q = tokens.q;
  whole.dout = tokens.dout;
  for (int64_t p = 0; p < whole.problems(); ++p) {
    const auto join = [&](Array<float>& to, const Array<float>& a, const Array<float>& b) {
      float* row = &to[p * whole.m * whole.d];
      row = std::copy_n(&a[p * tokens.m * whole.d], tokens.m * whole.d, row);
      std::copy_n(&b[p * blocks * whole.d], blocks * whole.d, row);
    };
    join(whole.k, tokens.k, summaries.k);
    join(whole.v, tokens.v, summaries.v);
    for (int64_t i = 0; i < whole.n; ++i) {
      uint8_t* row = &whole.drawn[(p * whole.n + i) * whole.m];
      row = std::copy_n(&tokens.drawn[(p * whole.n + i) * tokens.m], tokens.m, row);
      std::copy_n(&summaries.drawn[(p * whole.n + i) * blocks], blocks, row);
    }
  }
  expect_output(merged.out, reference_forward(whole));
  expect_gradient(merged.dq, reference_backward(whole).dq);
}

TEST_P(AttendParts, DeltaGivenHasTheBitsOfDeltaMade) {
  AttendSetup s = make_setup({.n = 70, .m = 90, .d = 33}, 10);
  s.dropout = 0.2f;
  const Attended out = attend_dense(s);
  const Gradients<float> made = differentiate_dense(s);
  const Gradients<float> given =
      differentiate_part(s, place(), out.lse, delta_of(s, place(), out.o));
  EXPECT_EQ(given.dq.values(), made.dq.values());
  EXPECT_EQ(given.dk.values(), made.dk.values());
  EXPECT_EQ(given.dv.values(), made.dv.values());
}

TEST_P(AttendParts, EmptyPartsAddNothingAndAPartAloneStaysAsItIs) {
  AttendSetup s = make_setup({.n = 9, .m = 20, .d = 7}, 11);
  const Attended full = attend_dense(s);
  Attended empty = full;
  std::fill(empty.o.values().begin(), empty.o.values().end(), 0.0f);
  std::fill(empty.lse.values().begin(), empty.lse.values().end(), -kInfinity);
  for (const std::vector<Attended>& parts :
       {std::vector{full}, std::vector{full, empty}, std::vector{empty, empty, full, empty}}) {
    const Attended merged = merge(s, place(), parts);
    EXPECT_EQ(merged.o.values(), full.o.values());
    EXPECT_EQ(merged.lse.values(), full.lse.values());
  }
  const Attended nothing = merge(s, place(), {empty, empty});
  EXPECT_EQ(nothing.o.values(), empty.o.values());
  EXPECT_EQ(nothing.lse.values(), empty.lse.values());
}

TEST_P(AttendParts, MergeShowsANaNAndMayOverwriteAPart) {
  AttendSetup s = make_setup({.n = 9, .m = 20, .d = 7}, 12);
  Attended first = attend_dense(part_of(s, 0, 8)), second = attend_dense(part_of(s, 8, 20));
  const Attended expected = merge(s, place(), {first, second});
  {
    AttendMemory memory(s, place());
    const RealView o = memory.room(s.q.shape());
    const View<float> lse = memory.put(second.lse);
    memory.stream().synchronize();
    with_real_type(place().storage, [&](auto zero) {
      using T = decltype(zero);
      copy_bytes(memory.stream(), o.data, memory.store(second.o).template as<T>().data, o.bytes());
    });
    const AttendPart parts[] = {{memory.store(first.o), memory.put(first.lse)}, {o, lse}};
    kernels::merge_parts(memory.stream(), {.o = o, .lse = lse, .parts = parts});
    EXPECT_EQ(memory.get(ConstRealView(o)).values(), expected.o.values());
    EXPECT_EQ(memory.get(lse).values(), expected.lse.values());
  }
  first.lse[3] = std::nanf("");
  first.o[3 * s.d] = std::nanf("");
  second.lse[3] = -kInfinity;
  const Attended spoilt = merge(s, place(), {first, second});
  EXPECT_TRUE(std::isnan(spoilt.lse[3]));
  EXPECT_TRUE(std::isnan(spoilt.o[3 * s.d]));
  EXPECT_EQ(spoilt.lse[4], expected.lse[4]);
}

TEST(Parts, RefuseWhatDoesNotFit) {
  const AttendSetup s = make_setup({.n = 5, .m = 6, .d = 4}, 13);
  const Stream meta(kMetaDevice);
  Arena scratch("scratch");
  Array<float> o(s.q.shape()), lse({s.batch, s.heads, s.n}), narrow({1, 2, 5, 3});
  const auto dense = [&](const Pattern& pattern) {
    kernels::attend_dense(meta, {.o = o,
                                 .lse = lse,
                                 .q = s.q,
                                 .k = s.k,
                                 .v = s.v,
                                 .pattern = pattern,
                                 .scratch = &scratch});
  };
  EXPECT_THROW(dense({.kind = PatternKind::kWindow, .radius = -1}), Error);
  EXPECT_THROW(dense({.kind = PatternKind::kWindow, .dilation = 0}), Error);
  EXPECT_THROW(dense({.kind = PatternKind::kOwnGroup}), ShapeError);
  const Array<int32_t> five({5}), six({6});
  EXPECT_THROW(dense({.kind = PatternKind::kOwnGroup, .query_group = six, .key_group = six}),
               ShapeError);
  dense({.kind = PatternKind::kOwnGroup, .query_group = five, .key_group = six});
  const AttendPart part{o, lse}, thin{narrow, lse};
  const auto join = [&](std::span<const AttendPart> parts) {
    kernels::merge_parts(meta, {.o = o, .lse = lse, .parts = parts});
  };
  EXPECT_THROW(join({}), Error);
  EXPECT_THROW(join(std::vector(5, part)), Error);
  EXPECT_THROW(join(std::vector{part, thin}), ShapeError);
  EXPECT_THROW(kernels::attend_delta(meta, {.delta = lse, .dout = narrow, .o = o}), ShapeError);
}

}  // namespace
}  // namespace stipple::test
