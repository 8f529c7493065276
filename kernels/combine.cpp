// SPDX-License-Identifier: Apache-2.0
#include "kernels/combine.h"

#include "core/dispatch.h"
#include "kernels/checks.h"

namespace stipple::kernels {
namespace {

void check_partition(const char* op, const Partition& p, int64_t length) {
  STIPPLE_CHECK_AS(ShapeError, p.length == length, op, ": partition is of ", p.length,
                   " tokens, expected ", length);
  STIPPLE_CHECK(p.globals >= 0 && p.globals <= length && p.block >= 1 && p.columns >= 1 &&
                    p.shift >= 0 && p.shift < p.block,
                op, ": a partition with ", p.globals, " global tokens, blocks of ", p.block,
                " shifted by ", p.shift, " and ", p.columns, " columns");
}

void expect_of_tokens(const char* op, const char* name, ConstRealView x, const Shape& expected) {
  STIPPLE_CHECK_AS(ShapeError, x.shape == expected, op, ": ", name, " has shape ", x.shape.str(),
                   ", expected ", expected.str());
}

Shape regions_of(const Shape& tokens, const Partition& p) {
  return {tokens[0], tokens[1], p.num_regions(), tokens[3]};
}

/// What every operation has; returns the shape of q, k, v.
template <class Args>
Shape check_common(const char* op, const Args& a) {
  const Shape& shape = a.k.shape;
  STIPPLE_CHECK_AS(ShapeError, shape.rank() == 4, op, ": k has shape ", shape.str(),
                   ", expected [B, H, N, D]");
  expect_of_tokens(op, "v", a.v, shape);
  check_partition(op, a.partition, shape[2]);
  check_mask(op, "mask", a.mask, shape[0], shape[2]);
  STIPPLE_CHECK(a.dropout.rate >= 0.0f && a.dropout.rate < 1.0f, op, ": dropout rate ",
                a.dropout.rate, " must be in [0, 1)");
  STIPPLE_CHECK(a.scratch != nullptr, op, ": needs a scratch arena");
  return shape;
}

void check_summaries(const char* op, const Summaries& s, const Shape& tokens,
                     const Partition& partition) {
  const Shape regions = regions_of(tokens, partition);
  expect_of_tokens(op, "query of the summaries", s.query, regions);
  expect_of_tokens(op, "key of the summaries", s.key, regions);
  expect_of_tokens(op, "value of the summaries", s.value, regions);
  STIPPLE_CHECK_AS(ShapeError, s.tokens.shape == Shape({tokens[0], regions[2]}), op,
                   ": tokens of the summaries have shape ", s.tokens.shape.str(), ", expected ",
                   Shape({tokens[0], regions[2]}).str());
}

template <class Args>
void check_combine(const char* op, const Args& a) {
  const Shape tokens = check_common(op, a);
  const Shape regions = regions_of(tokens, a.partition);
  expect_of_tokens(op, "q", a.q, tokens);
  expect_of_tokens(op, "region_key", a.region_key, regions);
  expect_of_tokens(op, "region_value", a.region_value, regions);
  if (!a.region_q.empty()) expect_of_tokens(op, "region_q", a.region_q, tokens);
  STIPPLE_CHECK_AS(ShapeError, a.region_tokens.shape == Shape({tokens[0], regions[2]}), op,
                   ": region_tokens has shape ", a.region_tokens.shape.str(), ", expected ",
                   Shape({tokens[0], regions[2]}).str());
  STIPPLE_CHECK_AS(ShapeError, a.lse.shape == Shape({tokens[0], tokens[1], tokens[2]}), op,
                   ": lse has shape ", a.lse.shape.str(), ", expected ",
                   Shape({tokens[0], tokens[1], tokens[2]}).str());
  check_same_storage(op, {a.q, a.k, a.v, a.o, a.region_q, a.region_key, a.region_value});
}

/// Of both take_keys.
void check_taken(ConstRealView regions, ConstRealView tokens, View<const int32_t> from,
                 View<const int32_t> region_tokens) {
  const Shape& r = regions.shape;
  const Shape& t = tokens.shape;
  STIPPLE_CHECK_AS(ShapeError, r.rank() == 4 && t.rank() == 4, "take_keys: keys have shapes ",
                   r.str(), " and ", t.str(), ", expected [B, H, R, D] and [B, H, N, D]");
  expect_of_tokens("take_keys", "the keys of tokens", tokens, {r[0], r[1], t[2], r[3]});
  STIPPLE_CHECK_SHAPE("take_keys", from, (r));
  STIPPLE_CHECK_SHAPE("take_keys", region_tokens, ({r[0], r[2]}));
  check_same_storage("take_keys", {regions, tokens});
}

}  // namespace

Summaries alloc_summaries(Arena& arena, Precision precision, int64_t batch, int64_t heads,
                          int64_t dim, const Partition& partition, RegionPool pool, RegionKey key) {
  const int64_t regions = partition.num_regions();
  const Shape shape = {batch, heads, regions, dim};
  const bool picks = pool == RegionPool::kMax || partition.kind == PartitionKind::kRowMajor;
  Summaries s;
  s.query = arena.alloc(precision, shape);
  s.key = arena.alloc(precision, shape);
  s.value = arena.alloc(precision, shape);
  if (picks) s.query_from = arena.alloc<int32_t>(shape);
  if (picks && key == RegionKey::kPooled) s.key_from = arena.alloc<int32_t>(shape);
  s.lse = arena.alloc<float>({batch, heads, regions});
  s.tokens = arena.alloc<int32_t>({batch, regions});
  return s;
}

void summarize_regions(const Stream& stream, const SummarizeRegions& args) {
  const Shape tokens = check_common("summarize_regions", args);
  expect_of_tokens("summarize_regions", "q", args.q, tokens);
  if (!args.pooled_k.empty())
    expect_of_tokens("summarize_regions", "pooled_k", args.pooled_k, tokens);
  check_summaries("summarize_regions", args.out, tokens, args.partition);
  check_same_storage("summarize_regions", {args.q, args.k, args.v, args.pooled_k, args.out.key,
                                           args.out.value, args.out.query});
  STIPPLE_DISPATCH(stream, summarize_regions, args);
}

void summarize_regions_backward(const Stream& stream, const SummarizeRegionsBackward& args) {
  const char* op = "summarize_regions_backward";
  const Shape tokens = check_common(op, args);
  const Shape regions = regions_of(tokens, args.partition);
  check_summaries(op, args.saved, tokens, args.partition);
  for (const auto& [name, x] : {std::pair{"dq", args.dq}, {"dk", args.dk}, {"dv", args.dv}})
    expect_of_tokens(op, name, x, tokens);
  if (!args.dpooled_k.empty()) expect_of_tokens(op, "dpooled_k", args.dpooled_k, tokens);
  expect_of_tokens(op, "dkey", args.dkey, regions);
  expect_of_tokens(op, "dvalue", args.dvalue, regions);
  check_same_storage(
      op, {args.k, args.v, args.dq, args.dk, args.dv, args.dkey, args.dvalue, args.saved.query});
  STIPPLE_DISPATCH(stream, summarize_regions_backward, args);
}

void take_keys(const Stream& stream, const TakeKeys& args) {
  check_taken(args.key, args.token_key, args.from, args.region_tokens);
  STIPPLE_DISPATCH(stream, take_keys, args);
}

void take_keys_backward(const Stream& stream, const TakeKeysBackward& args) {
  check_taken(args.dkey, args.dtoken_key, args.from, args.region_tokens);
  STIPPLE_DISPATCH(stream, take_keys_backward, args);
}

void combine(const Stream& stream, const Combine& args) {
  check_combine("combine", args);
  expect_of_tokens("combine", "o", args.o, args.q.shape);
  if (!args.facts.empty()) {
    const Shape heads = {args.q.shape[1]};
    STIPPLE_CHECK_SHAPE("combine", args.facts.direct_weight, (heads));
    STIPPLE_CHECK_SHAPE("combine", args.facts.region_entropy, (heads));
    STIPPLE_CHECK_SHAPE("combine", args.facts.queries, (heads));
    STIPPLE_CHECK_SHAPE("combine", args.facts.with_regions, (heads));
  }
  STIPPLE_DISPATCH(stream, combine, args);
}

void combine_backward(const Stream& stream, const CombineBackward& args) {
  const char* op = "combine_backward";
  check_combine(op, args);
  for (const auto& [name, x] : {std::pair<const char*, ConstRealView>{"dq", args.dq},
                                {"dk", args.dk},
                                {"dv", args.dv},
                                {"o", args.o},
                                {"dout", args.dout}})
    expect_of_tokens(op, name, x, args.q.shape);
  expect_of_tokens(op, "dregion_key", args.dregion_key, args.region_key.shape);
  expect_of_tokens(op, "dregion_value", args.dregion_value, args.region_key.shape);
  if (!args.dregion_q.empty()) expect_of_tokens(op, "dregion_q", args.dregion_q, args.q.shape);
  check_same_storage(op, {args.q, args.dout, args.dq, args.dk, args.dv, args.dregion_q,
                          args.dregion_key, args.dregion_value});
  STIPPLE_DISPATCH(stream, combine_backward, args);
}

}  // namespace stipple::kernels
