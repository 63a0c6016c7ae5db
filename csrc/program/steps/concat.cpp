// Pieces side by side: row by row, `bytes[i]` of input i.
#include <utility>

#include "base/checked.h"
#include "elementwise/elementwise.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

struct Concat : NoMacs {
  size_t rows = 0;
  std::vector<size_t> bytes;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("rows", rows);
    a.list("bytes", bytes);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, bytes.size(), 0)) return bad_step(step, "wrong number of arguments");
    size_t row = 0, whole = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
      size_t piece = 0;
      if (input(index, step, i).dtype != output(index, step).dtype) return bad_step(step, "pieces of several types");
      if (!checked_mul(rows, bytes[i], &piece) || bytes_of(input(index, step, i)) != piece ||
          !checked_add(row, bytes[i], &row)) {
        return bad_step(step, "pieces do not match its tensors");
      }
    }
    const bool fits = checked_mul(rows, row, &whole) && bytes_of(output(index, step)) == whole;
    return fits ? Status() : bad_step(step, "pieces do not fill its output");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    std::vector<const uint8_t*> pieces;
    for (const uint32_t id : step.in) pieces.push_back(site.bytes(id));
    const Runtime& rt = site.runtime();
    return {"move", [&rt, pieces = std::move(pieces), bytes = bytes, rows = rows, y = site.bytes(step.out[0])] {
              concat_rows(rt, pieces.data(), bytes.data(), pieces.size(), rows, y);
            }};
  }
};

}  // namespace

StepType concat_step() { return step_type<Concat>(StepKind::kConcat, "CONCAT"); }

}  // namespace ek
