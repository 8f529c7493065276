// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/host_name.h"

#include <unistd.h>

namespace stipple::trainer {

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

}  // namespace stipple::trainer
