// SPDX-License-Identifier: Apache-2.0
// Entmax attention in double precision, straight from its definition, and calls of the real
// operations on the same numbers.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "kernels/attend_entmax.h"
#include "tests/kernels/attend_reference.h"
#include "tests/kernels/entmax_reference.h"

namespace stipple::test {

struct EntmaxSetup : AttendSetup {
  Array<float> alpha;        // [H]
  Array<float> temperature;  // [H]  or not given
};

inline EntmaxSetup make_entmax_setup(const AttendSize& size, float alpha, uint64_t seed) {
  EntmaxSetup s;
  static_cast<AttendSetup&>(s) = make_setup(size, seed);
  s.alpha = Array<float>({size.heads});
  s.alpha.fill(alpha);
  return s;
}

// --- the definition ------------------------------------------------------------------------------

struct EntmaxForward {
  Array<double> o, p;  // p: [B * H, N, M] before dropout
};

inline EntmaxForward entmax_reference_forward(const EntmaxSetup& s) {
  EntmaxForward out{Array<double>(s.q.shape()), Array<double>({s.problems(), s.n, s.m})};
  for (int64_t p = 0; p < s.problems(); ++p) {
    const kernels::reference::Attention a = reference(s, p);
    const int64_t head = p % s.heads;
    const double temperature = s.temperature.view().empty() ? 1.0 : double{s.temperature[head]};
    for (int64_t i = 0; i < s.n; ++i) {
      std::vector<double> z(static_cast<size_t>(s.m));
      for (int64_t j = 0; j < s.m; ++j) {
        const auto pair = static_cast<size_t>(i * s.m + j);
        z[static_cast<size_t>(j)] = a.weight[pair] > 0 ? temperature * a.score(i, j)
                                                       : -std::numeric_limits<double>::infinity();
      }
      const std::vector<double> weights = entmax_by_definition(z, double{s.alpha[head]});
      for (int64_t j = 0; j < s.m; ++j) {
        const auto pair = static_cast<size_t>(i * s.m + j);
        const double weight = weights[static_cast<size_t>(j)];
        out.p[(p * s.n + i) * s.m + j] = weight;
        const double kept = a.keep.empty() ? weight : weight * a.keep[pair];
        for (int64_t x = 0; x < s.d; ++x) {
          out.o[(p * s.n + i) * s.d + x] += kept * a.v[static_cast<size_t>(j * s.d + x)];
        }
      }
    }
  }
  return out;
}

// --- the operations ------------------------------------------------------------------------------

struct EntmaxAttended {
  Array<float> o, o2, tau;
  Array<int32_t> size;
  Array<uint32_t> columns;
};

/// With edges in a form, or, without one, by the pattern of the setup.
inline EntmaxAttended attend_entmax(const EntmaxSetup& s, std::optional<EdgeForm> form = {},
                                    const AttendPlace& place = {}) {
  AttendMemory memory(s, place);
  const RealView o = memory.room(s.q.shape());
  const RealView o2 = memory.room(s.q.shape());
  const View<float> tau = memory.room_for_lse();
  const kernels::EntmaxSupport support = {
      .size = memory.fresh<int32_t>({s.batch, s.heads, s.n}),
      .columns = memory.fresh<uint32_t>({s.batch, s.heads, s.n, kernels::kEntmaxRoom})};
  kernels::AttendEntmax a = {.o = o,
                             .o2 = o2,
                             .tau = tau,
                             .support = support,
                             .q = memory.store(s.q),
                             .k = memory.store(s.k),
                             .v = memory.store(s.v),
                             .heads = {.alpha = memory.put(s.alpha)},
                             .key_mask = memory.key_mask(),
                             .pattern = memory.pattern(),
                             .scale = s.scale,
                             .dropout = memory.dropout(),
                             .scratch = &memory.scratch()};
  if (!s.temperature.view().empty()) a.heads.temperature = memory.put(s.temperature);
  if (form) a.edges = memory.edges(*form);
  kernels::attend_entmax(memory.stream(), a);
  return {memory.get(ConstRealView(o)), memory.get(ConstRealView(o2)), memory.get(tau),
          memory.get(support.size), memory.get(support.columns)};
}

class AttendEntmax : public AttendTest {};
INSTANTIATE_TEST_SUITE_P(Place, AttendEntmax, ::testing::ValuesIn(cpu_params()), name_of_param);

}  // namespace stipple::test
