// inspect EXPORT/model.xml THRESHOLD IMAGE.ppm...: score and decision of each image, and where its map is highest.
// Images are binary PPM at the inspected size, which is the size of the graph's input.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  size_t width = 0, height = 0;
  std::vector<unsigned char> rgb;  // rows of RGB pixels
};

Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  Picture picture;
  int largest = 0;
  if (!(file >> magic >> picture.width >> picture.height >> largest) || magic != "P6" || largest != 255)
    throw std::runtime_error(path + ": is no binary PPM of 8 bits");
  file.get();  // the one blank before the pixels
  picture.rgb.resize(3 * picture.width * picture.height);
  if (!file.read(reinterpret_cast<char*>(picture.rgb.data()), static_cast<std::streamsize>(picture.rgb.size())))
    throw std::runtime_error(path + ": is cut off");
  return picture;
}

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: inspect EXPORT/model.xml THRESHOLD IMAGE.ppm...\n";
    return 2;
  }
  try {
    ov::Core core;
    auto model = core.read_model(argv[1]);
    const auto sides = model->input("image").get_partial_shape();  // batch x 3 x height x width, the batch being free
    const auto height = static_cast<size_t>(sides[2].get_length()), width = static_cast<size_t>(sides[3].get_length());
    // without the hint some processors compute in bfloat16, and scores no longer fit the threshold
    auto compiled = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32));
    ov::InferRequest request = compiled.create_infer_request();
    for (int i = 3; i < argc; ++i) {
      const Picture picture = read_ppm(argv[i]);
      if (picture.width != width || picture.height != height)
        throw std::runtime_error(std::string(argv[i]) + ": the graph inspects " + std::to_string(width) + "x" +
                                 std::to_string(height) + " pixels");
      ov::Tensor image(ov::element::f32, {1, 3, height, width});
      float* planes = image.data<float>();  // three planes of 0..255; the graph normalises
      for (size_t pixel = 0; pixel < width * height; ++pixel)
        for (size_t channel = 0; channel < 3; ++channel)
          planes[channel * width * height + pixel] = picture.rgb[3 * pixel + channel];
      request.set_tensor("image", image);
      request.infer();
      const float score = request.get_tensor("score").data<float>()[0];
      const float* map = request.get_tensor("map").data<float>();
      const auto peak = static_cast<size_t>(std::max_element(map, map + width * height) - map);
      std::cout << argv[i] << (score > std::atof(argv[2]) ? " rejected " : " accepted ") << score << " at "
                << peak % width << "," << peak / width << "\n";
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
  return 0;
}
