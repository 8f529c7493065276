// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/png.h"

#include <gtest/gtest.h>
#include <png.h>

#include "core/error.h"

namespace stipple::trainer {
namespace {

TEST(Png, HoldsThePicture) {
  data::Picture picture{.width = 3, .height = 2, .rgb = {}};
  for (int i = 0; i < 18; ++i) picture.rgb.push_back(static_cast<uint8_t>(14 * i));
  const std::string bytes = png_of(picture);
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  ASSERT_TRUE(png_image_begin_read_from_memory(&image, bytes.data(), bytes.size()));
  EXPECT_EQ(image.width, 3u);
  EXPECT_EQ(image.height, 2u);
  EXPECT_EQ(image.format, PNG_FORMAT_RGB);
  std::vector<uint8_t> read(PNG_IMAGE_SIZE(image));
  ASSERT_TRUE(png_image_finish_read(&image, nullptr, read.data(), 0, nullptr));
  EXPECT_EQ(read, picture.rgb);
  picture.rgb.pop_back();
  EXPECT_THROW(png_of(picture), Error);
}

}  // namespace
}  // namespace stipple::trainer
