// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/png.h"

#include <png.h>

#include "core/error.h"

namespace stipple::trainer {

std::string png_of(const data::Picture& picture) {
  STIPPLE_CHECK(static_cast<int64_t>(picture.rgb.size()) == 3 * picture.width * picture.height,
                "png: ", picture.rgb.size(), " values for ", picture.width, " x ", picture.height,
                " pixels");
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  constexpr int kAsTheyAre = 0, kRowsFollow = 0;
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = bytes.size();
  STIPPLE_CHECK(png_image_write_to_memory(&image, bytes.data(), &size, kAsTheyAre,
                                          picture.rgb.data(), kRowsFollow, nullptr) != 0,
                "png: ", image.message);
  bytes.resize(size);
  return bytes;
}

}  // namespace stipple::trainer
