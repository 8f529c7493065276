// SPDX-License-Identifier: Apache-2.0
// One source of configuration, a file or an override, as a tree of keys.
#pragma once

#include <string>

#include "core/config.h"
#include "core/config/yaml_tree.h"

namespace stipple::config {

/// With the way to name a place in it.
struct Document {
  std::string name;
  bool has_lines;
  YamlNode root;

  ConfigOrigin place_of(const YamlNode& node) const;

  /// ConfigError "file:line: key: what".
  [[noreturn]] void fail(const YamlNode& node, const std::string& path,
                         const std::string& what) const;
};

/// The contents of `path`, or as much of it as shows that it is too large. ConfigError.
std::string read_file(const std::string& path);

/// A text of keys, as if it were the file `name`. ConfigError.
Document parse_file(const std::string& text, const std::string& name);

/// "section.key=value". ConfigError.
Document parse_override(const std::string& text);

}  // namespace stipple::config
