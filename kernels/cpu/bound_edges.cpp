// SPDX-License-Identifier: Apache-2.0
// A problem at a time: groups' members by a counting sort, then their boxes and balls, channel by
// channel so that the bounds of all groups are made side by side; then row by row the members of the
// groups that stay.
#include "kernels/bound_edges.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/edges.h"
#include "kernels/cpu/masks.h"
#include "kernels/cpu/sample/rows.h"
#include "kernels/math/bound.h"
#include "kernels/predict.h"

namespace stipple::kernels::cpu {
namespace {

/// Memory of each worker.
struct BoundScratch {
  View<float> low, high, mean;  // [workers, D, G]
  View<float> radius, longest;  // [workers, G]
  View<float> box, ball;        // [workers, G]  of a row
  View<int32_t> offsets;        // [workers, G + 2]
  View<uint32_t> members, row;  // [workers, M]
  View<uint64_t> set;           // [workers, KeySet::num_words(M)]
};

BoundScratch bound_scratch(Arena& arena, const WriteBoundEdges& args, int64_t workers) {
  const int64_t g = args.num_groups, d = args.q.shape[3], m = args.edges.num_keys;
  const auto channels = [&] { return arena.alloc<float>({workers, d, g}); };
  const auto groups = [&] { return arena.alloc<float>({workers, g}); };
  return {.low = channels(),
          .high = channels(),
          .mean = channels(),
          .radius = groups(),
          .longest = groups(),
          .box = groups(),
          .ball = groups(),
          .offsets = arena.alloc<int32_t>({workers, g + 2}),
          .members = arena.alloc<uint32_t>({workers, m}),
          .row = arena.alloc<uint32_t>({workers, m}),
          .set = arena.alloc<uint64_t>({workers, KeySet::num_words(std::max<int64_t>(m, 1))})};
}

class BoundGraphWriter {
 public:
  BoundGraphWriter(const WriteBoundEdges& args, const BoundScratch& scratch, int64_t p, int worker)
      : args_(args),
        n_(args.edges.num_queries),
        m_(args.edges.num_keys),
        d_(args.q.shape[3]),
        groups_(args.num_groups),
        q_(args.q.floats().data + p * n_ * d_),
        k_(args.k.floats().data + p * m_ * d_),
        tau_(args.tau.data + p * n_),
        queries_(mask_row(args.query_mask, p / args.q.shape[1])),
        keys_(mask_row(args.key_mask, p / args.q.shape[1])),
        low_(scratch.low.at(worker).data),
        high_(scratch.high.at(worker).data),
        mean_(scratch.mean.at(worker).data),
        radius_(scratch.radius.at(worker).data),
        longest_(scratch.longest.at(worker).data),
        box_(scratch.box.at(worker).data),
        ball_(scratch.ball.at(worker).data),
        offsets_(scratch.offsets.at(worker).data),
        members_(scratch.members.at(worker).data),
        row_(scratch.row.at(worker).data),
        set_(scratch.set.at(worker).data, std::max<int64_t>(m_, 1)),
        writer_(args.edges, p) {
    const int64_t head = p % args.q.shape[1];
    factor_ = (args.heads.alpha[head] - 1.0f) * args.scale;
    if (!args.heads.temperature.empty()) factor_ *= args.heads.temperature[head];
    sort_members(p);
    for (int64_t g = 0; g < groups_; ++g) bound_group(g);
  }

  void write() {
    for (int64_t i = 0; i < n_; ++i) {
      const int64_t degree = is_real(queries_, i) ? take_row(i) : 0;
      std::copy_n(row_, degree, writer_.begin_row(degree));
      writer_.end_row(degree);
    }
  }

 private:
  void sort_members(int64_t p) {
    const int64_t slots = args_.key_groups.shape[3];
    const int32_t* of_keys = args_.key_groups.data + p * m_ * slots;
    std::fill_n(offsets_, groups_ + 2, 0);
    const auto is_in = [&](int64_t j) {
      return of_keys[j * slots] != kNoGroup && is_real(keys_, j);
    };
    for (int64_t j = 0; j < m_; ++j)
      if (is_in(j)) ++offsets_[of_keys[j * slots] + 2];
    for (int64_t g = 2; g < groups_ + 2; ++g) offsets_[g] += offsets_[g - 1];
    for (int64_t j = 0; j < m_; ++j)
      if (is_in(j)) members_[offsets_[of_keys[j * slots] + 1]++] = static_cast<uint32_t>(j);
  }

