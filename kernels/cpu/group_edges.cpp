// SPDX-License-Identifier: Apache-2.0
// A problem at a time: the keys of each group by a counting sort, which leaves them ascending; then
// row by row the lists of the query's groups become one. A query with one group copies its list;
// with several, a set of keys takes them in and gives them back in order, each once.
#include "kernels/group_edges.h"

#include <algorithm>
#include <array>

#include "kernels/cpu/edges.h"
#include "kernels/cpu/masks.h"
#include "kernels/cpu/sample/rows.h"
#include "kernels/predict.h"

namespace stipple::kernels::cpu {
namespace {

/// Memory of each worker.
struct GroupScratch {
  View<int32_t> offsets;   // [workers, groups + 2]
  View<uint32_t> members;  // [workers, M T]
  View<uint64_t> set;      // [workers, KeySet::num_words(M)]
  View<uint32_t> row;      // [workers, M]
};

GroupScratch group_scratch(Arena& arena, const WriteGroupEdges& args, int64_t workers) {
  const int64_t m = args.edges.num_keys;
  return {.offsets = arena.alloc<int32_t>({workers, args.num_groups + 2}),
          .members = arena.alloc<uint32_t>({workers, m * args.key_groups.shape[3]}),
          .set = arena.alloc<uint64_t>({workers, KeySet::num_words(std::max<int64_t>(m, 1))}),
          .row = arena.alloc<uint32_t>({workers, m})};
}

struct Keys {
  const uint32_t* begin;
  const uint32_t* end;
};

/// The real keys of each group, ascending.
class GroupMembers {
 public:
  GroupMembers(const WriteGroupEdges& args, int64_t p, const uint8_t* mask, int32_t* offsets,
               uint32_t* members)
      : offsets_(offsets), members_(members) {
    const int64_t m = args.edges.num_keys, t = args.key_groups.shape[3];
    const int32_t* groups = args.key_groups.data + p * m * t;
    const auto for_each = [&](const auto& visit) {
      for (int64_t e = 0; e < m * t; ++e) {
        if (groups[e] != kNoGroup && is_real(mask, e / t))
          visit(groups[e], static_cast<uint32_t>(e / t));
      }
    };
    std::fill_n(offsets_, args.num_groups + 2, 0);
    for_each([&](int32_t group, uint32_t) { ++offsets_[group + 2]; });
    for (int64_t g = 2; g < args.num_groups + 2; ++g) offsets_[g] += offsets_[g - 1];
    for_each([&](int32_t group, uint32_t key) { members_[offsets_[group + 1]++] = key; });
  }
  Keys of(int32_t group) const {
    return {members_ + offsets_[group], members_ + offsets_[group + 1]};
  }

 private:
  int32_t* offsets_;
  uint32_t* members_;
};

/// Tokens by group, those of none last.
void write_order(const int32_t* groups, int64_t tokens, int64_t num_groups, int32_t* order,
                 int32_t* ptr) {
  const auto at = [&](int64_t i) { return groups[i] == kNoGroup ? num_groups : groups[i]; };
  std::fill_n(ptr, num_groups + 2, 0);
  for (int64_t i = 0; i < tokens; ++i) ++ptr[at(i) + 1];
  for (int64_t g = 0; g <= num_groups; ++g) ptr[g + 1] += ptr[g];
  // Each start moves to the next one's place, and back.
  for (int64_t i = 0; i < tokens; ++i) order[ptr[at(i)]++] = static_cast<int32_t>(i);
  for (int64_t g = num_groups; g >= 0; --g) ptr[g + 1] = ptr[g];
  ptr[0] = 0;
}

void write_orders(const WriteGroupEdges& args, int64_t p) {
  const EdgeGroups& groups = args.edges.groups;
  const int64_t n = args.edges.num_queries, m = args.edges.num_keys;
  write_order(args.query_groups.data + p * n, n, args.num_groups, groups.queries.at(p).data,
              groups.query_ptr.at(p).data);
  write_order(args.key_groups.data + p * m, m, args.num_groups, groups.keys.at(p).data,
              groups.key_ptr.at(p).data);
}

class GroupGraphWriter {
 public:
  GroupGraphWriter(const WriteGroupEdges& args, const GroupScratch& scratch, int64_t p, int worker)
      : args_(args),
        m_(args.edges.num_keys),
        slots_(args.query_groups.shape[3]),
        groups_(args.query_groups.data + p * args.edges.num_queries * slots_),
        queries_(mask_row(args.query_mask, p / args.query_groups.shape[1])),
        keys_(mask_row(args.key_mask, p / args.query_groups.shape[1])),
        members_(args, p, keys_, scratch.offsets.at(worker).data, scratch.members.at(worker).data),
        set_(scratch.set.at(worker).data, std::max<int64_t>(m_, 1)),
        row_(scratch.row.at(worker).data),
        writer_(args.edges, p) {}

