// Items put where indices of another tensor say, in the order of the indices: of two in one place the later one wins,
// or is joined with what the first has left. An index that leaves its axis is not followed.
#include <cstring>

#include "elementwise/item.h"
#include "elementwise/moves.h"

namespace ek {
namespace {

struct Add {
  template <typename T>
  T operator()(T a, T b) const {
    return a + b;
  }
  int64_t operator()(int64_t a, int64_t b) const {
    return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
  }
  int32_t operator()(int32_t a, int32_t b) const {
    return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
  }
};

struct Multiply {
  template <typename T>
  T operator()(T a, T b) const {
    return a * b;
  }
  int64_t operator()(int64_t a, int64_t b) const {
    return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
  }
  int32_t operator()(int32_t a, int32_t b) const {
    return static_cast<int32_t>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
  }
};

/// A NaN on either side stays, as MAP has it.
struct Smaller {
  template <typename T>
  T operator()(T a, T b) const {
    return a != a || a < b ? a : b;
  }
};

struct Larger {
  template <typename T>
  T operator()(T a, T b) const {
    return a != a || a > b ? a : b;
  }
};

/// Joins so many bytes of items of T with what is there.
template <typename T, typename Op>
struct Join {
  size_t bytes;

  void operator()(uint8_t* to, const uint8_t* from) const {
    for (size_t at = 0; at < bytes; at += sizeof(T)) {
      T a, b;
      std::memcpy(&a, to + at, sizeof a);
      std::memcpy(&b, from + at, sizeof b);
      a = Op()(a, b);
      std::memcpy(to + at, &a, sizeof a);
    }
  }
};

template <typename Op, typename Body>
void with_type(MapType type, size_t bytes, Body&& body) {
  if (type == MapType::kF32) return body(Join<float, Op>{bytes});
  if (type == MapType::kI64) return body(Join<int64_t, Op>{bytes});
  body(Join<int32_t, Op>{bytes});
}

/// body(what puts so many bytes in their place).
template <typename Body>
void with_put(Scatter how, MapType type, size_t bytes, Body&& body) {
  switch (how) {
    case Scatter::kAdd:
      return with_type<Add>(type, bytes, body);
    case Scatter::kMultiply:
      return with_type<Multiply>(type, bytes, body);
    case Scatter::kMin:
      return with_type<Smaller>(type, bytes, body);
    case Scatter::kMax:
      return with_type<Larger>(type, bytes, body);
    case Scatter::kPut:
      return with_block(bytes,
                        [&](auto block) { body([block](uint8_t* to, const uint8_t* from) { block.copy(to, from); }); });
  }
}

}  // namespace

size_t scatter_elements(const ScatterElementsArgs& args) {
  const MoveShape& shape = args.shape;
  const size_t side = shape[kMoveAxes - 1], step = args.y_step[kMoveAxes - 1], item = args.item;
  size_t lines = 1, outside = kAllInside;
  for (size_t axis = 0; axis + 1 < kMoveAxes; ++axis) lines *= shape[axis];
  with_put(args.how, args.type, item, [&](auto put) {
    for (size_t line = 0; line < lines; ++line) {
      size_t to = 0, rest = line;
      for (size_t axis = kMoveAxes - 1; axis-- > 0 && rest != 0; rest /= shape[axis]) {
        to += rest % shape[axis] * args.y_step[axis];
      }
      for (size_t i = line * side; i < (line + 1) * side; ++i, to += step) {
        const size_t place = place_of(args.index[i], args.n);
        if (place < args.n) {
          put(args.y + (to + place * args.axis_step) * item, args.updates + i * item);
        } else if (outside == kAllInside) {
          outside = i;
        }
      }
    }
  });
  return outside;
}

size_t scatter_nd(const ScatterNdArgs& args) {
  size_t outside = kAllInside;
  with_put(args.how, args.type, args.slice, [&](auto put) {
    for (size_t i = 0; i < args.count; ++i) {
      size_t at = 0, k = 0;
      for (; k < args.depth; ++k) {
        const size_t place = place_of(args.index[i * args.depth + k], args.sides[k]);
        if (place >= args.sides[k]) break;
        at = at * args.sides[k] + place;
      }
      if (k == args.depth) {
        put(args.y + at * args.slice, args.updates + i * args.slice);
      } else if (outside == kAllInside) {
        outside = i * args.depth + k;
      }
    }
  });
  return outside;
}

}  // namespace ek
