// SPDX-License-Identifier: Apache-2.0
#include "core/json.h"

#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"

namespace stipple {
namespace {

/// What the library says, without its "[json.exception.parse_error.101] ".
std::string text_of(const nlohmann::json::exception& e) {
  const std::string_view text = e.what();
  const size_t end = text.find("] ");
  return std::string(text.starts_with('[') && end != text.npos ? text.substr(end + 2) : text);
}

/// Builds the tree from the events of the library's parser.
class Builder {
 public:
  using Events = nlohmann::json;

  explicit Builder(Json& root) : open_{&root} {}

  bool null() { return put({}); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(int64_t value) { return put(value); }
  bool number_unsigned(uint64_t value) { return put(value); }
  bool number_float(double value, const std::string&) { return put(value); }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(Events::binary_t&) { return false; }  // never in text
  bool start_object(size_t) { return start(Json::object()); }
  bool start_array(size_t) { return start(Json::array()); }
  bool end_object() { return end(); }
  bool end_array() { return end(); }
  bool key(std::string& key) {
    STIPPLE_CHECK_AS(DataError, keys_.back().insert(key).second, "the key '", key,
                     "' is there twice");
    next_ = &open_.back()->add(key);
    return true;
  }
  bool parse_error(size_t, const std::string&, const Events::exception& e) {
    throw DataError(text_of(e));
  }

 private:
  /// Where the value goes that comes now: a member, an element, or the root.
  Json& place() {
    if (Json* member = std::exchange(next_, nullptr)) return *member;
    Json& parent = *open_.back();
    return parent.is_array() ? parent.push_back({}) : parent;
  }
  bool put(Json value) {
    place() = std::move(value);
    return true;
  }
  bool start(Json empty) {
    STIPPLE_CHECK_AS(DataError, open_.size() <= static_cast<size_t>(Json::kMaxDepth),
                     "it is nested too deeply");
    Json& value = place();
    value = std::move(empty);
    open_.push_back(&value);
    keys_.emplace_back();
    return true;
  }
  bool end() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  std::vector<Json*> open_;  // the root, and every array and object that has not ended
  std::vector<std::set<std::string>> keys_;  // of those, but for the root
  Json* next_ = nullptr;                     // the member whose key has been read
};

using Library = nlohmann::ordered_json;

Library to_library(const Json& json);

Library library_value(std::monostate) { return nullptr; }
Library library_value(const Json::Array& items) {
  Library array = Library::array();
  for (const Json& item : items) array.push_back(to_library(item));
  return array;
}
Library library_value(const Json::Object& members) {
  Library object = Library::object();
  for (const auto& [key, member] : members) object.emplace(key, to_library(member));
  return object;
}
template <class T>
Library library_value(const T& plain) {
  return plain;
}

Library to_library(const Json& json) {
  return std::visit([](const auto& value) { return library_value(value); }, json.value());
}

/// The value if it is a T; throws otherwise.
template <class T>
const T& expect(const Json& json, const char* kind) {
  const T* value = std::get_if<T>(&json.value());
  STIPPLE_CHECK_AS(DataError, value != nullptr, json.dump(), " is no ", kind);
  return *value;
}

template <class T>
T integer(const Json& json) {
  STIPPLE_CHECK_AS(DataError, json.is_integer(), json.dump(), " is no integer");
  const auto narrow = [&](auto wide) {
    STIPPLE_CHECK_AS(DataError, std::in_range<T>(wide), wide, " is out of range");
    return static_cast<T>(wide);
  };
  if (const auto* wide = std::get_if<uint64_t>(&json.value())) return narrow(*wide);
  return narrow(std::get<int64_t>(json.value()));
}

}  // namespace

Json Json::of_unsigned(uint64_t value) {
  Json json;
  if (std::in_range<int64_t>(value))
    json.value_ = static_cast<int64_t>(value);
  else
    json.value_ = value;
  return json;
}

Json Json::parse(std::string_view text) {
  Json root;
  Builder builder(root);
  Builder::Events::sax_parse(text, &builder);
  return root;
}

std::string Json::dump(int indent) const {
  try {
    return to_library(*this).dump(indent);
  } catch (const Library::exception& e) {
    throw DataError(text_of(e));
  }
}

template <>
bool Json::get() const {
  return expect<bool>(*this, "true or false");
}
template <>
int Json::get() const {
  return integer<int>(*this);
}
template <>
int64_t Json::get() const {
  return integer<int64_t>(*this);
}
template <>
uint64_t Json::get() const {
  return integer<uint64_t>(*this);
}
template <>
double Json::get() const {
  if (const auto* whole = std::get_if<int64_t>(&value_)) return static_cast<double>(*whole);
  if (const auto* whole = std::get_if<uint64_t>(&value_)) return static_cast<double>(*whole);
  return expect<double>(*this, "number");
}
template <>
std::string Json::get() const {
  return expect<std::string>(*this, "text");
}
template <>
std::vector<int64_t> Json::get() const {
  std::vector<int64_t> values;
  for (const Json& item : items()) values.push_back(item.get<int64_t>());
  return values;
}

const Json::Array& Json::items() const { return expect<Array>(*this, "list"); }
const Json::Object& Json::members() const { return expect<Object>(*this, "map"); }

size_t Json::size() const {
  if (is_array()) return items().size();
  return is_object() ? members().size() : 0;
}

const Json* Json::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const auto& [name, value] : members())
    if (name == key) return &value;
  return nullptr;
}

const Json& Json::at(std::string_view key) const {
  const Json* value = find(key);
  STIPPLE_CHECK_AS(DataError, value != nullptr, "there is no key '", key, "'");
  return *value;
}

Json& Json::operator[](std::string_view key) {
  if (const Json* value = find(key)) return const_cast<Json&>(*value);
  return add(std::string(key));
}

Json& Json::add(std::string key, Json value) {
  if (is_null()) value_ = Object();
  expect<Object>(*this, "map");
  return std::get<Object>(value_).emplace_back(std::move(key), std::move(value)).second;
}

Json& Json::push_back(Json item) {
  if (is_null()) value_ = Array();
  expect<Array>(*this, "list");
  return std::get<Array>(value_).emplace_back(std::move(item));
}

bool Json::operator==(const Json& other) const { return value_ == other.value_; }

}  // namespace stipple
