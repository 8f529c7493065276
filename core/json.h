// SPDX-License-Identifier: Apache-2.0
// A JSON value: what files of runs and checkpoints are read from and written as. Objects keep the
// order of their members. nlohmann/json reads and writes the text, and only json.cpp pays for
// compiling it.
//
//   Json record{{"step", 3}, {"loss", 0.5}, {"layers", Json::array()}};
//   record["layers"].push_back("encoder");
//   const int64_t step = Json::parse(record.dump()).at("step");
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace stipple {

class Json {
 public:
  using Member = std::pair<std::string, Json>;
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;

  /// Deeper text is refused: no file of ours comes near it, and a stack would.
  static constexpr int kMaxDepth = 64;

  Json() = default;  // null
  Json(std::nullptr_t) {}
  template <class T>
  requires std::same_as<T, bool> || std::floating_point<T> Json(T value) : value_(value) {}
  template <std::signed_integral T>
  requires(!std::same_as<T, bool>) Json(T value) : value_(static_cast<int64_t>(value)) {}
  template <std::unsigned_integral T>
  requires(!std::same_as<T, bool>) Json(T value) : Json(of_unsigned(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(std::initializer_list<Member> members) : value_(Object(members)) {}
  static Json array(Array items = {}) { return Json(std::move(items)); }
  static Json object() { return Json(Object()); }

  /// Throws DataError, with line and column, for what is no JSON or nested too deeply, and for a key
  /// that an object has twice: two readers could take different ones.
  static Json parse(std::string_view text);
  /// In one line, or with `indent` spaces a level. Doubles come back with the same bits; those that
  /// are not finite are null. Throws DataError for a string that is not UTF-8.
  std::string dump(int indent = -1) const;

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }
  bool is_integer() const {
    return std::holds_alternative<int64_t>(value_) || std::holds_alternative<uint64_t>(value_);
  }
  bool is_number() const { return is_integer() || std::holds_alternative<double>(value_); }

  /// bool, int, int64_t, uint64_t, double, std::string or std::vector<int64_t>. Throws DataError for
  /// a value of another kind or out of range; an integer is a double, too.
  template <class T>
  T get() const;
  template <class T>
  requires std::same_as<T, bool> || std::same_as<T, int> || std::same_as<T, int64_t> ||
      std::same_as<T, uint64_t> || std::same_as<T, double> || std::same_as<T, std::string>
  operator T() const { return get<T>(); }

  /// Elements of an array, members of an object. Throw DataError for another kind of value.
  const Array& items() const;
  const Object& members() const;
  Array::const_iterator begin() const { return items().begin(); }
  Array::const_iterator end() const { return items().end(); }
  /// 0 for what has no parts.
  size_t size() const;

  bool contains(std::string_view key) const { return find(key) != nullptr; }
  /// Null if this is no object or has no such member.
  const Json* find(std::string_view key) const;
  /// Throws DataError if there is none.
  const Json& at(std::string_view key) const;
  /// Added as null where there is none; null becomes an object.
  Json& operator[](std::string_view key);
  Json& operator[](const char* key) { return (*this)[std::string_view(key)]; }
  /// The new member's value. The object must not have the key yet, which is not looked for.
  Json& add(std::string key, Json value = {});
  /// The new element. Null becomes an array.
  Json& push_back(Json item);

  bool operator==(const Json& other) const;

  /// uint64_t only where int64_t is too small: equal integers are equal values.
  using Value =
      std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, Array, Object>;
  const Value& value() const { return value_; }

 private:
  explicit Json(Array items) : value_(std::move(items)) {}
  explicit Json(Object members) : value_(std::move(members)) {}
  static Json of_unsigned(uint64_t value);

  Value value_;
};

}  // namespace stipple
