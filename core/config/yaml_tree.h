// SPDX-License-Identifier: Apache-2.0
// A YAML text as a plain tree with line numbers: what configurations are read from. A strict
// subset: one document, nested mappings and scalars; each scalar in one line; no anchors, tags or
// tabs; keys are unique. yaml-cpp stays behind this header.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace stipple {

struct YamlNode {
  enum class Kind : uint8_t { kNull, kScalar, kList, kMapping };

  Kind kind = Kind::kMapping;
  std::string key;                ///< of this entry in its mapping; empty at the root
  std::string text;               ///< of a scalar, unescaped
  bool is_quoted = false;         ///< a scalar written in quotes
  int line = 1;                   ///< of the key (of the value at the root and in lists), from 1
  std::vector<YamlNode> entries;  ///< of a mapping; the items of a list, without keys

  const YamlNode* find(const std::string& name) const;
};

/// The tree of `text`; an empty text is an empty mapping. ConfigError, one line that starts with
/// `source` and, when `has_lines`, the line: syntax, a key given twice, anything outside the
/// subset, more than 1 MiB, 10000 nodes or 20 levels.
YamlNode parse_yaml(const std::string& text, const std::string& source, bool has_lines = true);

}  // namespace stipple
