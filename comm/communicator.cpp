// SPDX-License-Identifier: Apache-2.0
#include "comm/communicator.h"

#include "core/error.h"

namespace stipple::comm {

double Communicator::all_reduce(double value, Reduction reduction) {
  all_reduce(std::span<double>(&value, 1), reduction);
  return value;
}

int64_t Communicator::all_reduce(int64_t value, Reduction reduction) {
  all_reduce(std::span<int64_t>(&value, 1), reduction);
  return value;
}

std::string Communicator::broadcast(std::string text, int root) {
  uint64_t length = text.size();
  broadcast(std::as_writable_bytes(std::span(&length, 1)), root);
  text.resize(length);
  broadcast(std::as_writable_bytes(std::span(text)), root);
  return text;
}

bool Communicator::any(bool flag) { return all_reduce(int64_t{flag}, Reduction::kMax) != 0; }

void Communicator::check_all(const std::string& error) {
  const int64_t none = size();
  const int64_t mine = error.empty() ? none : int64_t{rank()};
  const int64_t first = all_reduce(mine, Reduction::kMin);
  if (first != none) throw Error(broadcast(error, static_cast<int>(first)));
}

}  // namespace stipple::comm
