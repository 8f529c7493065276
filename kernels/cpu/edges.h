// SPDX-License-Identifier: Apache-2.0
// What everybody who writes a graph on the CPU needs: rows appended to CSR, and offsets from the
// degrees of rows that may be made side by side.
#pragma once

#include <cstdint>

#include "kernels/edges.h"

namespace stipple::kernels::cpu {

/// Appends rows to the CSR form of one problem.
class CsrWriter {
 public:
  CsrWriter(const EdgeSet& edges, int64_t p)
      : columns_(edges.columns(p)),
        multiplicity_(edges.capacity.multiplicity ? edges.multiplicity.at(p).data : nullptr),
        row_ptr_(edges.row_ptr.at(p).data),
        room_(edges.storage.shape[1]),
        setting_(edges.capacity.csr_setting()) {
    row_ptr_[0] = 0;
  }

  /// Makes room for the next row's columns; EdgeRoomError where there is none.
  uint32_t* begin_row(int64_t degree) {
    STIPPLE_CHECK_AS(EdgeRoomError, size_ + degree <= room_, "a graph has more than the ", room_,
                     " edges reserved for it; raise ", setting_);
    return columns_ + size_;
  }
  uint16_t* multiplicity() const { return multiplicity_ + size_; }
  void end_row(int64_t degree) {
    size_ += degree;
    row_ptr_[++row_] = static_cast<int32_t>(size_);
  }

 private:
  uint32_t* columns_;
  uint16_t* multiplicity_;
  int32_t* row_ptr_;
  int64_t room_;
  const char* setting_;
  int64_t size_ = 0;
  int64_t row_ = 0;
};

/// Turns the degree of row i, left in row_ptr[i + 1], into offsets.
inline void sum_degrees(const EdgeSet& edges, int64_t p) {
  int32_t* row_ptr = edges.row_ptr.at(p).data;
  row_ptr[0] = 0;
  for (int64_t i = 0; i < edges.num_queries; ++i) row_ptr[i + 1] += row_ptr[i];
}

}  // namespace stipple::kernels::cpu
