// SPDX-License-Identifier: Apache-2.0
// Which form sample_edges gives to a problem, and with it who draws its edges: the one rule by which
// memory is planned, and the CPU and CUDA draw.
#pragma once

#include "core/host_device.h"
#include "kernels/edges.h"
#include "kernels/sbm.h"

namespace stipple::kernels::math {

/// What a graph must have room for. A sampler that is forced needs room for its form alone: rows
/// write CSR at any density, tiles write bits.
inline EdgeCapacity sampler_capacity(MaskLaw law, SamplerKind sampler, double tile_density,
                                     double max_density) {
  constexpr double kNeverBits = 2.0;
  if (sampler == SamplerKind::kRows) tile_density = kNeverBits;
  if (sampler == SamplerKind::kTiles) tile_density = 0.0;
  return {.tile_density = tile_density,
          .max_density = max_density,
          .multiplicity = law == MaskLaw::kPoissonMulti};
}

struct EdgeFormRule {
  MaskLaw law = MaskLaw::kBernoulli;
  SamplerKind sampler = SamplerKind::kAuto;
  bool has_room_for_bits = false;
  double tile_density = 0.0;
  float delta = 0.0f;
  int64_t window_radius = -1;

  explicit EdgeFormRule(const SampleEdges& args)
      : law(args.law),
        sampler(args.sampler),
        has_room_for_bits(kernels::has_room_for_bits(args.edges)),
        tile_density(args.edges.capacity.tile_density),
        delta(args.delta),
        window_radius(args.window_radius) {}

  /// Tiles whose edges are counted, and therefore written as CSR.
  STIPPLE_HD bool draws_counted_tiles() const {
    return law == MaskLaw::kPoissonMulti && sampler == SamplerKind::kTiles;
  }
  // What some problem of the graph may be.
  STIPPLE_HD bool may_be_bits() const {
    return has_room_for_bits && law != MaskLaw::kPoissonMulti && sampler != SamplerKind::kRows;
  }
  STIPPLE_HD bool may_be_csr() const { return sampler != SamplerKind::kTiles || !may_be_bits(); }
  // Who may be needed.
  STIPPLE_HD bool may_draw_tiles() const { return may_be_bits() || draws_counted_tiles(); }
  STIPPLE_HD bool may_draw_rows() const { return may_be_csr() && !draws_counted_tiles(); }

  /// Whether it takes a problem's numbers to tell.
  STIPPLE_HD bool is_by_density() const { return may_be_bits() && sampler == SamplerKind::kAuto; }
  /// expected: edges without exploration and the window.
  STIPPLE_HD EdgeForm form(double expected, int64_t real_queries, int64_t real_keys) const {
    if (!may_be_bits()) return EdgeForm::kCsr;
    if (!is_by_density()) return EdgeForm::kBits;
    const auto queries = static_cast<double>(real_queries);
    const auto keys = static_cast<double>(real_keys);
    const double reach = static_cast<double>(2 * window_radius + 1);
    const double window = window_radius < 0 ? 0.0 : queries * (reach < keys ? reach : keys);
    const double edges = expected + static_cast<double>(delta) * queries * keys + window;
    // NaN: bits cannot overflow; what to do about the numbers is the trainer's business.
    const bool is_dense = edges > 0.0 && edges >= tile_density * queries * keys;
    return edges != edges || is_dense ? EdgeForm::kBits : EdgeForm::kCsr;
  }
};

}  // namespace stipple::kernels::math
