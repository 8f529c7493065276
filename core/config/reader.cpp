// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <optional>

#include "core/config.h"
#include "core/config/document.h"
#include "core/config/include.h"
#include "core/config/key_table.h"
#include "core/config/nearest_match.h"
#include "core/config/number.h"
#include "core/config/visitors.h"
#include "core/error.h"
#include "core/text.h"

namespace stipple {
namespace config {
namespace {

using detail::concat;

std::string quoted(const std::string& text) { return concat("'", one_line(text), "'"); }

constexpr double kExactIntegers = 9007199254740992.0;  // 2^53: whole numbers that a double holds

std::string_view kind_name(YamlNode::Kind kind) {
  return kind == YamlNode::Kind::kMapping ? "a mapping" : "a list";
}

/// Every key exists, sections are mappings and fields are single values.
void check_keys(const Document& document, const KeyTable& table, const YamlNode& section,
                const std::string& path) {
  for (const YamlNode& entry : section.entries) {
    const std::string entry_path = path.empty() ? entry.key : path + "." + entry.key;
    const bool is_section = table.has_section(entry_path);
    if (is_section && !table.is_name(entry_path)) {
      document.fail(entry, entry_path, "is no name; use small letters, digits and '_'");
    }
    if (entry.key.find('.') != std::string::npos || (!is_section && !table.has_field(entry_path))) {
      document.fail(entry, entry_path, "unknown key; " + table.advice(path, entry.key));
    }
    if (entry.kind == YamlNode::Kind::kNull) {
      document.fail(entry, entry_path,
                    is_section ? "is empty; give it keys or remove the line"
                               : "has no value; give it one or remove the line");
    }
    if (is_section) {
      if (entry.kind != YamlNode::Kind::kMapping) {
        document.fail(entry, entry_path,
                      "is a section, not a value; put its keys below it, indented");
      }
      check_keys(document, table, entry, entry_path);
    } else if (entry.kind != YamlNode::Kind::kScalar) {
      document.fail(entry, entry_path,
                    concat("takes one value, not ", kind_name(entry.kind), "; write 'key: value'"));
    }
  }
}

void note_origins(const Document& document, const YamlNode& section, const std::string& path,
                  ConfigOrigins& origins) {
  for (const YamlNode& entry : section.entries) {
    if (entry.kind == YamlNode::Kind::kMapping) {
      note_origins(document, entry, path + entry.key + ".", origins);
    } else {
      origins.set(path + entry.key, document.place_of(entry));
    }
  }
}

/// Sets the fields that a checked document mentions.
class Reader final : public PathVisitor {
 public:
  explicit Reader(const Document& document) : document_(document), section_(&document.root) {}

  void field(std::string_view key, bool& value, const KeyInfo&) override {
    const YamlNode* node = find(key);
    if (node == nullptr) return;
    if (node->is_quoted || (node->text != "true" && node->text != "false")) {
      fail(*node, key, quoted(node->text) + " is not true or false" + bool_hint(*node));
    }
    value = node->text == "true";
  }

  void field(std::string_view key, int64_t& value, const KeyInfo& info) override {
    const YamlNode* node = find(key);
    if (node == nullptr) return;
    value = integer_of(*node, key, info);
    check_range(*node, key, static_cast<double>(value), std::to_string(value), info);
  }

  void field(std::string_view key, double& value, const KeyInfo& info) override {
    const YamlNode* node = find(key);
    if (node == nullptr) return;
    const std::optional<double> number = parse_number(node->text);
    if (node->is_quoted || !number) {
      fail(*node, key,
           quoted(node->text) + " is not a number" +
               number_hint(*node, parse_number(node->text).has_value(), meant_number(node->text)));
    }
    value = *number;
    check_range(*node, key, value, number_text(value), info);
  }

  void field(std::string_view key, std::string& value, const KeyInfo&) override {
    const YamlNode* node = find(key);
    if (node == nullptr) return;
    if (has_control(node->text)) {
      fail(*node, key, quoted(node->text) + " holds a control character; use visible ones");
    }
    value = node->text;
  }

  void field(std::string_view key, CountOrShare& value, const KeyInfo& info) override {
    const YamlNode* node = find(key);
    if (node == nullptr) return;
    if (!node->text.ends_with('%')) {
      value = integer_of(*node, key, info);
      check_range(*node, key, static_cast<double>(value.count), value.str(), info);
      return;
    }
    const std::optional<double> percent =
        parse_number(std::string_view(node->text).substr(0, node->text.size() - 1));
    if (!percent || *percent < 0 || *percent > 100) {
      fail(*node, key,
           concat(quoted(node->text), " is not a share of ", info.share_of,
                  "; write 0% to 100%, or a whole number"));
    }
    value = CountOrShare::share(*percent);
  }

