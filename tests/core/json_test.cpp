// SPDX-License-Identifier: Apache-2.0
#include "core/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "core/error.h"

namespace stipple {
namespace {

std::string parse_error_of(std::string_view text) {
  try {
    Json::parse(text);
  } catch (const DataError& e) {
    return e.what();
  }
  return "none";
}

template <class T>
bool refuses(const Json& json) {
  try {
    json.get<T>();
  } catch (const DataError&) {
    return true;
  }
  return false;
}

TEST(Json, WritesWhatItReadsWithMembersInTheirOrder) {
  const std::string text =
      R"({"z":[1,-2,0.5,1e+300,true,null,"a\"\nä"],"a":{"empty":[],"map":{}},"last":18446744073709551615})";
  EXPECT_EQ(Json::parse(text).dump(), text);
}

TEST(Json, IsMadeFromMembers) {
  Json record{{"step", 3}, {"loss", 0.25}, {"name", "x"}, {"layers", Json::array({1, "two"})}};
  record["layers"].push_back({{"inner", false}});
  record["new"]["deep"] = nullptr;
  EXPECT_EQ(
      record.dump(),
      R"({"step":3,"loss":0.25,"name":"x","layers":[1,"two",{"inner":false}],"new":{"deep":null}})");
  EXPECT_EQ(Json::object().dump(), "{}");
  EXPECT_EQ(Json().dump(), "null");
  EXPECT_EQ((Json{{"a", 1}}.dump(1)), "{\n \"a\": 1\n}");
}

TEST(Json, DoublesComeBackWithTheSameBits) {
  for (const double value : {0.1, 1.0 / 3, 5e-324, std::numeric_limits<double>::max(), -0.0, 2.0}) {
    const double back = Json::parse(Json(value).dump());
    EXPECT_EQ(back, value);
    EXPECT_EQ(std::signbit(back), std::signbit(value));
  }
  EXPECT_EQ(Json(std::nan("")).dump(), "null");
  EXPECT_EQ(Json(-std::numeric_limits<double>::infinity()).dump(), "null");
}

TEST(Json, IntegersKeepAllTheirBitsOrAreRefused) {
  EXPECT_EQ(Json::parse("9223372036854775807").get<int64_t>(), INT64_MAX);
  EXPECT_EQ(Json::parse("-9223372036854775808").get<int64_t>(), INT64_MIN);
  EXPECT_EQ(Json::parse("18446744073709551615").get<uint64_t>(), UINT64_MAX);
  EXPECT_TRUE(refuses<int64_t>(Json::parse("9223372036854775808")));
  EXPECT_TRUE(refuses<uint64_t>(Json::parse("-1")));
  EXPECT_TRUE(refuses<int>(Json::parse("2147483648")));
  EXPECT_TRUE(refuses<int64_t>(Json::parse("1.0")));
  EXPECT_EQ(Json(uint64_t{7}), Json(7));
}

TEST(Json, ValuesOfAnotherKindAreRefused) {
  EXPECT_TRUE(refuses<int64_t>("3"));
  EXPECT_TRUE(refuses<std::string>(3));
  EXPECT_TRUE(refuses<double>(true));
  EXPECT_TRUE(refuses<bool>(0));
  EXPECT_TRUE(refuses<std::vector<int64_t>>(Json::array({1, "2"})));
  EXPECT_EQ(Json(3).get<double>(), 3.0);
  EXPECT_THROW(Json::parse("{}").at("missing"), DataError);
  EXPECT_THROW(Json::parse("[]").at("missing"), DataError);
  EXPECT_THROW(Json::parse("{}").items(), DataError);
  EXPECT_THROW(Json::parse("[]").members(), DataError);
  EXPECT_THROW(Json(3)["key"], DataError);
  EXPECT_THROW(Json(3).push_back(4), DataError);
}

TEST(Json, RefusesWhatIsNoJson) {
  EXPECT_NE(parse_error_of("{\n  \"a\" 1}").find("line 2, column 7"), std::string::npos)
      << parse_error_of("{\n  \"a\" 1}");
  for (const char* text : {"", "{", "[1,]", "nul", "1 2", "{\"a\":1}x", "'a'", "\"\xff\""})
    EXPECT_NE(parse_error_of(text), "none") << text;
  EXPECT_THROW(Json("\xff").dump(), DataError);
}

TEST(Json, RefusesAKeyThatIsThereTwice) {
  EXPECT_NE(parse_error_of(R"({"a":1,"b":{"a":1},"a":2})").find("'a' is there twice"),
            std::string::npos);
  EXPECT_EQ(parse_error_of(R"([{"a":1},{"a":1}])"), "none");
}

TEST(Json, RefusesEndlessNesting) {
  const auto nested = [](int depth) {
    return std::string(static_cast<size_t>(depth), '[') +
           std::string(static_cast<size_t>(depth), ']');
  };
  EXPECT_EQ(parse_error_of(nested(Json::kMaxDepth)), "none");
  EXPECT_EQ(parse_error_of(nested(Json::kMaxDepth + 1)), "it is nested too deeply");
  EXPECT_EQ(parse_error_of(std::string(1'000'000, '[')), "it is nested too deeply");
}

}  // namespace
}  // namespace stipple
