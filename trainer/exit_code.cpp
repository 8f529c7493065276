// SPDX-License-Identifier: Apache-2.0
#include "trainer/exit_code.h"

#include <new>

#include "core/error.h"

namespace stipple::trainer {

int exit_code_of(const std::exception& e) {
  if (dynamic_cast<const ConfigError*>(&e) != nullptr) return kBadConfig;
  if (dynamic_cast<const DataError*>(&e) != nullptr) return kBadConfig;
  if (dynamic_cast<const std::bad_alloc*>(&e) != nullptr) return kBadConfig;
  if (dynamic_cast<const DivergenceError*>(&e) != nullptr) return kDoNotRestart;
  return kFailed;
}

std::string message_of(const std::exception& e) {
  const bool is_refused = dynamic_cast<const std::bad_alloc*>(&e) != nullptr;
  if (!is_refused && dynamic_cast<const MemoryError*>(&e) == nullptr) return e.what();
  const std::string what = is_refused ? "out of memory" : e.what();
  return what + "; lower train.micro_batch or data.max_length";
}

}  // namespace stipple::trainer