  void bound_group(int64_t g) {
    const int32_t first = offsets_[g], last = offsets_[g + 1];
    const auto size = static_cast<float>(last - first);
    for (int64_t c = 0; c < d_; ++c) {
      float low = std::numeric_limits<float>::infinity(), high = -low, sum = 0.0f;
      for (int32_t e = first; e < last; ++e) {
        const float x = k_[members_[e] * d_ + c];
        low = std::min(low, x);
        high = std::max(high, x);
        sum += x;
      }
      // Of an empty group nothing, so that no infinity meets a zero.
      low_[c * groups_ + g] = first == last ? 0.0f : low;
      high_[c * groups_ + g] = first == last ? 0.0f : high;
      mean_[c * groups_ + g] = first == last ? 0.0f : sum / size;
    }
    float radius = 0.0f, longest = 0.0f, all = 0.0f;
    for (int32_t e = first; e < last; ++e) {
      float squares = 0.0f, length = 0.0f;
      for (int64_t c = 0; c < d_; ++c) {
        const float x = k_[members_[e] * d_ + c], away = x - mean_[c * groups_ + g];
        squares += away * away;
        length += x * x;
      }
      radius = std::max(radius, squares);
      longest = std::max(longest, length);
      all += squares + length;
    }
    // Keys that are no numbers, or too long, have no ball.
    radius_[g] = std::isfinite(all) ? std::sqrt(radius) : std::numeric_limits<float>::quiet_NaN();
    longest_[g] = std::sqrt(longest);
  }

  int64_t take_row(int64_t i) {
    const float* q = q_ + i * d_;
    std::fill_n(box_, groups_, 0.0f);
    std::fill_n(ball_, groups_, 0.0f);
    float squares = 0.0f;
    for (int64_t c = 0; c < d_; ++c) {
      const float x = factor_ * q[c];
      squares += x * x;
      const float* extreme = (x > 0.0f ? high_ : low_) + c * groups_;
      const float* mean = mean_ + c * groups_;
      for (int64_t g = 0; g < groups_; ++g) {
        box_[g] += x * extreme[g];
        ball_[g] += x * mean[g];
      }
    }
    const float length = std::sqrt(squares);
    const auto limit = static_cast<uint32_t>(args_.is_causal ? std::min(i + 1, m_) : m_);
    for (int64_t g = 0; g < groups_; ++g) {
      const float slack = math::bound_slack(length, longest_[g], tau_[i], d_);
      if (!math::may_hold(box_[g], ball_[g] + length * radius_[g], slack, tau_[i])) continue;
      for (int32_t e = offsets_[g]; e < offsets_[g + 1] && members_[e] < limit; ++e)
        set_.insert(members_[e]);
    }
    int64_t words = 0;
    return set_.take(row_, words);
  }

  const WriteBoundEdges& args_;
  int64_t n_, m_, d_, groups_;
  const float *q_, *k_, *tau_;
  const uint8_t *queries_, *keys_;
  float *low_, *high_, *mean_, *radius_, *longest_, *box_, *ball_;
  int32_t* offsets_;
  uint32_t *members_, *row_;
  KeySet set_;
  CsrWriter writer_;
  float factor_ = 1.0f;
};

}  // namespace

void write_bound_edges(const Stream& stream, const WriteBoundEdges& args) {
  const Arena::Scope scope(*args.scratch);
  const BoundScratch scratch = bound_scratch(*args.scratch, args, stream.threads());
  stream.parallel_for(args.edges.num_problems(), [&](int64_t p, int worker) {
    args.edges.form[p] = EdgeForm::kCsr;
    BoundGraphWriter(args, scratch, p, worker).write();
  });
}

}  // namespace stipple::kernels::cpu
