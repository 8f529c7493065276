// SPDX-License-Identifier: Apache-2.0
#include "trainer/exit_code.h"

#include "core/error.h"

namespace stipple::trainer {

int exit_code_of(const std::exception& e) {
  if (dynamic_cast<const ConfigError*>(&e) != nullptr) return kBadConfig;
  if (dynamic_cast<const DataError*>(&e) != nullptr) return kBadConfig;
  if (dynamic_cast<const DivergenceError*>(&e) != nullptr) return kDoNotRestart;
  return kFailed;
}

}  // namespace stipple::trainer
