// SPDX-License-Identifier: Apache-2.0
#include "core/config/document.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/text.h"

namespace stipple::config {

using detail::concat;

ConfigOrigin Document::place_of(const YamlNode& node) const {
  return {name, has_lines ? node.line : 0};
}

void Document::fail(const YamlNode& node, const std::string& path, const std::string& what) const {
  throw ConfigError(concat(place_of(node).str(), ": ", one_line(path), ": ", what));
}

Document parse_file(const std::string& text, const std::string& name) {
  Document document{name, true, parse_yaml(text, name)};
  if (document.root.kind == YamlNode::Kind::kNull) document.root.kind = YamlNode::Kind::kMapping;
  if (document.root.kind != YamlNode::Kind::kMapping) {
    throw ConfigError(
        concat(name, ":", document.root.line, ": holds no keys; write lines like 'key: value'"));
  }
  return document;
}

namespace {

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1);
}

/// As a YAML string that holds just that.
std::string yaml_quoted(const std::string& text) {
  std::string literal = "'";
  for (const char c : text) literal += c == '\'' ? "''" : std::string(1, c);
  return literal + "'";
}

}  // namespace

Document parse_override(const std::string& text) {
  const std::string name = concat("override \"", one_line(text), "\"");
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw ConfigError(name + ": is not an assignment; write section.key=value");
  }
  const std::string key = trimmed(text.substr(0, equals));
  const std::string typed_value = text.substr(equals + 1);
  if (key.size() < equals || typed_value.starts_with(' ')) {
    throw ConfigError(concat(name, ": has spaces around '='; write ", one_line(key), "=",
                             one_line(trimmed(typed_value))));
  }
  Document document{name, false, {}};
  YamlNode* node = &document.root;
  const std::string path = key + ".";
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = path.find('.', begin);
    if (end == begin) throw ConfigError(name + ": a name is empty; write section.key=value");
    node->kind = YamlNode::Kind::kMapping;
    YamlNode& entry = node->entries.emplace_back();
    entry.key = path.substr(begin, end - begin);
    node = &entry;
    begin = end + 1;
  }
  // An override has no anchors, so that a '*' at its begin is one of a pattern: *.txt.
  const YamlNode value = parse_yaml(
      typed_value.starts_with('*') ? yaml_quoted(typed_value) : typed_value, name, false);
  if (value.kind == YamlNode::Kind::kMapping && !value.entries.empty()) {
    throw ConfigError(concat(name, ": sets one value; write ", key, ".key=value for each"));
  }
  node->kind = value.kind == YamlNode::Kind::kMapping ? YamlNode::Kind::kNull : value.kind;
  node->text = value.text;
  node->is_quoted = value.is_quoted;
  return document;
}

std::string read_file(const std::string& path) {
  constexpr size_t kTooMuch = (size_t{1} << 20) + 1;  // one more than parse_yaml takes
  const auto refuse = [&](int code) {
    throw ConfigError(concat("cannot read ", path, ": ", std::strerror(code)));
  };
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) refuse(errno);
  std::string text;
  std::array<char, 4096> block{};
  ssize_t count = 0;
  while (text.size() < kTooMuch && (count = ::read(file, block.data(), block.size())) > 0) {
    text.append(block.data(), static_cast<size_t>(count));
  }
  const int code = errno;
  ::close(file);
  if (count < 0) refuse(code);
  return text;
}

}  // namespace stipple::config
