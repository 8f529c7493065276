// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstring>

#include "core/config/visitors.h"

namespace stipple {
namespace {

using config::Field;
using config::FieldType;
using config::FieldVisitor;

/// Whether every YAML reader takes the bare text for a string.
bool is_plain_string(const std::string& text) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto is_safe = [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || std::strchr("_-./+", c) != nullptr;
  };
  if (text.empty() || !(is_letter(text[0]) || text[0] == '/')) return false;
  if (!std::all_of(text.begin(), text.end(), is_safe)) return false;
  std::string lower = text;
  for (char& c : lower) c = is_letter(c) ? static_cast<char>(c | 0x20) : c;
  constexpr std::array<std::string_view, 9> kWords = {"true", "false", "yes", "no", "on",
                                                      "off",  "null",  "y",   "n"};
  return std::find(kWords.begin(), kWords.end(), lower) == kWords.end();
}

std::string yaml_string(const std::string& text) {
  if (is_plain_string(text)) return text;
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7F) {
      quoted += {'\\', 'x', kHex[byte >> 4U], kHex[byte & 15U]};
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

class YamlWriter final : public FieldVisitor {
 public:
  std::string text;

 private:
  void on_field(const Field& field) override {
    const bool is_text = field.type == FieldType::kText || field.type == FieldType::kChoice;
    text +=
        indentation_ + field.key + ": " + (is_text ? yaml_string(field.value) : field.value) + "\n";
  }
  void begin_section(std::string_view key, std::string_view /*doc*/) override {
    text += indentation_ + std::string(key) + ":\n";
    indentation_ += "  ";
  }
  void end_section() override { indentation_.resize(indentation_.size() - 2); }

  std::string indentation_;
};

class PairWriter final : public FieldVisitor {
 public:
  std::vector<std::pair<std::string, std::string>> pairs;

 private:
  void on_field(const Field& field) override { pairs.emplace_back(field.path, field.value); }
};

}  // namespace

std::string config_to_yaml(Describe describe) {
  YamlWriter writer;
  describe(writer);
  return writer.text;
}

std::vector<std::pair<std::string, std::string>> config_to_pairs(Describe describe) {
  PairWriter writer;
  describe(writer);
  return writer.pairs;
}

}  // namespace stipple
