#include "program/model_file.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "hash/sha256.h"
#include "program/json.h"

namespace ek {
namespace {

constexpr size_t kMostPrograms = 64;  // as artifact/buckets.py

struct Variant {
  std::string blob;
  int64_t blob_bytes = 0;
};

/// What the manifest says of running.
struct Manifest {
  std::vector<std::string> inputs, outputs, modes, hosts;
  std::vector<SizedDimension> dimensions;
  std::vector<Variant> variants;
};

template <typename T, typename Read>
bool read_all(JsonReader& json, std::vector<T>* items, Read&& read) {
  return json.read_array([&] {
    T item{};
    if (!read(&item)) return false;
    items->push_back(std::move(item));
    return true;
  });
}

/// [[name, tensor id], ...]
bool read_names(JsonReader& json, std::vector<std::string>* names) {
  return read_all(json, names, [&](std::string* name) {
    int place = 0;
    return json.read_array([&] { return place++ == 0 ? json.read(name) : json.skip(); });
  });
}

bool read_dimension(JsonReader& json, SizedDimension* dimension) {
  return json.read_object([&](const std::string& member) {
    if (member == "name") return json.read(&dimension->name);
    if (member == "rows") return json.read(&dimension->rows);
    if (member != "sizes") return json.skip();
    return read_all(json, &dimension->sizes, [&](int64_t* size) { return json.read(size); });
  });
}

bool read_variant(JsonReader& json, Variant* variant) {
  return json.read_object([&](const std::string& member) {
    if (member == "blob") return json.read(&variant->blob);
    if (member == "blob_bytes") return json.read(&variant->blob_bytes);
    return json.skip();
  });
}

/// "'name' (operators: reason)"
bool read_host(JsonReader& json, std::string* told) {
  std::string name, reason, operators;
  if (!json.read_object([&](const std::string& member) {
        if (member == "name") return json.read(&name);
        if (member == "reason") return json.read(&reason);
        if (member != "operators") return json.skip();
        return json.read_array([&] {
          std::string one;
          if (!json.read(&one)) return false;
          operators += (operators.empty() ? "" : ", ") + one;
          return true;
        });
      })) {
    return false;
  }
  *told = "'" + name + "' (" + operators + ": " + reason + ")";
  return true;
}

bool read_manifest(const std::string& text, Manifest* manifest) {
  JsonReader json(text);
  return json.read_object([&](const std::string& member) {
    if (member == "inputs") return read_names(json, &manifest->inputs);
    if (member == "outputs") return read_names(json, &manifest->outputs);
    if (member == "modes") return read_all(json, &manifest->modes, [&](std::string* name) { return json.read(name); });
    if (member == "host_steps") {
      return read_all(json, &manifest->hosts, [&](std::string* told) { return read_host(json, told); });
    }
    if (member == "variants") {
      return read_all(json, &manifest->variants, [&](Variant* variant) { return read_variant(json, variant); });
    }
    if (member != "buckets") return json.skip();
    if (json.read_null()) return true;
    return json.read_object([&](const std::string& field) {
      if (field != "dimensions") return json.skip();
      return read_all(json, &manifest->dimensions,
                      [&](SizedDimension* dimension) { return read_dimension(json, dimension); });
    });
  });
}

/// The header's string of that name; empty where it has none.
bool find_metadata(const ContainerView& view, const std::string& wanted, std::string* value) {
  JsonReader json(reinterpret_cast<const char*>(view.data) - view.start + 8, view.start - 8);
  bool sound = false;
  json.read_object([&](const std::string&) {  // its first member is __metadata__: open_container() has looked
    sound = json.read_object([&](const std::string& name) { return name == wanted ? json.read(value) : json.skip(); });
    return false;
  });
  return sound;
}

/// Whether sizes and modes are such as a file has, one program each.
bool is_sound(const Manifest& manifest, const ProgramIndex& index) {
  size_t programs = std::max<size_t>(manifest.modes.size(), 1);
  std::set<std::string> modes(manifest.modes.begin(), manifest.modes.end()), dimensions;
  for (const SizedDimension& one : manifest.dimensions) {
    const std::vector<int64_t>& sizes = one.sizes;
    const bool ascending = std::adjacent_find(sizes.begin(), sizes.end(), std::greater_equal<>()) == sizes.end();
    if (sizes.empty() || sizes.size() > kMostPrograms || sizes.front() < 1 || !ascending) return false;
    programs *= sizes.size();
    if (programs > kMostPrograms) return false;
    dimensions.insert(one.name);
  }
  return programs <= kMostPrograms && manifest.variants.size() + 1 == programs && manifest.modes.size() != 1 &&
         modes.size() == manifest.modes.size() && dimensions.size() == manifest.dimensions.size() &&
         manifest.inputs.size() == index.inputs.size() && manifest.outputs.size() == index.outputs.size();
}

uint32_t u32(const uint8_t* bytes) {
  return uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 | uint32_t{bytes[3]} << 24;
}

/// The encoded index that a blob tells of, as artifact/variants.py writes it; empty where it is not.
std::string told_index(const ProgramIndex& first, const uint8_t* blob, size_t bytes) {
  if (bytes == 0 || blob[0] > 1) return {};
  if (blob[0] == 0) return {reinterpret_cast<const char*>(blob) + 1, bytes - 1};
  ProgramIndex bare = first;
  bare.blobs.clear();
  bare.header_sha256 = {};
  std::string found = encode(bare);
  size_t at = 0;
  for (size_t read = 1; read < bytes;) {
    if (bytes - read < 8) return {};
    const size_t same = u32(blob + read), count = u32(blob + read + 4);
    read += 8;
    if (count > bytes - read || same > found.size() - at || count > found.size() - at - same) return {};
    at += same;
    std::memcpy(&found[at], blob + read, count);
    read += count, at += count;
  }
  return found;
}

/// Another program of the file, told by its difference from `first`; what is wrong, or nothing.
std::string read_variant_index(const ContainerView& view, const ProgramIndex& first, const Variant& variant,
                               ProgramIndex* index) {
  const std::vector<BlobDef>& blobs = view.index.blobs;
  const auto blob = std::find_if(blobs.begin(), blobs.end(), [&](const BlobDef& b) { return b.name == variant.blob; });
  if (blob == blobs.end() || variant.blob_bytes < 0 || static_cast<uint64_t>(variant.blob_bytes) > blob->bytes) {
    return "its manifest does not fit its index";
  }
  const uint8_t* const bytes = view.data + blob->offset;
  if (sha256(bytes, static_cast<size_t>(blob->bytes)) != blob->sha256) {
    return "blob '" + blob->name + "' does not match its sha256";
  }
  const std::string told = told_index(first, bytes, static_cast<size_t>(variant.blob_bytes));
  const Status decoded = decode(reinterpret_cast<const uint8_t*>(told.data()), told.size(), index);
  if (!decoded.ok()) return "blob '" + blob->name + "': " + decoded.message();
  if (!index->blobs.empty() || index->producer != first.producer) {
    return "blob '" + blob->name + "' is not the index of another size or mode";
  }
  index->blobs = first.blobs;
  index->header_sha256 = first.header_sha256;
  return validate(*index, view.data_bytes).message();
}

/// Whether two programs take, or give, the same; of two modes, in the same shapes.
bool same_border(const ProgramIndex& a, const ProgramIndex& b, std::vector<uint32_t> ProgramIndex::*side,
                 bool same_shapes) {
  const std::vector<uint32_t>&mine = a.*side, &others = b.*side;
  return std::equal(mine.begin(), mine.end(), others.begin(), others.end(), [&](uint32_t x, uint32_t y) {
    const TensorDef &s = a.tensors[x], &t = b.tensors[y];
    return s.dtype == t.dtype && std::memcmp(&s.scale, &t.scale, sizeof s.scale) == 0 && s.zero_point == t.zero_point &&
           s.shape.size() == t.shape.size() && (!same_shapes || s.shape == t.shape);
  });
}

std::string read_programs(const ContainerView& view, const Manifest& manifest, size_t sizes, ModelFile* model) {
  model->programs.push_back(view.index);
  for (size_t number = 1; number <= manifest.variants.size(); ++number) {
    const size_t size = number % sizes;
    const ProgramIndex& first = model->programs[size == 0 ? 0 : number - size];
    ProgramIndex other;
    std::string wrong = read_variant_index(view, first, manifest.variants[number - 1], &other);
    if (!wrong.empty()) return wrong;
    const ProgramIndex& beside = model->programs[number < sizes ? 0 : size];
    for (const auto side : {&ProgramIndex::inputs, &ProgramIndex::outputs}) {
      if (!same_border(beside, other, side, number >= sizes)) {
        return "'" + manifest.variants[number - 1].blob + "' has other inputs or outputs than the first";
      }
    }
    model->programs.push_back(std::move(other));
  }
  return {};
}

std::vector<std::string> tensor_names(const ProgramIndex& index, const std::vector<uint32_t>& ids) {
  std::vector<std::string> names;
  for (const uint32_t id : ids) names.push_back(index.tensors[id].name);
  return names;
}

Status refuse_hosts(const std::string& source, const std::vector<std::string>& hosts) {
  std::string told;
  for (const std::string& host : hosts) told += (told.empty() ? ": " : "; ") + host;
  return {Code::kValue, source + " has host steps, which Python's InferenceSession runs" + told +
                            "; compile the model with allow_host=False to see which nodes they are"};
}

}  // namespace

Status read_model(const uint8_t* file, size_t size, const std::string& source, Verify verify, ModelFile* model) {
  ContainerView view;
  EK_RETURN_IF_ERROR(open_container(file, size, source, verify, &view));
  const auto corrupt = [&](const std::string& fact) {
    return Status(Code::kCorrupt, "artifact: " + source + " is not a sound .ekm file: " + fact +
                                      "; write it again with Program.save, or copy it again");
  };
  std::string text;
  if (!find_metadata(view, "ekm.manifest", &text)) return corrupt("its header is not the JSON that edgekern writes");
  Manifest manifest;
  if (text.empty()) {
    manifest.inputs = tensor_names(view.index, view.index.inputs);
    manifest.outputs = tensor_names(view.index, view.index.outputs);
  } else if (!read_manifest(text, &manifest) || !is_sound(manifest, view.index)) {
    return corrupt("its manifest does not fit its index");
  }
  const size_t sizes = (manifest.variants.size() + 1) / std::max<size_t>(manifest.modes.size(), 1);
  const std::string wrong = read_programs(view, manifest, sizes, model);
  if (!wrong.empty()) return corrupt(wrong);
  const bool host = std::any_of(model->programs.begin(), model->programs.end(), needs_host);
  if (host || !manifest.hosts.empty()) return refuse_hosts(source, manifest.hosts);
  model->modes = std::move(manifest.modes);
  model->dimensions = std::move(manifest.dimensions);
  model->input_names = std::move(manifest.inputs);
  model->output_names = std::move(manifest.outputs);
  model->data = view.data;
  model->data_bytes = view.data_bytes;
  return {};
}

}  // namespace ek
