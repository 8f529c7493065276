// SPDX-License-Identifier: Apache-2.0
// Cuts the work into rows and scratch into buffers, and calls the bodies of the instruction set in
// force.
#include "kernels/entmax.h"

#include <cstddef>

#include "core/cpu/isa.h"
#include "kernels/cpu/cutter.h"
#include "kernels/cpu/entmax/bodies.h"
#include "kernels/cpu/entmax/check_alpha.h"
#include "kernels/runs.h"

namespace stipple::kernels::cpu {
namespace {

constexpr int64_t kEntmaxRowRun = 8;

const EntmaxBodies& entmax_bodies() {
  switch (stipple::cpu::isa()) {
    case stipple::cpu::Isa::kAvx512:
      return avx512::kEntmax;
    case stipple::cpu::Isa::kAvx2:
      return avx2::kEntmax;
    case stipple::cpu::Isa::kScalar:
      break;
  }
  return scalar::kEntmax;
}

EntmaxBuffers cut_entmax(Cutter& cutter, int64_t length) {
  const int64_t room = length + kEntmaxSlack;
  return {.scores = cutter.take<float>(room),
          .columns = cutter.take<uint32_t>(room),
          .spare_scores = cutter.take<float>(room),
          .spare_columns = cutter.take<uint32_t>(room)};
}

}  // namespace

void entmax(const Stream& stream, const Entmax& a) {
  const Arena::Scope scope(*a.scratch);
  const int64_t rows = a.z.shape[0];
  const int64_t length = a.z.shape[1];
  const int64_t bytes = bytes_of(cut_entmax, length);
  std::byte* scratch = a.scratch->alloc<std::byte>({stream.threads(), bytes}).data;
  if (!stream.is_plan()) check_alpha("entmax", a.alpha);
  const EntmaxBodies& body = entmax_bodies();
  stream.parallel_for(num_runs(rows, kEntmaxRowRun), [&](int64_t run, int worker) {
    Cutter cutter(scratch + worker * bytes);
    const EntmaxBuffers buffers = cut_entmax(cutter, length);
    const Range own = nth_run(run, rows, kEntmaxRowRun);
    for (int64_t i = own.begin; i < own.end; ++i) {
      EntmaxRow row{.alpha = a.alpha[a.alpha.numel() == 1 ? 0 : i],
                    .length = length,
                    .z = a.z.data + i * length,
                    .p = a.p.empty() ? nullptr : a.p.data + i * length,
                    .tau = a.tau.data + i};
      if (!a.support.empty()) {
        row.size = a.support.size.data + i;
        row.room = a.support.columns.shape[1];
        row.columns = a.support.columns.data + i * row.room;
      }
      body.forward(row, buffers);
    }
  });
}

void entmax_backward(const Stream& stream, const EntmaxBackward& a) {
  const Arena::Scope scope(*a.scratch);
  const int64_t rows = a.p.shape[0];
  const int64_t length = a.p.shape[1];
  const int64_t bytes = bytes_of(cut_entmax, length);
  std::byte* scratch = a.scratch->alloc<std::byte>({stream.threads(), bytes}).data;
  if (!stream.is_plan()) check_alpha("entmax_backward", a.alpha);
  const EntmaxBodies& body = entmax_bodies();
  stream.parallel_for(num_runs(rows, kEntmaxRowRun), [&](int64_t run, int worker) {
    Cutter cutter(scratch + worker * bytes);
    const EntmaxBuffers buffers = cut_entmax(cutter, length);
    const Range own = nth_run(run, rows, kEntmaxRowRun);
    for (int64_t i = own.begin; i < own.end; ++i) {
      const EntmaxBackwardRow row{.alpha = a.alpha[a.alpha.numel() == 1 ? 0 : i],
                                  .length = length,
                                  .dz = a.dz.data + i * length,
                                  .dalpha = a.dalpha.empty() ? nullptr : a.dalpha.data + i,
                                  .p = a.p.data + i * length,
                                  .dp = a.dp.data + i * length};
      body.backward(row, buffers);
    }
  });
}

}  // namespace stipple::kernels::cpu
