// JPEG by libjpeg-turbo, whose errors end in an exception here.
#include <memory>
#include <stdexcept>

#include "picture.h"

// clang-format off: jpeglib.h wants FILE
#include <jpeglib.h>

#include <cstdio>
// clang-format on

namespace {

[[noreturn]] void raise(j_common_ptr decoder) {
  char message[JMSG_LENGTH_MAX];
  decoder->err->format_message(decoder, message);
  throw std::runtime_error(message);
}

struct Decoder {
  jpeg_error_mgr errors{};
  jpeg_decompress_struct state{};

  Decoder() {
    state.err = jpeg_std_error(&errors);
    errors.error_exit = raise;
    errors.emit_message = [](j_common_ptr decoder, int level) {
      if (level < 0) raise(decoder);  // a warning: damaged data
    };
    jpeg_create_decompress(&state);
  }
  ~Decoder() { jpeg_destroy_decompress(&state); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
};

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

Picture read_jpeg(const std::string& path) try {
  const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rb"));
  if (!file) throw std::runtime_error("it cannot be opened");
  Decoder decoder;
  jpeg_decompress_struct& state = decoder.state;
  jpeg_stdio_src(&state, file.get());
  jpeg_read_header(&state, TRUE);
  state.out_color_space = JCS_RGB;
  jpeg_start_decompress(&state);
  Picture picture{state.output_width, state.output_height, {}};
  picture.rgb.resize(picture.width * picture.height * 3);
  while (state.output_scanline < state.output_height) {
    JSAMPROW row = picture.rgb.data() + std::size_t{state.output_scanline} * picture.width * 3;
    jpeg_read_scanlines(&state, &row, 1);
  }
  jpeg_finish_decompress(&state);
  return picture;
} catch (const std::runtime_error& error) {
  throw std::runtime_error("'" + path + "': " + error.what());
}