  void write() {
    for (int64_t i = 0; i < args_.edges.num_queries; ++i) {
      const int64_t degree = is_real(queries_, i) ? take_row(i) : 0;
      std::copy_n(row_, degree, writer_.begin_row(degree));
      writer_.end_row(degree);
    }
  }

 private:
  /// Keys that the query has in any case: two ranges, the second behind the first.
  std::array<Range, 2> always(int64_t i, int64_t limit) const {
    const math::AlwaysThere& always = args_.always;
    if (i < always.globals) return {Range{0, limit}, Range{limit, limit}};
    const int64_t globals = std::min(always.globals, limit);
    if (always.radius < 0) return {Range{0, globals}, Range{limit, limit}};
    const int64_t first = std::clamp(i - always.radius, globals, limit);
    return {Range{0, globals}, Range{first, std::clamp(i + always.radius + 1, first, limit)}};
  }

  int64_t take_row(int64_t i) {
    const int64_t limit = args_.is_causal ? std::min(i + 1, m_) : m_;
    const std::array<Range, 2> ranges = always(i, limit);
    const int32_t* own = groups_ + i * slots_;
    return slots_ == 1 ? take_one_group(own[0], ranges, limit) : take_groups(own, ranges, limit);
  }

  Keys members_below(int32_t group, int64_t limit) const {
    if (group < 0) return {nullptr, nullptr};
    const Keys all = members_.of(group);
    if (limit == m_) return all;
    return {all.begin, std::lower_bound(all.begin, all.end, static_cast<uint32_t>(limit))};
  }

  /// The list, with the ranges in place of what it has there.
  int64_t take_one_group(int32_t group, const std::array<Range, 2>& ranges, int64_t limit) {
    uint32_t* out = row_;
    Keys rest = members_below(group, limit);
    for (const Range& range : ranges) {
      if (range.size() == 0) continue;
      const auto* middle =
          std::lower_bound(rest.begin, rest.end, static_cast<uint32_t>(range.begin));
      out = std::copy(rest.begin, middle, out);
      for (int64_t j = range.begin; j < range.end; ++j)
        if (is_real(keys_, j)) *out++ = static_cast<uint32_t>(j);
      rest.begin = std::lower_bound(middle, rest.end, static_cast<uint32_t>(range.end));
    }
    return std::copy(rest.begin, rest.end, out) - row_;
  }

  int64_t take_groups(const int32_t* own, const std::array<Range, 2>& ranges, int64_t limit) {
    for (const Range& range : ranges) {
      for (int64_t j = range.begin; j < range.end; ++j)
        if (is_real(keys_, j)) set_.insert(static_cast<uint32_t>(j));
    }
    for (int64_t t = 0; t < slots_; ++t) {
      const Keys keys = members_below(own[t], limit);
      for (const uint32_t* key = keys.begin; key != keys.end; ++key) set_.insert(*key);
    }
    int64_t words = 0;
    return set_.take(row_, words);
  }

  const WriteGroupEdges& args_;
  int64_t m_, slots_;
  const int32_t* groups_;  // [N, T]
  const uint8_t* queries_;
  const uint8_t* keys_;
  GroupMembers members_;
  KeySet set_;
  uint32_t* row_;
  CsrWriter writer_;
};

}  // namespace

void write_group_edges(const Stream& stream, const WriteGroupEdges& args) {
  const Arena::Scope scope(*args.scratch);
  const GroupScratch scratch = group_scratch(*args.scratch, args, stream.threads());
  stream.parallel_for(args.edges.num_problems(), [&](int64_t p, int worker) {
    args.edges.form[p] = EdgeForm::kCsr;
    GroupGraphWriter(args, scratch, p, worker).write();
    if (!args.edges.groups.empty()) write_orders(args, p);
  });
}

}  // namespace stipple::kernels::cpu
