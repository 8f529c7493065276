// SPDX-License-Identifier: Apache-2.0
#include "core/config.h"
#include "core/error.h"

namespace stipple {

std::string ConfigOrigin::str() const {
  return line > 0 ? detail::concat(source, ":", line) : source;
}

const ConfigOrigin* ConfigOrigins::find(const std::string& path) const {
  const auto found = origins_.find(path);
  return found == origins_.end() ? nullptr : &found->second;
}

std::string ConfigOrigins::str(const std::string& path) const {
  const ConfigOrigin* origin = find(path);
  return origin == nullptr ? "default" : origin->str();
}

void ConfigOrigins::add(const ConfigOrigins& later) {
  for (const auto& [path, origin] : later.origins_) set(path, origin);
}

}  // namespace stipple
