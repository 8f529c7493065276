// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "trainer/commands/commands.h"
#include "trainer/config/config.h"
#include "trainer/exit_code.h"

namespace stipple::trainer {

int keys() {
  std::fputs(config_reference().c_str(), stdout);
  return kDone;
}

}  // namespace stipple::trainer