 protected:
  void choice_index(std::string_view key, int64_t& index,
                    const std::vector<std::string_view>& names, const KeyInfo&) override {
    const YamlNode* node = find(key);
    if (node == nullptr) return;
    const auto found = std::find(names.begin(), names.end(), node->text);
    if (found == names.end()) fail(*node, key, choice_hint(*node, names));
    index = found - names.begin();
  }

  void nested(std::string_view key, std::string_view doc, FunctionRef<void()> body) override {
    const YamlNode* inner = find(key);
    if (inner == nullptr) return;
    const YamlNode* outer = section_;
    section_ = inner;
    PathVisitor::nested(key, doc, body);
    section_ = outer;
  }

  void named_sections(std::string_view key, std::string_view doc, const std::vector<std::string>&,
                      FunctionRef<void(const std::string& name)> describe) override {
    const YamlNode* node = find(key);
    if (node == nullptr) return;
    std::vector<std::string> names;
    for (const YamlNode& entry : node->entries) names.push_back(entry.key);
    PathVisitor::named_sections(key, doc, names, describe);
  }

 private:
  const YamlNode* find(std::string_view key) const { return section_->find(std::string(key)); }

  [[noreturn]] void fail(const YamlNode& node, std::string_view key,
                         const std::string& what) const {
    document_.fail(node, path_of(key), what);
  }

  int64_t integer_of(const YamlNode& node, std::string_view key, const KeyInfo& info) const {
    const std::optional<double> number = parse_number(node.text);
    if (!node.is_quoted) {
      if (const std::optional<int64_t> value = parse_integer(node.text)) return *value;
      if (number && *number == std::trunc(*number)) {
        if (std::abs(*number) <= kExactIntegers) return static_cast<int64_t>(*number);
        fail(node, key, concat(node.text, " is out of range ", range_text(info), unit(info)));
      }
    }
    fail(node, key,
         quoted(node.text) + " is not a whole number" +
             number_hint(node, number.has_value(), meant_integer(node.text)));
  }

  void check_range(const YamlNode& node, std::string_view key, double value,
                   const std::string& text, const KeyInfo& info) const {
    if (value >= info.min && value <= info.max) return;
    fail(node, key, concat(text, " is out of range ", range_text(info), unit(info)));
  }

  static std::string unit(const KeyInfo& info) {
    return info.unit.empty() ? "" : concat(" ", info.unit);
  }

  static std::string bool_hint(const YamlNode& node) {
    if (node.is_quoted) return "; remove the quotes";
    constexpr std::array<std::string_view, 5> kTrue = {"yes", "on", "True", "TRUE", "1"};
    constexpr std::array<std::string_view, 5> kFalse = {"no", "off", "False", "FALSE", "0"};
    const auto is_in = [&](const auto& words) {
      return std::find(words.begin(), words.end(), node.text) != words.end();
    };
    if (is_in(kTrue)) return "; write true";
    if (is_in(kFalse)) return "; write false";
    return "";
  }

  static std::string number_hint(const YamlNode& node, bool is_number, const std::string& meant) {
    if (node.is_quoted && is_number) return "; remove the quotes";
    return meant.empty() ? "" : "; write " + meant;
  }

  static std::string choice_hint(const YamlNode& node, const std::vector<std::string_view>& names) {
    std::string list;
    for (const std::string_view name : names) {
      list += (list.empty() ? "" : ", ") + std::string(name);
    }
    const std::string near = nearest_match(node.text, {names.begin(), names.end()});
    return concat(quoted(node.text), " is not one of ", list,
                  near.empty() ? "" : "; did you mean '" + near + "'?");
  }

  const Document& document_;
  const YamlNode* section_;
};

// Documents are applied one after the other: that merges mappings, lets the later value win, and
// blames the right file.
void apply(const Document& document, const KeyTable& table, Describe describe,
           ConfigOrigins& origins) {
  check_keys(document, table, document.root, "");
  note_origins(document, document.root, "", origins);
  Reader reader(document);
  describe(reader);
}

/// Keys without a value look like files.
void refuse_keys(const std::vector<std::string>& files, const KeyTable& table) {
  for (const std::string& file : files) {
    if (!table.has_field(file) || std::filesystem::exists(file)) continue;
    throw ConfigError(concat("'", file, "' is a key, not a file; write ", file, "=VALUE"));
  }
}

}  // namespace
}  // namespace config

ConfigOrigins load_config_text(const std::string& text, const std::string& name,
                               Describe describe) {
  ConfigOrigins origins;
  config::apply(config::parse_file(text, name), config::KeyTable(describe), describe, origins);
  return origins;
}

ConfigOrigins load_config(const std::vector<std::string>& files,
                          const std::vector<std::string>& overrides, Describe describe) {
  const config::KeyTable table(describe);
  config::refuse_keys(files, table);
  ConfigOrigins origins;
  for (const config::Document& document : config::documents_of(files)) {
    config::apply(document, table, describe, origins);
  }
  for (const std::string& text : overrides) {
    config::apply(config::parse_override(text), table, describe, origins);
  }
  return origins;
}

}  // namespace stipple
